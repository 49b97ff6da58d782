"""Small heads on frozen tokens: a grid of them trained side by side; one is chosen on a part of the training data and refitted.

Published probes report the best of their heads *on the set they report on*, which is to choose on the test part. Here a fifth
of the training part chooses learning rate, weight decay and epoch; nothing sees the test part before the scores.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from jepakit.errors import UserError, check_range
from jepakit.evaluation.labels import held_out
from jepakit.randomness import derive_seed

VALIDATION = 0.2

# Makes a head, at its random weights, for these rows of the training part: `head(tokens [batch, tokens, dim]) -> outputs`.
NewHead = Callable[[Tensor], nn.Module]
# Loss of a head's outputs for these rows of the training part, one number a sample or more: `loss(outputs, rows) -> Tensor`.
HeadLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """AdamW, the learning rate falling to 0 by a cosine. A head for each learning rate with each weight decay.

    max_samples: training samples at most (drawn stratified), so that time is bounded.
    """

    learning_rates: tuple[float, ...] = (1e-3, 1e-2)
    weight_decays: tuple[float, ...] = (0.05,)
    epochs: int = 20
    batch_size: int = 128
    max_samples: int = 10_000

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_samples"):
            check_range(name, getattr(self, name), low=1)
        check_rates(self.learning_rates, self.weight_decays)


def check_rates(learning_rates: Sequence[float] | None, weight_decays: Sequence[float] | None) -> None:
    """Raise `UserError` unless there is a grid to choose from (None: the default)."""
    if learning_rates is not None and (not learning_rates or not 0 < min(learning_rates) <= max(learning_rates) < math.inf):
        raise UserError(f"learning_rates must be positive numbers, got {learning_rates}.")
    if weight_decays is not None and (not weight_decays or not 0 <= min(weight_decays) <= max(weight_decays) < math.inf):
        raise UserError(f"weight_decays must be numbers of at least 0, got {weight_decays}.")


def fit_head(
    new: NewHead,
    tokens: Tensor,
    loss: HeadLoss,
    strata: Int[np.ndarray, "train"],
    config: HeadConfig,
    seed: int = 0,
) -> tuple[nn.Module, dict[str, Any]]:
    """The chosen head, fitted to all rows that are used, and what was chosen.

    tokens: `[train, tokens, dim]`, read a batch at a time. strata: the group that random splits keep in proportion.
    The head that is chosen has the least loss on the validation part after some epoch; a head whose loss is no number is not.
    """
    rows = np.arange(len(tokens))
    if len(rows) > config.max_samples:
        rows = rows[held_out(strata, config.max_samples / len(rows), derive_seed(seed, "attentive samples"))]
    held = held_out(strata[rows], VALIDATION, derive_seed(seed, "attentive validation"))
    if held.all() or not held.any():
        raise UserError(f"{len(rows)} training samples are too few to choose a head on a part of them. Give 5 or more.")
    fit, check = torch.from_numpy(rows[~held]), torch.from_numpy(rows[held])
    grid = list(product(config.learning_rates, config.weight_decays))
    first = new(fit)
    heads = [copy.deepcopy(first) for _ in grid]
    curves = np.asarray(
        [_losses(heads, tokens, loss, check) for _ in _train(heads, grid, tokens, loss, fit, config.epochs, config, seed)]
    )
    curves = np.where(np.isfinite(curves), curves, np.inf)
    if np.isinf(curves).all():
        raise UserError(f"Every head diverged. Lower the learning rates, {', '.join(map(str, config.learning_rates))}.")
    number = int(curves.min(axis=0).argmin())
    epochs = int(curves[:, number].argmin()) + 1
    everything = torch.from_numpy(rows)
    head = new(everything)
    for _ in _train([head], [grid[number]], tokens, loss, everything, epochs, config, seed):
        pass
    detail = {"learning_rate": grid[number][0], "weight_decay": grid[number][1], "epochs": epochs, "train": len(rows)}
    return head, {**detail, "heads": len(grid), "chosen_on": len(check)}


def _train(
    heads: Sequence[nn.Module],
    grid: Sequence[tuple[float, float]],
    tokens: Tensor,
    loss: HeadLoss,
    rows: Tensor,
    epochs: int,
    config: HeadConfig,
    seed: int,
) -> Iterator[int]:
    """Train heads on the same batches, each at its rate and decay, for `epochs` of a schedule over `config.epochs`; yields
    after each."""
    optimisers = [
        torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decay)
        for head, (rate, decay) in zip(heads, grid, strict=True)
    ]
    generator = torch.Generator().manual_seed(derive_seed(seed, "attentive order"))
    batches = -(-len(rows) // config.batch_size)
    for epoch in range(epochs):
        for step, batch in enumerate(rows[torch.randperm(len(rows), generator=generator)].split(config.batch_size)):
            read, done = tokens[batch].float(), (epoch + step / batches) / config.epochs
            for head, optimiser, (rate, _) in zip(heads, optimisers, grid, strict=True):
                optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))
                optimiser.zero_grad()
                loss(head(read), batch).mean().backward()
                optimiser.step()
        yield epoch


@torch.no_grad()
def _losses(heads: Sequence[nn.Module], tokens: Tensor, loss: HeadLoss, rows: Tensor) -> list[float]:
    """Of each head, the mean over samples."""
    totals = torch.zeros(len(heads), dtype=torch.float64)
    for part in rows.split(128):
        read = tokens[part].float()
        totals += torch.stack([loss(head(read), part).mean().double().cpu() * len(part) for head in heads])
    return (totals / len(rows)).tolist()


@torch.no_grad()
def outputs_of_head(head: nn.Module, tokens: Tensor, batch: int = 128) -> Tensor:
    """Of all tokens `[n, tokens, dim]`, a batch at a time."""
    return torch.cat([head(tokens[start : start + batch].float()) for start in range(0, len(tokens), batch)])
