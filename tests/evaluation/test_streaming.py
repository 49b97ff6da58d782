import warnings

import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.evaluation.streaming import Rows, as_tensor, blocks, gram, moments

X = np.random.default_rng(0).normal(size=(23, 4)) * [1, 10, 1e-3, 0] + [0, 5, 1e4, 7]
SIZES = pytest.mark.parametrize("rows", [1, 7, 23, 1000])


@pytest.fixture(autouse=True)
def block_rows(request, monkeypatch):
    if "rows" in request.fixturenames:
        monkeypatch.setattr("jepakit.evaluation.streaming.BLOCK_NUMBERS", 4 * request.getfixturevalue("rows"))


@SIZES
def test_moments_are_those_of_the_whole_also_far_from_zero(rows):
    mean, variance = moments(torch.from_numpy(X))
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-14)
    np.testing.assert_allclose(variance, X.var(0), rtol=1e-9, atol=1e-20)
    assert mean.dtype == torch.float64
    single = X.astype(np.float32)
    np.testing.assert_allclose(moments(torch.from_numpy(single))[1], single.astype(np.float64).var(0), rtol=1e-9, atol=1e-20)


@SIZES
def test_the_gram_matrix_and_rows_made_on_the_way(rows):
    doubled = Rows(torch.from_numpy(X.astype(np.float32)), lambda part: part.double() * 2)
    np.testing.assert_allclose(gram(doubled), 4 * (X.astype(np.float32).astype(np.float64).T @ X.astype(np.float32)), rtol=1e-6)
    assert doubled.shape == (23, 4)
    assert torch.equal(doubled[torch.tensor([3, 1])], doubled[:][[3, 1]])
    parts = list(blocks(doubled, torch.arange(23)))
    assert [len(part) for part, _ in parts] == [min(rows, 23 - start) for start in range(0, 23, rows)]
    assert torch.cat([numbers for _, numbers in parts]).tolist() == list(range(23))
    assert torch.equal(Rows(doubled, lambda part: part + 1)[5:7], doubled[5:7] + 1)


def test_rows_that_grow_count_as_large_as_they_become(monkeypatch):
    monkeypatch.setattr("jepakit.evaluation.streaming.BLOCK_NUMBERS", 40)
    tokens = Rows(torch.arange(6), lambda part: torch.ones(len(part), 5, 4).flatten(0, 1))
    assert [len(part) for (part,) in blocks(tokens)] == [10, 10, 10]
    assert float(gram(tokens)[0, 0]) == 30


def test_arrays_are_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    for mode in ("r", "c", "r+"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert as_tensor(mapped).data_ptr() == mapped.ctypes.data
    swapped = X.astype(">f8")
    np.testing.assert_array_equal(as_tensor(swapped), X)
    np.testing.assert_array_equal(as_tensor(X[::-1, ::2]), X[::-1, ::2])
    with pytest.raises(UserError, match="x: expected numbers"):
        as_tensor(np.array(["a"]), "x")
