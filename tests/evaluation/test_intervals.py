import numpy as np
import pytest
import scipy.stats

from jepakit.errors import UserError
from jepakit.evaluation.intervals import (
    bootstrap,
    grouped_weights,
    interval_of,
    over_draws,
    paired_difference,
    resample_weights,
    wilson,
)
from jepakit.evaluation.metrics import METRICS

ACCURACY, MAE = METRICS["accuracy"], METRICS["mae"]


def scores_of(right):
    """Two-class scores that are right where `right` is true, for the target 0."""
    return np.stack([np.where(right, 1.0, 0.0), np.where(right, 0.0, 1.0)], axis=1)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (7, 10), (480, 597)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(right, n, level):
    expected = scipy.stats.binomtest(right, n).proportion_ci(level, method="wilson")
    found = wilson(right, n, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == right / n
    assert found.low <= found.value <= found.high


def test_wilson_rejects_what_is_no_proportion():
    with pytest.raises(UserError, match="12 right of 10"):
        wilson(12, 10)


def test_resamples_are_multinomial_counts_in_chunks():
    chunks = list(resample_weights(100_000, 100, seed=0))
    assert len(chunks) > 1
    weights = np.concatenate(chunks)
    assert weights.shape == (100, 100_000)
    np.testing.assert_array_equal(weights.sum(axis=1), 100_000)
    assert weights.var() == pytest.approx(1, rel=0.01)  # of a multinomial with mean 1


def test_bootstrap_agrees_with_the_theory_and_with_scipy():
    generator = np.random.default_rng(0)
    target, scores = np.zeros(400), generator.exponential(size=400)
    found = bootstrap(MAE, scores, target, resamples=4000)
    spread = scores.std() / np.sqrt(400)
    assert found.value == pytest.approx(scores.mean())
    assert (found.high - found.low) / (2 * 1.96 * spread) == pytest.approx(1, rel=0.06)
    expected = scipy.stats.bootstrap(
        (scores,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.1 * spread * 2)


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = bootstrap(MAE, generator.normal(size=100) + 5, np.zeros(100), seed=trial, resamples=300)
        covered += found.low <= 5 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_seed_decides():
    scores, target = np.random.default_rng(0).normal(size=50), np.zeros(50)
    assert bootstrap(MAE, scores, target, seed=1) == bootstrap(MAE, scores, target, seed=1)
    assert bootstrap(MAE, scores, target, seed=1) != bootstrap(MAE, scores, target, seed=2)


def test_a_paired_difference_is_narrower_than_two_intervals():
    generator = np.random.default_rng(0)
    hard = generator.random(1000) < 0.3  # both miss these
    first, second = scores_of(~hard), scores_of(~hard & (generator.random(1000) > 0.03))
    target = np.zeros(1000, dtype=int)
    found = paired_difference(ACCURACY, first, second, target)
    one, other = (bootstrap(ACCURACY, s, target) for s in (first, second))
    assert found.value == pytest.approx(one.value - other.value)
    assert 0 < found.low < found.value < found.high  # the difference is real ...
    assert other.high > one.low  # ... though the two intervals overlap
    swapped = paired_difference(ACCURACY, second, first, target)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_the_same_scores_do_not_differ():
    scores = scores_of(np.arange(50) % 3 > 0)
    found = paired_difference(ACCURACY, scores, scores, np.zeros(50, dtype=int))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_over_draws_is_mean_and_sample_deviation():
    found = over_draws(np.array([0.7, 0.8, 0.9]))
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.7, 0.9))
    assert found.how == "mean ± sd over 3 draws"


def test_accuracy_gets_wilson_and_the_rest_the_bootstrap():
    scores, target = scores_of(np.arange(40) % 4 > 0), np.arange(40) % 2
    assert interval_of(ACCURACY, scores, target, seed=0).how == "95% Wilson over test samples"
    assert interval_of(MAE, scores[:, 0], target.astype(float), seed=0).how == "95% bootstrap over test samples"


def test_groups_are_drawn_whole():
    groups = np.array([3, 3, 7, 7, 7, 9])
    weights = grouped_weights(groups, resamples=200, seed=1)
    assert weights.shape == (200, 6)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 5]].sum(1) == 3).all()
    assert (grouped_weights(groups, resamples=200, seed=1) == weights).all()
