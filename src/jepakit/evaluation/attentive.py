"""Attentive probes: learned queries look at all tokens, a linear layer reads what they saw.

The usual probe of masked systems, whose information is in the tokens rather than in their mean (I-JEPA, V-JEPA). Two kinds:

    attentive      a query a head and no keys: a CPU minute
    attentive-N    as published, a transformer of N blocks (`nn.attentive_pooler`): N - 1 of self-attention, then one in which a
                   learned query looks. V-JEPA (arXiv 2404.08471) has N = 1, V-JEPA 2 (arXiv 2506.09985) N = 4.

What differs from the published protocol: the head is chosen on a part of the training data (`heads`), not on the test part;
features are computed once, of one view of each sample; fewer heads, samples and epochs, to be done on a CPU. V-JEPA 2's own
grid: learning rates 5e-3 3e-3 1e-3 3e-4 1e-4, weight decays 0.01 0.1 0.4 0.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError, check_choice, check_range
from jepakit.evaluation.heads import HeadConfig, check_rates, fit_head, outputs_of_head
from jepakit.evaluation.labels import Targets
from jepakit.evaluation.streaming import Array, Rows, as_tensor, moments
from jepakit.nn.attentive_pooler import AttentiveClassifier, AttentivePoolerConfig
from jepakit.randomness import derive_seed

QUICK = HeadConfig()
PUBLISHED = HeadConfig(
    learning_rates=(3e-4, 1e-3, 3e-3), weight_decays=(0.01, 0.4), epochs=10, batch_size=64, max_samples=2_000
)


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig:
    """How attentive probes are trained. What is None is `QUICK`'s for "attentive", `PUBLISHED`'s for "attentive-N"."""

    heads: int | None = None
    """Attention heads. Default: 4 queries of "attentive"; of "attentive-N" 16, or the most below that divide the width."""
    width: int = 64
    """Of each head's value, of "attentive"."""
    learning_rates: tuple[float, ...] | None = None
    """One probe is trained for each of them with each weight decay. Default: 1e-3 1e-2; of "attentive-N" 3e-4 1e-3 3e-3."""
    weight_decays: tuple[float, ...] | None = None
    """Default: 0.05; of "attentive-N" 0.01 0.4."""
    epochs: int | None = None
    """Default: 20; of "attentive-N" 10."""
    batch_size: int | None = None
    """Default: 128; of "attentive-N" 64."""
    max_samples: int | None = None
    """Training samples at most, drawn by class. Default: 10000; of "attentive-N" 2000."""
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    """Of classes: cross-entropy, or the focal loss of action anticipation (alpha 0.25, gamma 2)."""

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, ("cross-entropy", "focal"))
        for name in ("heads", "width", "epochs", "batch_size", "max_samples"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), low=1)
        check_rates(self.learning_rates, self.weight_decays)

    def training(self, blocks: int) -> HeadConfig:
        """With what was left open decided, for a probe of so many blocks (0: the quick one)."""
        names = ("learning_rates", "weight_decays", "epochs", "batch_size", "max_samples")
        default = PUBLISHED if blocks else QUICK
        given = {name: getattr(self, name) for name in names}
        return HeadConfig(**{name: getattr(default, name) if value is None else value for name, value in given.items()})


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


def task_loss(
    scores: Float[Tensor, "n outputs"], targets: Tensor, task: str, loss: str = "cross-entropy"
) -> Float[Tensor, "n"]:
    """The training loss of each sample: cross-entropy, binary cross-entropy, or squared error (targets standardised); of
    classes and labels also the focal loss."""
    if task == "classification" and loss == "cross-entropy":
        return F.cross_entropy(scores, targets, reduction="none")
    if task == "regression":
        return F.mse_loss(scores, targets.to(scores).reshape(scores.shape), reduction="none").mean(dim=1)
    wanted = F.one_hot(targets, scores.shape[1]).to(scores) if task == "classification" else targets.to(scores)
    if loss == "focal":
        return focal_loss(scores, wanted).sum(dim=1)
    return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").mean(dim=1)


def focal_loss(
    logits: Float[Tensor, "n outputs"], wanted: Float[Tensor, "n outputs"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "n outputs"]:
    """Binary cross-entropy in which what is right already hardly counts (Lin et al. 2017, arXiv 1708.02002): a yes or no of
    probability p for what is true costs `-(1 - p)^gamma log p`, a yes times `alpha`, a no times `1 - alpha`."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    weight = alpha * wanted + (1 - alpha) * (1 - wanted)
    return weight * (-torch.expm1(-cross_entropy)) ** gamma * cross_entropy


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
    *,
    blocks: int = 0,
) -> tuple[np.ndarray, dict]:
    """Scores of the test samples `[m, tokens, dim]`, and what was chosen. Tokens are read a batch at a time.

    blocks: of the published probe; 0: the quick one.
    """
    config = config or AttentiveConfig()
    check_range("blocks", blocks, 0)
    train, test = as_tensor(train), as_tensor(test)
    labels, in_units = scaled_targets(targets)
    labels = labels.to(train.device)

    def new(rows: Tensor) -> nn.Module:
        statistics = None if blocks else _statistics(train, rows)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "attentive weights"))
            if statistics is not None:
                head: nn.Module = AttentiveProbe(*statistics, outputs_of(targets), config.heads or 4, config.width)
            else:
                shape = AttentivePoolerConfig(
                    dim=train.shape[-1], heads=_heads(train.shape[-1], config.heads), blocks=blocks - 1
                )
                head = AttentiveClassifier(shape, outputs_of(targets))
        return head.to(train.device)

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        return task_loss(outputs, labels[rows], targets.task, config.loss)

    head, detail = fit_head(new, train, loss, targets.strata, config.training(blocks), seed)
    return in_units(outputs_of_head(head, test)), detail


def _statistics(tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the tokens of these rows; a dimension that is constant becomes 0 by them."""
    mean, variance = moments(Rows(rows, lambda part: tokens[part].flatten(0, 1)))
    std = variance.sqrt()
    std = torch.where(std > 1e-6 * std.amax(), std, torch.inf)
    return mean.float().cpu(), std.float().cpu()


def _heads(dim: int, asked: int | None) -> int:
    if asked is None:
        return next(heads for heads in range(16, 0, -1) if dim % heads == 0)
    if dim % asked:
        raise UserError(f"attentive heads {asked} must divide the width of the tokens, {dim}.")
    return asked
