import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from jepakit.errors import UserError
from jepakit.evaluation.features import Features, baseline_features

ONES = np.ones((4, 3))


def test_any_kind_of_numbers_becomes_a_detached_tensor():
    assert Features("f", ONES, ONES[:2]).train.dtype == torch.float64
    assert Features("f", ONES.astype(np.uint8), ONES.astype(np.float16)).train.dtype == torch.float32
    assert Features("f", torch.ones(4, 3).bfloat16(), torch.ones(2, 3)).train.dtype == torch.float32
    assert not Features("f", torch.ones(4, 3, requires_grad=True), torch.ones(2, 3)).train.requires_grad
    assert Features("f", np.broadcast_to(1.0, (4, 3)), ONES).train.shape == (4, 3)  # read-only memory


def test_a_memory_map_is_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", ONES.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    features = Features("f", mapped, mapped[:2])
    assert (features.train.data_ptr(), features.test.data_ptr()) == (mapped.ctypes.data, mapped.ctypes.data)


def test_bad_values_are_counted_over_all_blocks(monkeypatch):
    monkeypatch.setattr("jepakit.evaluation.streaming.BLOCK_NUMBERS", 6)
    bad = np.ones((9, 3))
    bad[[0, 4, 8], 1] = np.nan, np.inf, -np.inf
    with pytest.raises(UserError, match="3 of 9 samples hold NaN"):
        Features("f", bad, ONES)


NAN = np.where(np.arange(12).reshape(4, 3) == 5, np.nan, 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((NAN, ONES), "'f', train: 1 of 4 samples hold NaN"),
        ((ONES, NAN), "'f', test: 1 of 4"),
        ((ONES, np.ones((2, 5))), r"\[samples, dim\] of one kind, got \[4, 3\] and \[2, 5\]"),
        ((np.ones(4), np.ones(2)), r"\[samples, dim\]"),
        ((ONES, ONES, np.ones((4, 2, 3))), "tokens for both"),
        ((ONES, ONES, np.ones((3, 2, 3)), np.ones((4, 2, 3))), "tokens of 3 and 4"),
        ((ONES, ONES, ONES, ONES), r"\[samples, tokens, dim\]"),
        ((np.array([["a"]]), ONES), "expected numbers"),
        ((np.ones((0, 3)), ONES), "empty"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_name(arguments, words):
    with pytest.raises(UserError, match=words):
        Features("f", *arguments)


def test_baselines_are_the_pixels_and_pca_of_the_train_part_alone():
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, 256, (n, 1, 4, 5)).astype(np.uint8) for n in (50, 10))
    pixels, pca = baseline_features(train, test)
    assert [pixels.name, pca.name] == ["pixels", "pca"]
    np.testing.assert_array_equal(pixels.test, test.reshape(10, 20))
    assert pca.train.shape == (50, 10)  # half of the pixels at most
    reference = PCA(10, svd_solver="full").fit(train.reshape(50, 20))
    np.testing.assert_allclose(
        np.abs(pca.test.numpy()), np.abs(reference.transform(test.reshape(10, 20))), rtol=1e-2, atol=0.1
    )
    other = baseline_features(train, 255 - test)[1]
    torch.testing.assert_close(other.train, pca.train)


def test_pca_keeps_what_was_asked_for_and_what_there_is():
    images = np.random.default_rng(0).random((30, 3, 8, 8))
    assert baseline_features(images, images, components=7)[1].train.shape == (30, 7)
    assert baseline_features(images, images)[1].train.shape == (30, 29)  # train samples - 1
    assert torch.equal(baseline_features(images, images, 5)[1].train, baseline_features(images, images, 5)[1].train)
