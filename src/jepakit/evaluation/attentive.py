"""Attentive probe: a learned query looks at all tokens, a linear layer reads what it saw.

The usual probe of masked systems, whose information is in the tokens rather than in their mean (I-JEPA, V-JEPA).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError, check_range
from jepakit.evaluation.labels import Targets, held_out
from jepakit.evaluation.streaming import Array, Rows, as_tensor, moments
from jepakit.randomness import derive_seed


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig:
    """Sized for a CPU minute. Learning rate and epochs are chosen on a fifth of the training part, then all is refit.

    heads: independent queries. max_samples: training samples at most (drawn stratified), so that time is bounded.
    """

    heads: int = 4
    width: int = 64  # of each head's value
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)
    weight_decay: float = 0.05
    epochs: int = 20
    batch_size: int = 128
    max_samples: int = 10_000

    def __post_init__(self) -> None:
        for name in ("heads", "width", "epochs", "batch_size", "max_samples"):
            check_range(name, getattr(self, name), low=1)
        check_range("weight_decay", self.weight_decay, low=0)
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UserError(f"learning_rates must be positive numbers, got {self.learning_rates}.")


class AttentiveProbe(nn.Module):
    """`[batch, tokens, dim] -> [batch, outputs]`: cross-attention of one learned query a head, then a linear layer.

    With one query, query·(key weights) is just one vector a head, so keys are never formed: the same function at a
    fraction of the cost. Tokens are standardised with the given statistics of the training part.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Float[Tensor, "dim"], std: Float[Tensor, "dim"], outputs: int, heads: int, width: int):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std)
        self.query = nn.Parameter(torch.randn(heads, len(mean)) * 0.02)
        self.value = nn.Parameter(torch.randn(heads, len(mean), width) / math.sqrt(len(mean)))
        self.norm = nn.LayerNorm(heads * width)
        self.head = nn.Linear(heads * width, outputs)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch outputs"]:
        tokens = (tokens - self.mean) * self.scale
        attention = torch.softmax(tokens @ self.query.T / math.sqrt(tokens.shape[-1]), dim=1)
        seen = torch.einsum("bth,btd->bhd", attention, tokens)
        return self.head(self.norm(torch.einsum("bhd,hdw->bhw", seen, self.value).flatten(1)))


def task_loss(scores: Float[Tensor, "n outputs"], targets: Tensor, task: str) -> Tensor:
    """The training loss of a task: cross-entropy, binary cross-entropy, or squared error (targets standardised)."""
    if task == "classification":
        return F.cross_entropy(scores, targets)
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(scores, targets.to(scores))
    return F.mse_loss(scores, targets.to(scores).reshape(scores.shape))


def outputs_of(targets: Targets) -> int:
    """How many numbers a model must give for one sample."""
    if targets.task == "classification":
        return len(targets.classes)
    return targets.train.shape[1] if targets.train.ndim == 2 else 1


def scaled_targets(targets: Targets) -> tuple[Tensor, Callable[[Tensor], np.ndarray]]:
    """Training targets as a tensor, of a regression standardised; and what turns a model's outputs `[n, outputs]` into scores,
    in the label's own unit and shape."""
    if targets.task != "regression":
        return torch.as_tensor(targets.train), lambda outputs: outputs.double().cpu().numpy()
    mean, scale = targets.train.mean(axis=0), targets.train.std(axis=0)
    shape = targets.train.shape[1:]

    def scores(outputs: Tensor) -> np.ndarray:
        return outputs.double().cpu().numpy().reshape(-1, *shape) * scale + mean

    return torch.as_tensor((targets.train - mean) / scale), scores


def attentive_probe(
    train: Array,
    test: Array,
    targets: Targets,
    config: AttentiveConfig | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, dict]:
    """Scores of the test samples `[m, tokens, dim]`, and what was chosen. Tokens are read a batch at a time."""
    config = config or AttentiveConfig()
    train, test = as_tensor(train), as_tensor(test)
    labels, in_units = scaled_targets(targets)
    rows = np.arange(len(train))
    if len(rows) > config.max_samples:
        rows = rows[held_out(targets.strata, config.max_samples / len(rows), derive_seed(seed, "attentive samples"))]
    held = held_out(targets.strata[rows], 0.2, derive_seed(seed, "attentive validation"))
    fit, check = torch.from_numpy(rows[~held]), torch.from_numpy(rows[held])
    curves = {}
    for rate in config.learning_rates:
        probe = _new_probe(train, fit, targets, config, seed)
        curves[rate] = [
            float(task_loss(_scores(probe, train, check), labels[check].to(train.device), targets.task))
            for _ in _train(probe, train, labels, fit, targets.task, rate, config.epochs, config, seed)
        ]
    rate = min(curves, key=lambda rate: min(curves[rate]))
    epochs = int(np.argmin(curves[rate])) + 1
    everything = torch.from_numpy(rows)
    probe = _new_probe(train, everything, targets, config, seed)
    for _ in _train(probe, train, labels, everything, targets.task, rate, epochs, config, seed):
        pass
    detail = {"learning_rate": rate, "epochs": epochs, "train": len(rows)}
    return in_units(_scores(probe, test, torch.arange(len(test)))), detail


def _new_probe(
    tokens: Tensor, rows: Tensor, targets: Targets, config: AttentiveConfig, seed: int
) -> AttentiveProbe:
    """A probe at its random weights, with the statistics of the tokens of these rows."""
    mean, variance = moments(Rows(rows, lambda part: tokens[part].flatten(0, 1)))
    std = variance.sqrt()
    std = torch.where(std > 1e-6 * std.amax(), std, torch.inf)  # a constant dimension becomes 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "attentive weights"))
        probe = AttentiveProbe(mean.float().cpu(), std.float().cpu(), outputs_of(targets), config.heads, config.width)
    return probe.to(tokens.device)


def _train(
    probe: AttentiveProbe,
    train: Tensor,
    labels: Tensor,
    rows: Tensor,
    task: str,
    rate: float,
    epochs: int,
    config: AttentiveConfig,
    seed: int,
) -> Iterator[int]:
    """Train for `epochs` of a cosine schedule over `config.epochs`, yielding after each."""
    optimiser = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(derive_seed(seed, "attentive order"))
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(config.batch_size):
            loss = task_loss(probe(train[batch].float()), labels[batch].to(train.device), task)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield epoch


@torch.no_grad()
def _scores(probe: AttentiveProbe, tokens: Tensor, rows: Tensor) -> Tensor:
    return torch.cat([probe(tokens[part].float()) for part in rows.split(128)])
