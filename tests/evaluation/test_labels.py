import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.evaluation.labels import folds_of, held_out, infer_task, low_shot_draws, read_targets

CODES = st.lists(st.integers(0, 4), min_size=10, max_size=60).map(
    lambda codes: np.unique(codes, return_inverse=True)[1]
)


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([0, 1, 2], "classification"),
        (["cat", "dog"], "classification"),
        (np.array([True, False]), "classification"),
        (torch.tensor([[3], [4]]), "classification"),
        ([0.0, 1.0], "regression"),
        (torch.rand(4), "regression"),
        (np.eye(3), "multilabel"),
        (np.eye(3) / 2, "regression"),
    ],
)
def test_the_task_is_read_from_the_labels(labels, task):
    assert infer_task(labels) == task


def test_classes_of_any_name_become_codes():
    targets = read_targets(["dog", "cat", "dog", "ant"], ["cat", "dog"])
    assert targets.classes == ("ant", "cat", "dog")
    np.testing.assert_array_equal(targets.train, [2, 1, 2, 0])
    np.testing.assert_array_equal(targets.test, [1, 2])
    assert read_targets(torch.tensor([10, 30, 20]), np.array([30])).test.tolist() == [2]


@pytest.mark.parametrize(
    ("train", "test", "task", "words"),
    [
        ([0, 1], [0, 5, 7], None, "2 classes of the test part never occur in the train part: 5, 7"),
        ([1, 1], [1], None, "at least two classes"),
        ([0.5, np.nan], [1.0], None, "train labels: 1 of 2 are NaN"),
        ([0.5, 0.1], [np.inf, 0.2], None, "test labels: 1 of 2 are NaN"),
        ([0.5, 0.5], [0.1, 0.2], None, "all labels of a part are equal"),
        (["a", "b"], ["a", "b"], "regression", "needs numbers"),
        (np.eye(2), np.eye(2), "classification", r"shape \[2, 2\]"),
        (np.eye(2) * 2, np.eye(2), None, "0 and 1; train labels hold 0.0, 2.0"),
        (np.eye(3), np.eye(2), None, "3 labels in the train part but 2"),
        (np.eye(3) / 2, np.eye(2), None, r"as many numbers a sample, got \[3, 3\] and \[2, 2\]"),
        (np.array([[0.5, 1], [0.2, 1]]), np.eye(2), None, "all labels of a part are equal"),
        (np.array([[1, 0], [1, 0]]), np.eye(2), None, "columns 1 are never 1"),
        (np.eye(2), np.zeros((2, 2)), None, "no test sample has any label"),
        ([0, 1], [0, 1], "multilabel", r"matrix \[samples, labels\]"),
        ([], [1], None, "train labels are empty"),
        ([0, 1], [0, 1], "clasification", "Did you mean 'classification'"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused_with_the_reason(train, test, task, words):
    with pytest.raises(UserError, match=words):
        read_targets(train, test, task)


@given(codes=CODES, seed=st.integers(0, 100), fraction=st.floats(0.1, 0.5))
def test_a_held_out_part_keeps_the_proportion_of_each_class(codes, seed, fraction):
    held = held_out(codes, fraction, seed)
    for code in np.unique(codes):
        count = (codes == code).sum()
        assert abs(held[codes == code].sum() - fraction * count) <= 0.5 + 1e-9
    assert np.all(np.bincount(codes[~held], minlength=codes.max() + 1) > 0)  # every class can be learned


@given(codes=CODES, seed=st.integers(0, 100), folds=st.integers(2, 5))
def test_folds_are_even_for_each_class_and_in_all(codes, seed, folds):
    assigned = folds_of(codes, folds, seed)
    sizes = np.bincount(assigned, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for code in np.unique(codes):
        counts = np.bincount(assigned[codes == code], minlength=folds)
        assert counts.max() - counts.min() <= 1


@given(seed=st.integers(0, 100), shots=st.integers(1, 5))
def test_low_shot_draws_are_balanced_nested_and_different(seed, shots):
    codes = np.arange(100) % 4
    draws, more = (low_shot_draws(codes, k, 5, seed) for k in (shots, shots + 5))
    for few, many in zip(draws, more, strict=True):
        np.testing.assert_array_equal(np.bincount(codes[few]), [shots] * 4)
        assert set(few) <= set(many)
    assert len({tuple(draw) for draw in draws}) == 5
    assert [d.tolist() for d in low_shot_draws(codes, shots, 5, seed)] == [d.tolist() for d in draws]


def test_every_sample_is_drawn_equally_often():
    codes = np.arange(40) % 2
    counts = np.bincount(np.concatenate(low_shot_draws(codes, 5, 2000, 0)), minlength=40)
    assert counts.min() > 400  # expected 500 each, sd 19
    assert counts.max() < 600


def test_too_few_labels_for_the_shots_names_what_would_do():
    with pytest.raises(UserError, match=r"low-shot-5 needs 5 .* 1 classes have fewer .* low-shot-2"):
        low_shot_draws(np.array([0] * 9 + [1] * 2), 5, 5, 0)
