"""Metrics, each written for weighted samples: a row of weights is one bootstrap resample, so a thousand cost one call.

`scores` are `[n, classes]`, `[n, labels]` or, for regression, `[n]` or `[n, numbers]`; `weights [resamples, n]` count how often
a sample occurs. Every metric returns `[resamples]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jepakit.evaluation.labels import Targets

Weights = Float[np.ndarray, "resamples n"]
Values = Float[np.ndarray, "resamples"]


def accuracy(scores: Float[np.ndarray, "n classes"], target: Int[np.ndarray, "n"], weights: Weights) -> Values:
    """Share of samples whose highest score is the right class."""
    return weights @ (scores.argmax(axis=1) == target).astype(np.float64) / weights.sum(axis=1)


def balanced_accuracy(scores: Float[np.ndarray, "n classes"], target: Int[np.ndarray, "n"], weights: Weights) -> Values:
    """Accuracy of each class that occurs, averaged: chance is 1 / classes however uneven the classes are."""
    right = (scores.argmax(axis=1) == target).astype(np.float64)
    member = (target[:, None] == np.unique(target)).astype(np.float64)
    return _mean_defined(weights @ (member * right[:, None]), weights @ member)


def recall_at_5(scores: Float[np.ndarray, "n classes"], target: Int[np.ndarray, "n"], weights: Weights) -> Values:
    """Share of samples whose class is among the five of the highest scores, of each class that occurs, averaged: the
    class-mean recall@5 of action anticipation (EPIC-KITCHENS-100, Damen et al. 2022), where several futures may be right."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    found = (best == target[:, None]).any(axis=1).astype(np.float64)
    member = (target[:, None] == np.unique(target)).astype(np.float64)
    return _mean_defined(weights @ (member * found[:, None]), weights @ member)


def mean_average_precision(
    scores: Float[np.ndarray, "n labels"], target: Float[np.ndarray, "n labels"], weights: Weights
) -> Values:
    """Average precision (area under the precision-recall steps) averaged over the labels that occur."""
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for label in np.flatnonzero(target.any(axis=0)):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked = scores[order, label]
        # samples with equal scores share one threshold: read the running sums at the end of the tie
        last = np.searchsorted(-ranked, -ranked, side="right") - 1
        counted = weights[:, order]
        positives = counted * target[order, label]
        all_above = np.cumsum(counted, axis=1)[:, last]
        precision = np.cumsum(positives, axis=1)[:, last] / np.maximum(all_above, 1e-12)
        found = positives.sum(axis=1)
        total += np.where(found > 0, (positives * precision).sum(axis=1) / np.maximum(found, 1e-12), 0.0)
        count += found > 0
    return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)


def r2(scores: Float[np.ndarray, "n *numbers"], target: Float[np.ndarray, "n *numbers"], weights: Weights) -> Values:
    """Share of the variance explained: 1 is perfect, 0 is as good as the test mean. Of several numbers the mean of theirs."""
    share = weights / weights.sum(axis=1, keepdims=True)
    scores, target = scores.reshape(len(scores), -1), target.reshape(len(target), -1)
    centred = target - target.mean(axis=0)  # keeps the difference of moments below accurate
    variance = share @ centred**2 - (share @ centred) ** 2
    error = share @ (scores - target) ** 2
    return (1 - np.divide(error, variance, out=np.full(error.shape, np.nan), where=variance > 0)).mean(axis=1)


def mae(scores: Float[np.ndarray, "n *numbers"], target: Float[np.ndarray, "n *numbers"], weights: Weights) -> Values:
    """Mean absolute error, in the label's unit. Of several numbers the mean of theirs."""
    return weights @ np.abs(scores - target).reshape(len(target), -1).mean(axis=1) / weights.sum(axis=1)


