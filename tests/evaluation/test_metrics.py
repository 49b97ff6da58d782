import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from jepakit.evaluation.labels import read_targets
from jepakit.evaluation.metrics import METRICS, metrics_for

CASES = {
    "accuracy": lambda s, y, w: reference.accuracy_score(y, s.argmax(1), sample_weight=w),
    "balanced_accuracy": lambda s, y, w: reference.balanced_accuracy_score(y, s.argmax(1), sample_weight=w),
    "mean_average_precision": lambda s, y, w: reference.average_precision_score(y, s, average="macro", sample_weight=w),
    "r2": lambda s, y, w: reference.r2_score(y, s, sample_weight=w),
    "mae": lambda s, y, w: reference.mean_absolute_error(y, s, sample_weight=w),
}


def example(name, generator, n=60):
    if name in ("accuracy", "balanced_accuracy"):
        return generator.normal(size=(n, 4)), generator.permutation(np.arange(n) % 4)
    if name == "mean_average_precision":
        scores = generator.normal(size=(n, 3)).round(1)  # rounded: ties must be treated as one threshold
        return scores, (scores + generator.normal(size=(n, 3)) > 0.5).astype(float)
    target = generator.normal(size=n) + 100
    return target + generator.normal(size=n), target


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_each_metric_equals_scikit_learn_with_and_without_weights(name, seed):
    generator = np.random.default_rng(seed)
    scores, target = example(name, generator)
    weights = np.stack([np.ones(60), 1.0 + generator.integers(0, 4, 60)])
    found = METRICS[name].function(scores, target, weights)
    np.testing.assert_allclose(found, [CASES[name](scores, target, w) for w in weights], rtol=1e-9)
    assert METRICS[name](scores, target) == pytest.approx(found[0])


@pytest.mark.parametrize("name", CASES)
def test_a_weight_is_a_repetition(name):
    generator = np.random.default_rng(0)
    scores, target = example(name, generator)
    counts = generator.integers(0, 4, size=60)
    repeated = np.repeat(np.arange(60), counts)
    weighted = METRICS[name].function(scores, target, counts[None].astype(float))[0]
    assert weighted == pytest.approx(METRICS[name](scores[repeated], target[repeated]))


def test_balanced_accuracy_joins_where_classes_are_uneven():
    even, uneven = np.arange(20) % 2, np.arange(20) % 4 == 0
    assert [m.name for m in metrics_for(read_targets(even, even))] == ["accuracy"]
    assert [m.name for m in metrics_for(read_targets(uneven, uneven))] == ["accuracy", "balanced_accuracy"]


def test_class_mean_recall_at_five_by_hand():
    scores = np.tile(np.arange(7.0), (4, 1))  # 6 is best, 0 and 1 are not among the five
    target = np.asarray([6, 6, 2, 1])
    assert METRICS["recall_at_5"](scores, target) == pytest.approx((1 + 1 + 0) / 3)
    assert METRICS["accuracy"](scores, target) == 0.5
    scores[1, 6] = -1  # now 1 is among the five of that sample, 6 is not
    assert METRICS["recall_at_5"](scores, target) == pytest.approx((0.5 + 1 + 0) / 3)
    tied = METRICS["recall_at_5"](np.zeros((7, 7)), np.arange(7))  # of equal scores the first, as for accuracy
    assert tied == pytest.approx(5 / 7)
    uneven = read_targets(np.arange(70) % 7, np.arange(7))
    assert [metric.name for metric in metrics_for(uneven, ahead=True)] == ["accuracy", "recall_at_5"]
    assert [metric.name for metric in metrics_for(uneven)] == ["accuracy"]


def test_of_several_numbers_the_mean_is_taken():
    generator = np.random.default_rng(0)
    scores, target = generator.normal(size=(2, 30, 3))
    weights = generator.integers(0, 3, (5, 30)).astype(float)
    for name in ("r2", "mae"):
        each = [METRICS[name].function(scores[:, i], target[:, i], weights) for i in range(3)]
        np.testing.assert_allclose(METRICS[name].function(scores, target, weights), np.mean(each, axis=0))


def test_a_resample_without_positives_has_no_average_precision():
    scores, target = np.array([[0.3], [0.2]]), np.array([[1.0], [0.0]])
    found = METRICS["mean_average_precision"].function(scores, target, np.array([[0.0, 2.0], [1.0, 1.0]]))
    assert np.isnan(found[0])
    assert found[1] == 1
