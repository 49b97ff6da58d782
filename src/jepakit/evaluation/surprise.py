"""Surprise: whether a world model's prediction error tells what cannot happen from what did.

The area under the ROC curve is the probability that an impossible event surprises more than an ordinary one: 0.5 tells
nothing, 1 tells them all. Its interval draws whole episodes, for the ordinary and the impossible moments alike.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jepakit.errors import UserError
from jepakit.evaluation.intervals import Interval, grouped_weights

RESAMPLES = 400  # each costs n x n
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def prediction_error(
    predicted: Float[Tensor, "windows dim"], seen: Float[Tensor, "windows dim"]
) -> Float[np.ndarray, "windows"]:
    """Squared distance of what was expected from what was seen."""
    return (predicted.double() - seen.double()).square().sum(1).cpu().numpy()


def surprise_auc(
    ordinary: Float[np.ndarray, "n"],
    impossible: Float[np.ndarray, "n"],
    episodes: Int[np.ndarray, "n"],
    seed: int = 0,
) -> Interval:
    """Area under the ROC curve with its 95 % bootstrap interval over episodes; equal errors count half.

    Row i of both is of the same window, so that an easy window is easy in both.

    Errors: fewer than two windows, or numbers that are not finite.
    """
    if len(ordinary) < 2 or not (np.isfinite(ordinary).all() and np.isfinite(impossible).all()):
        raise UserError(f"surprise: needs two windows or more with finite errors, got {len(ordinary)}.")
    above = np.sign(impossible[:, None] - ordinary[None, :]) / 2 + 0.5
    weights = grouped_weights(episodes, RESAMPLES, seed)
    drawn = ((weights @ above) * weights).sum(1) / weights.sum(1) ** 2
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(above.mean()), float(low), float(high), "95% bootstrap over episodes")


def spread_of(values: Float[np.ndarray, "n"], unit: float) -> list[float]:
    """Five quantiles (5, 25, 50, 75, 95 %) of some errors, as multiples of `unit`."""
    return [float(value / max(unit, 1e-300)) for value in np.quantile(values, QUANTILES)]


def others_of(episodes: Int[np.ndarray, "n"], seed: int = 0) -> Int[np.ndarray, "n"]:
    """For each window one of another episode, each used once; where one episode holds more than half, as far as that goes.

    Errors: a single window.
    """
    n = len(episodes)
    if n < 2:
        raise UserError("There is a single window, and none to compare it with. Give longer or more held-out episodes.")
    order = np.random.default_rng(seed).permutation(n)
    order = order[np.argsort(episodes[order], kind="stable")]
    most = int(np.unique(episodes, return_counts=True)[1].max())
    found = np.empty(n, dtype=np.int64)
    found[order] = np.roll(order, -most if 2 * most <= n else -max(1, n // 2))
    return found


def opposite(
    actions: Float[Tensor, "windows action"], mean: Float[Tensor, "action"], std: Float[Tensor, "action"]
) -> tuple[Float[Tensor, "windows action"], Bool[Tensor, "windows"]]:
    """The actions with their signs turned, normalised as before, and whether that is another action worth the name.

    actions: normalised, (raw - mean) / std. What lies within a quarter of a deviation of 0 is hardly turned.
    """
    raw = actions * std + mean
    return (-raw - mean) / std, (raw / std).norm(dim=1) > 0.25
