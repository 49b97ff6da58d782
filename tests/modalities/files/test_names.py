from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepakit.modalities.files.mapped import MappedArray
from jepakit.modalities.files.names import Names

STRINGS = st.lists(st.text(max_size=8), max_size=20)


@given(STRINGS, st.text(max_size=3), st.data())
def test_names_are_a_list_of_strings(strings, prefix, data):
    names, expected = Names.of(strings, prefix), [prefix + string for string in strings]
    assert (len(names), list(names), names == expected) == (len(expected), expected, True)
    rows = data.draw(st.lists(st.integers(0, len(strings) - 1), max_size=8)) if strings else []
    taken = names.take(rows)
    assert taken == [expected[row] for row in rows]
    assert taken[1:] == [expected[row] for row in rows][1:]
    assert pickle.loads(pickle.dumps(taken)) == taken
    assert names.under("/") == ["/" + string for string in strings]


def test_names_are_indexed_as_lists_are_and_keep_any_bytes():
    odd = b"caf\xe9".decode(errors="surrogateescape")  # a file name in Latin-1
    names = Names.of(["a", odd])
    assert (names[-1], names[0]) == (odd, "a")
    for index in (2, -3):
        with pytest.raises(IndexError):
            names[index]
    assert names != ["a"]
    assert names != "a"


def test_a_mapped_copy_is_opened_anew_after_pickling(tmp_path):
    names = Names.of(f"picture {number}" for number in range(10_000))
    np.save(tmp_path / "text.npy", names.text)
    np.save(tmp_path / "starts.npy", names.starts)
    mapped = Names(MappedArray(tmp_path / "text.npy"), MappedArray(tmp_path / "starts.npy"))
    assert mapped == names
    assert len(pickle.dumps(mapped)) < 1_000
    assert pickle.loads(pickle.dumps(mapped))[9_999] == "picture 9999"