def mean_iou(scores: Int[np.ndarray, "n pixels"], target: Int[np.ndarray, "n pixels"], weights: Weights) -> Values:
    """Intersection over union of each class that occurs or is said to, over all pixels, averaged. `scores` are classes;
    pixels of a negative target are not counted."""
    classes = int(max(scores.max(), target.max())) + 1
    known = target >= 0
    pairs = (np.nonzero(known)[0] * classes + target[known]) * classes + scores[known]
    counts = np.bincount(pairs, minlength=len(target) * classes**2).reshape(len(target), -1)
    table = (weights @ counts.astype(np.float64)).reshape(-1, classes, classes)  # [resamples, true, said]
    both = np.diagonal(table, axis1=1, axis2=2)
    return _mean_defined(both, table.sum(axis=1) + table.sum(axis=2) - both)


def token_accuracy(scores: Int[np.ndarray, "n tokens"], target: Int[np.ndarray, "n tokens"], weights: Weights) -> Values:
    """Share of tokens whose class is right. `scores` are classes; tokens of a negative target are not counted."""
    known = target >= 0
    right = ((scores == target) & known).sum(axis=1).astype(np.float64)
    return weights @ right / (weights @ known.sum(axis=1).astype(np.float64))


def rmse(scores: Float[np.ndarray, "n pixels"], target: Float[np.ndarray, "n pixels"], weights: Weights) -> Values:
    """Root of the mean squared error over all pixels, in the map's unit; pixels of a NaN target are not counted."""
    known = np.isfinite(target)
    error = np.where(known, scores - np.where(known, target, 0), 0)
    return np.sqrt(weights @ (error**2).sum(axis=1) / (weights @ known.sum(axis=1).astype(np.float64)))


def end_point_error(scores: Float[np.ndarray, "n"], target: Float[np.ndarray, "n"], weights: Weights) -> Values:
    """Mean end-point error of a flow, in pixels. `scores` are each clip's, which the target, zeros, is the best of."""
    return weights @ (scores - target) / weights.sum(axis=1)


def _mean_defined(parts: Float[np.ndarray, "resamples k"], wholes: Float[np.ndarray, "resamples k"]) -> Values:
    """Mean over k of parts / wholes, where wholes are not zero."""
    occurs = wholes > 0
    return np.divide(parts, wholes, out=np.zeros_like(parts), where=occurs).sum(axis=1) / occurs.sum(axis=1)


@dataclass(frozen=True)
class Metric:
    """A number by which scores are judged: its name in files, how it is worked out, what it is called, its direction."""

    name: str
    function: Callable[..., Values]
    heading: str
    higher_is_better: bool = True

    def __call__(self, scores: np.ndarray, target: np.ndarray) -> float:
        return float(self.function(scores, target, np.ones((1, len(target))))[0])


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, "Accuracy"),
        Metric("balanced_accuracy", balanced_accuracy, "Balanced accuracy"),
        Metric("recall_at_5", recall_at_5, "Class-mean recall@5"),
        Metric("mean_average_precision", mean_average_precision, "Mean average precision"),
        Metric("r2", r2, "R²"),
        Metric("mae", mae, "Mean absolute error (lower is better)", higher_is_better=False),
        Metric("mean_iou", mean_iou, "Mean intersection over union"),
        Metric("token_accuracy", token_accuracy, "Accuracy of tokens"),
        Metric("rmse", rmse, "Root mean squared error (lower is better)", higher_is_better=False),
        Metric("end_point_error", end_point_error, "End-point error of the flow in pixels (lower is better)", False),
    )
}


def metrics_for(targets: Targets, *, ahead: bool = False) -> list[Metric]:
    """The metrics of a task, the main one first. Balanced accuracy joins where classes are uneven (over twice), and of labels
    that lie `ahead` of what was seen recall@5, where there are more classes than five."""
    if targets.task == "multilabel":
        return [METRICS["mean_average_precision"]]
    if targets.task == "regression":
        return [METRICS["r2"], METRICS["mae"]]
    counts = np.bincount(targets.test, minlength=len(targets.classes))
    uneven = counts.max() > 2 * max(1, counts.min())
    recall = [METRICS["recall_at_5"]] if ahead and len(targets.classes) > 5 else []
    return [METRICS["accuracy"], *([METRICS["balanced_accuracy"]] if uneven else []), *recall]
