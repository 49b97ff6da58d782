from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.modalities.splits import check_groups, grouped_split, held_out, limited, random_split, stratified_split

FRACTIONS = st.floats(0.0, 0.99)
SEEDS = st.integers(0, 100)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(1, 200), FRACTIONS, SEEDS)
def test_random_split(count, fraction, seed):
    test = random_split(count, fraction, generator(seed))
    assert len(test) == count
    assert not test.all()
    if fraction > 0 and count > 1:
        assert test.any()
        assert abs(test.sum() - fraction * count) <= 1
    np.testing.assert_array_equal(test, random_split(count, fraction, generator(seed)))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), FRACTIONS, SEEDS)
def test_stratified_split(classes, fraction, seed):
    classes = np.array(classes)
    test = stratified_split(classes, fraction, generator(seed))
    for name in np.unique(classes):
        held_out, members = test[classes == name].sum(), (classes == name).sum()
        assert held_out < members
        assert abs(held_out - fraction * members) <= 1
    if fraction == 0:
        assert not test.any()
    capped = np.minimum(np.bincount(classes) - 1, np.ceil(fraction * np.bincount(classes))).clip(0).sum()
    assert test.sum() == min(round(fraction * len(classes)), capped)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=200), st.floats(0.01, 0.99), SEEDS)
def test_groups_are_never_split(groups, fraction, seed):
    groups = [f"patient {group}" for group in groups]
    if len(set(groups)) < 2:
        with pytest.raises(UserError, match="single group"):
            grouped_split(groups, fraction, generator(seed))
        return
    test = grouped_split(groups, fraction, generator(seed))
    check_groups(groups, test)
    assert test.any()
    assert not test.all()


def test_many_groups_come_close_to_the_fraction():
    groups = [str(index // 7) for index in range(1000)]
    for seed in range(10):
        assert abs(grouped_split(groups, 0.2, generator(seed)).mean() - 0.2) < 0.01


def test_a_group_on_both_sides_is_named():
    with pytest.raises(UserError, match="anna"):
        check_groups(["anna", "ben", "anna"], np.array([True, False, False]))


def test_the_test_set_is_of_whole_groups_else_by_class_else_any():
    classes, groups = np.repeat([0, 1], [10, 30]), [str(index // 4) for index in range(40)]
    assert np.bincount(classes[held_out(40, 0.2, classes=classes)]).tolist() == [2, 6]
    test = held_out(40, 0.2, classes=classes, groups=groups)
    assert {group for group, out in zip(groups, test, strict=True) if out}.isdisjoint(
        {group for group, out in zip(groups, test, strict=True) if not out}
    )
    assert held_out(40, 0.2).sum() == 8
    assert (held_out(40, 0.2) == held_out(40, 0.2)).all()


def test_a_limit_draws_with_the_seed_and_keeps_the_order():
    ids = np.arange(100, 150)
    assert limited(ids, None, 0) is ids
    assert limited(ids, 50, 0) is ids
    few = limited(ids, 10, 3)
    assert (few == np.sort(few)).all()
    assert len(set(few) & set(ids)) == 10
    assert (few == limited(ids, 10, 3)).all()
    assert (few != limited(ids, 10, 4)).any()
