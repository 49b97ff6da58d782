"""Surprise: the area under the ROC curve in closed form, its interval, and whose window stands in for whose."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from jepakit.errors import UserError
from jepakit.evaluation.surprise import opposite, others_of, prediction_error, spread_of, surprise_auc


def test_the_area_is_scikit_learns():
    generator = np.random.default_rng(0)
    ordinary, impossible = generator.normal(size=80), generator.normal(size=80) + 0.7
    found = surprise_auc(ordinary, impossible, np.arange(80) // 4)
    expected = roc_auc_score(np.repeat([0, 1], 80), np.concatenate([ordinary, impossible]))
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert surprise_auc(ordinary, impossible, np.arange(80) // 4) == found


def test_all_nothing_and_the_same():
    low, high = np.arange(20.0), np.arange(20.0) + 100
    assert surprise_auc(low, high, np.arange(20)).value == 1
    assert surprise_auc(high, low, np.arange(20)).high == 0
    assert surprise_auc(low, low, np.arange(20)).value == 0.5


def test_numbers_that_are_none_are_refused():
    with pytest.raises(UserError, match="finite"):
        surprise_auc(np.array([0.0, np.nan]), np.zeros(2), np.arange(2))
    with pytest.raises(UserError, match="single window"):
        others_of(np.zeros(1, dtype=np.int64))


def test_another_window_is_of_another_episode_and_used_once():
    episodes = np.random.default_rng(0).integers(0, 7, 60)
    other = others_of(episodes, 3)
    assert sorted(other) == list(range(60))
    assert (episodes[other] != episodes).all()
    assert (others_of(np.zeros(5, dtype=np.int64)) != np.arange(5)).all()


def test_the_opposite_of_an_action_is_so_in_raw_units():
    mean, std = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.5])
    raw = torch.tensor([[3.0, -1.0], [0.1, 0.05]])
    turned, far = opposite((raw - mean) / std, mean, std)
    torch.testing.assert_close(turned * std + mean, -raw)
    assert far.tolist() == [True, False]


def test_errors_and_their_spread():
    assert prediction_error(torch.zeros(2, 3), torch.ones(2, 3)).tolist() == [3, 3]
    assert spread_of(np.arange(101.0), 10.0) == pytest.approx([0.5, 2.5, 5, 7.5, 9.5])
