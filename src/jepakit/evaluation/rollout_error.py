"""Rollout error by horizon: how far imagined embeddings lie from the true ones, beside what needs no model of the world.

All functions see embeddings and actions only: any world model's. An error is the squared distance as a share of the true
embeddings' variance, both summed over dimensions: 0 is right, 1 is what their mean would do. Intervals draw whole
episodes, within which everything is alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jepakit.errors import UserError
from jepakit.evaluation.intervals import grouped_weights
from jepakit.evaluation.linear import Linear
from jepakit.evaluation.ridge import fit_ridges

STRENGTHS = tuple(10.0**power for power in range(4, -6, -1))
WIDEST = 512  # principal components that a linear model predicts; its fit costs their third power


@dataclass(frozen=True, eq=False)
class LinearDynamics:
    """The change of an embedding as a linear function of it and the action: the plainest model that knows of actions.

    Wider embeddings than 512 numbers change along their first 512 principal components only.
    """

    change: Linear
    axes: Float[Tensor, "dim kept"] | None

    @classmethod
    def fit(
        cls, embeddings: Float[Tensor, "windows time dim"], actions: Float[Tensor, "windows steps action"], seed: int = 0
    ) -> LinearDynamics:
        """Ridge regression on every step of these windows, of the strength that imagines them best when rolled out: what is
        best for one step may grow without bound over many.

        Errors: not one action between two observations.
        """
        if actions.shape[:2] != (len(embeddings), embeddings.shape[1] - 1):
            raise UserError(
                f"Windows of {embeddings.shape[1]} embeddings have {embeddings.shape[1] - 1} actions between them, got "
                f"{list(actions.shape[:2])} for {len(embeddings)} windows."
            )
        axes = principal_axes(embeddings.flatten(0, 1), WIDEST, seed)
        inner = embeddings if axes is None else embeddings @ axes
        before = torch.cat([inner[:, :-1], actions.to(inner)], dim=2).flatten(0, 1)
        change = (inner[:, 1:] - inner[:, :-1]).flatten(0, 1)
        tried = [cls(fit_ridges(before, change, (strength,)), axes) for strength in STRENGTHS]
        errors = [float((one.rollout(embeddings[:, 0], actions) - embeddings[:, 1:]).double().square().mean()) for one in tried]
        return tried[int(np.argmin(np.nan_to_num(errors, nan=np.inf)))]

    def rollout(
        self, start: Float[Tensor, "windows dim"], actions: Float[Tensor, "windows horizon action"]
    ) -> Float[Tensor, "windows horizon dim"]:
        """Embeddings after each action, predicted one from another."""
        found, now = [], start
        for action in actions.unbind(1):
            inner = now if self.axes is None else now @ self.axes
            change = self.change(torch.cat([inner, action.to(inner)], dim=1))
            now = now + (change if self.axes is None else change @ self.axes.T)
            found.append(now)
        return torch.stack(found, dim=1)


def principal_axes(x: Float[Tensor, "n dim"], most: int, seed: int = 0) -> Float[Tensor, "dim kept"] | None:
    """The directions of largest variance; None where there are no more dimensions than that."""
    if x.shape[1] <= most:
        return None
    from sklearn.decomposition import PCA  # slow to import, and needed for wide embeddings only

    kept = min(most, len(x) - 1)
    found = PCA(kept, svd_solver="randomized", random_state=seed % 2**32).fit(x.cpu().numpy())
    return torch.from_numpy(found.components_.T.astype(np.float32)).to(x.device)


def rollout_errors(
    imagined: Float[Tensor, "windows horizon dim"], true: Float[Tensor, "windows horizon dim"]
) -> Float[np.ndarray, "windows horizon"]:
    """Squared distance of each imagined embedding from the true one, as a share of the true ones' variance."""
    true = true.double()
    variance = (true - true.mean((0, 1))).square().sum(2).mean()
    return ((imagined.double() - true).square().sum(2) / variance.clamp_min(1e-300)).cpu().numpy()


def mean_by_horizon(
    values: Float[np.ndarray, "windows horizon"], episodes: Int[np.ndarray, "windows"], seed: int = 0
) -> dict[str, list[float]]:
    """The mean over windows at each horizon, with 95 % bootstrap bounds over episodes: `error`, `low`, `high`."""
    weights = grouped_weights(episodes, seed=seed)
    drawn = weights @ values / weights.sum(1, keepdims=True)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {"error": values.mean(0).tolist(), "low": low.tolist(), "high": high.tolist()}


def compare_rollouts(
    candidates: Mapping[str, Float[Tensor, "windows horizon dim"]],
    true: Float[Tensor, "windows horizon dim"],
    episodes: Int[np.ndarray, "windows"],
    seed: int = 0,
) -> dict[str, Any]:
    """Error by horizon of several ways to imagine the same windows: what `evaluation.json` holds under "rollout"."""
    return {
        "horizons": list(range(1, true.shape[1] + 1)),
        "unit": "squared error as a share of the embeddings' variance",
        "interval": "95 % bootstrap over episodes",
        "curves": {
            name: mean_by_horizon(rollout_errors(found, true), episodes, seed) for name, found in candidates.items()
        },
    }
