from __future__ import annotations

import pytest

import jepakit
from jepakit.errors import UserError
from jepakit.registry import DATASETS, EVALUATORS, SIZES, SYSTEMS


def test_each_kind_lists_the_registry():
    assert jepakit.list("systems") == {name: entry.about for name, entry in SYSTEMS.items()} == jepakit.list()
    assert jepakit.list("datasets") == DATASETS
    assert jepakit.list("evaluators") == {name: entry.about for name, entry in EVALUATORS.items()}
    assert jepakit.list("sizes").keys() == SIZES.keys()
    assert "384 wide, 12 deep, 6 heads" in jepakit.list("sizes")["small"]


def test_a_typo_names_the_nearest():
    with pytest.raises(UserError, match=r"'datsets' is not known. Did you mean 'datasets'"):
        jepakit.list("datsets")
