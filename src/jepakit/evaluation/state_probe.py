"""Probes of the true state: what one frozen embedding says of each of its variables, linearly and by a small network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.evaluation.intervals import grouped_weights
from jepakit.evaluation.linear import Linear
from jepakit.evaluation.ridge import fit_ridges
from jepakit.randomness import derive_seed

HIDDEN, STEPS, BATCH, LR = 128, 400, 256, 3e-3  # of the network: about a second for 512 numbers
RESAMPLES = 400
# Share of a state's variance that a probe of imagined embeddings gives up to be smooth. In Two Rooms, after one step: the least
# leave-one-out error read the true embedding within 0.26 pixels and the imagined one within 2.6; this reads 0.6 and 0.9.
SLACK = 1e-3


@dataclass(frozen=True, eq=False)
class StateProbe:
    """States read linearly off embeddings: `probe(embeddings [n, dim]) -> [n, variables]`, in the states' own units."""

    linear: Linear

    @classmethod
    def fit(cls, embeddings: Float[Tensor, "n dim"], states: Float[np.ndarray, "n variables"]) -> StateProbe:
        """Ridge regression, for each variable the strongest penalty that costs a thousandth of its variance at most: it is to
        read imagined embeddings too, which lie a little beside the true ones."""
        return cls(_ridge(embeddings, states, SLACK))

    def __call__(self, embeddings: Float[Tensor, "*shape dim"]) -> Float[np.ndarray, "*shape variables"]:
        flat = self.linear(embeddings.flatten(0, -2).float())
        return flat.unflatten(0, embeddings.shape[:-1]).double().cpu().numpy()


def _ridge(embeddings: Tensor, states: np.ndarray, slack: float) -> Linear:
    return fit_ridges(embeddings, torch.from_numpy(states.astype(np.float64)).to(embeddings.device), slack=slack)


def network_probe(
    train: Float[Tensor, "n dim"], states: Float[np.ndarray, "n variables"], test: Float[Tensor, "m dim"], seed: int = 0
) -> Float[np.ndarray, "m variables"]:
    """The test part's states by a network with one hidden layer of 128, trained for a fixed number of steps."""
    mean, std = train.mean(0), train.std(0, correction=0)
    alive = std > 1e-6 * (std.amax() + mean.abs())
    scale = torch.where(alive, 1 / torch.where(alive, std, 1.0), 0.0)  # what never changed in training says nothing
    middle, spread = states.mean(0), np.maximum(states.std(0), 1e-12)
    x, y = (train - mean) * scale, torch.from_numpy((states - middle) / spread).float().to(train.device)
    generator = torch.Generator().manual_seed(derive_seed(seed, "state probe"))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(derive_seed(seed, "state probe"))
        network = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, y.shape[1])).to(x.device)
        optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
            optimiser.zero_grad()
            F.mse_loss(network(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        return network((test - mean) * scale).double().cpu().numpy() * spread + middle


def varying(states: Float[np.ndarray, "n variables"]) -> Bool[np.ndarray, "variables"]:
    """Which variables change at all."""
    spread = states.std(0)
    return spread > 1e-6 * np.maximum(np.abs(states).max(0), 1e-12)


def correlations(
    found: Float[np.ndarray, "n variables"],
    true: Float[np.ndarray, "n variables"],
    episodes: Int[np.ndarray, "n"],
    seed: int = 0,
) -> dict[str, list[float | None]]:
    """Pearson's r of each variable with 95 % bootstrap bounds over episodes, and the mean absolute error in its unit.

    None where a variable does not vary.
    """
    weights = np.concatenate([np.ones((1, len(found))), grouped_weights(episodes, RESAMPLES, seed)])
    columns: dict[str, list[float | None]] = {"r": [], "low": [], "high": [], "error": []}
    for k in range(true.shape[1]):
        drawn = _pearson(found[:, k], true[:, k], weights)
        finite = drawn[1:][np.isfinite(drawn[1:])]
        known = bool(np.isfinite(drawn[0])) and len(finite) > 0
        low, high = np.quantile(finite, [0.025, 0.975]) if known else (None, None)
        for name, value in (("r", drawn[0] if known else None), ("low", low), ("high", high)):
            columns[name].append(None if value is None else float(value))
        columns["error"].append(float(np.abs(found[:, k] - true[:, k]).mean()))
    return columns


def _pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "resamples"]:
    """Weighted correlations; NaN where one of the two does not vary."""
    a, b, share = a - a.mean(), b - b.mean(), weights / weights.sum(1, keepdims=True)
    mean_a, mean_b = share @ a, share @ b
    both = share @ (a * b) - mean_a * mean_b
    product = (share @ a**2 - mean_a**2) * (share @ b**2 - mean_b**2)
    scale = float(np.abs(a).max() * np.abs(b).max()) ** 2
    alive = product > 1e-20 * scale if scale else np.zeros(len(product), dtype=bool)
    return np.divide(both, np.sqrt(np.maximum(product, 1e-300)), out=np.full(len(both), np.nan), where=alive)


def probe_rows(
    features: str, train: Float[Tensor, "n dim"], states: Float[np.ndarray, "n variables"], test: Float[Tensor, "m dim"],
    true: Float[np.ndarray, "m variables"], episodes: Int[np.ndarray, "m"], *, network: bool = True, seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """What a linear probe, and where asked a network, read off these features: a row for each."""
    found = {"linear": StateProbe(_ridge(train, states, 0.0))(test)}
    if network:
        found["network"] = network_probe(train, states, test, seed)
    return [
        {"features": features, "probe": probe, **correlations(values, true, episodes, seed)} for probe, values in found.items()
    ]
