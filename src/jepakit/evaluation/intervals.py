"""Confidence intervals: percentile bootstrap over test samples, Wilson for proportions, paired differences.

Intervals over test samples say how far the number depends on *which test samples* were drawn; they do not hold the
spread over training seeds, which takes several runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from jepakit.errors import UserError
from jepakit.evaluation.metrics import Metric
from jepakit.randomness import derive_seed

RESAMPLES = 1000
_CHUNK = 2**22  # weights held at once: 32 MiB of float64


@dataclass(frozen=True)
class Interval:
    """A number with its bounds; `how` says what the bounds are."""

    value: float
    low: float
    high: float
    how: str


def resample_weights(n: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "chunk n"]]:
    """How often each of n samples occurs in each of `resamples` draws with replacement, a few rows at a time."""
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    for start in range(0, resamples, step := max(1, _CHUNK // n)):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def grouped_weights(
    groups: Int[np.ndarray, "n"], resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "resamples n"]:
    """How often each sample occurs where whole groups are drawn with replacement: what lies in one episode is alike."""
    _, group = np.unique(groups, return_inverse=True)
    drawn = list(resample_weights(int(group.max()) + 1, resamples, seed))
    return np.concatenate(drawn)[:, group.reshape(-1)]


def bootstrap(
    metric: Metric,
    scores: np.ndarray,
    target: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """The metric with its percentile bootstrap interval over test samples. The same seed draws the same resamples."""
    draws = np.concatenate([metric.function(scores, target, w) for w in resample_weights(len(target), resamples, seed)])
    low, high = _percentiles(draws, level)
    return Interval(metric(scores, target), low, high, f"{level:.0%} bootstrap over test samples")


def paired_difference(
    metric: Metric,
    first: np.ndarray,
    second: np.ndarray,
    target: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """metric(first) - metric(second), both on the same resamples of the same test samples.

    Much narrower than two separate intervals suggest, because what is hard for one is mostly hard for the other.
    """
    draws = np.concatenate(
        [
            metric.function(first, target, w) - metric.function(second, target, w)
            for w in resample_weights(len(target), resamples, seed)
        ]
    )
    low, high = _percentiles(draws, level)
    value = metric(first, target) - metric(second, target)
    return Interval(value, low, high, f"{level:.0%} paired bootstrap over test samples")


def wilson(right: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion `right / n` (Wilson 1927): stays inside [0, 1] and has a width at 0 and at 1."""
    if not 0 <= right <= n or n == 0:
        raise UserError(f"wilson: {right} right of {n} is not a proportion.")
    z, share = NormalDist().inv_cdf((1 + level) / 2), right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (0.0 if right == 0 else centre - half), (1.0 if right == n else centre + half)  # exact at the ends
    return Interval(share, low, high, f"{level:.0%} Wilson over test samples")


def over_draws(values: np.ndarray) -> Interval:
    """Mean ± standard deviation (n - 1) of one number a draw."""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Interval(mean, mean - spread, mean + spread, f"mean ± sd over {len(values)} draws")


def interval_of(metric: Metric, scores: np.ndarray, target: np.ndarray, seed: int) -> Interval:
    """The metric with the interval that suits it: Wilson for accuracy (closed form), the bootstrap for all else."""
    if metric.name == "accuracy":
        return wilson(int((scores.argmax(axis=1) == target).sum()), len(target))
    return bootstrap(metric, scores, target, seed=seed)


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    # a resample may lack every positive (or all variance): the metric has no value there and it is left out
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
