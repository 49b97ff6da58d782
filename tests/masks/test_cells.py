"""Cells to ids: both forms against what the words say, written as a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jepakit.masks import cells as module
from jepakit.masks.cells import _ids_in_c, _library, cells_to_ids, plain_ids

GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40)).flatmap(lambda shape: arrays(bool, shape))


def _one_by_one(row: np.ndarray, frames: int) -> list[int]:
    return [frame * len(row) + cell for frame in range(frames) for cell in range(len(row)) if row[cell]]


@given(cells=GRIDS, frames=st.integers(1, 3))
def test_ids_are_the_chosen_cells_of_every_frame_in_order(cells, frames):
    ids, lengths = cells_to_ids(cells, frames)
    assert ids.shape[-1] == frames * max(1, int(np.count_nonzero(cells, axis=-1).max()))
    for index in np.ndindex(cells.shape[:-1]):
        expected = _one_by_one(cells[index], frames)
        assert lengths[index] == len(expected)
        assert ids[index][: len(expected)].tolist() == expected
        assert not ids[index][len(expected) :].any()  # padded with an id that exists


@given(cells=GRIDS, frames=st.integers(1, 3))
def test_the_compiled_form_gives_what_the_plain_one_gives(cells, frames):
    if _library() is None:
        pytest.skip("no C compiler")
    lengths = np.count_nonzero(cells, axis=-1)
    assert np.array_equal(_ids_in_c(_library(), cells, lengths, frames), plain_ids(cells, lengths, frames))


def test_cells_that_do_not_lie_in_one_piece_are_read_rightly():
    cells = np.arange(24).reshape(2, 3, 4).transpose(0, 2, 1) % 5 == 0
    assert np.array_equal(cells_to_ids(cells, 2)[0], cells_to_ids(cells.copy(), 2)[0])


def test_without_a_compiler_the_plain_form_runs(monkeypatch):
    cells = np.random.default_rng(0).random((3, 2, 50)) < 0.3
    expected = cells_to_ids(cells, 4)[0]
    monkeypatch.setattr(module, "_library", lambda: None)
    assert np.array_equal(cells_to_ids(cells, 4)[0], expected)
