"""Terms: what stands beside the prediction in a masked step, each a small object.

A term is called with what the step has made of the batch. It answers with its numbers by name and what it adds to the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from jepakit.collectives import global_count
from jepakit.core.anticollapse import AntiCollapse
from jepakit.core.batch import Batch, count_of
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.masked_batch import MaskedBatch
from jepakit.core.schedules import check_ramp, risen
from jepakit.errors import check_range
from jepakit.nn.tokens import Tokens


@dataclass(frozen=True)
class MaskedForward:
    """What a masked step has made of a batch, or of one of its streams, when its terms are computed."""

    batch: Batch
    """The whole batch, with `step`, `progress` and `counts`."""
    prefix: str
    """What the names of the stream's numbers begin with."""
    masked: MaskedBatch
    context: Tokens
    """`[batch * contexts, kept, (levels,) dim]`"""
    targets: Tokens
    """Of all tokens, `[batch, tokens, levels * dim]`, or of those asked for."""
    at_visible: Float[Tensor, "rows kept out"] | None
    """Predictions at the tokens that the context sees, where a term reads them."""
    energy: Energy
    projector: nn.Module | None

    def mean(self, energy: Float[Tensor, "rows tokens"], valid: Bool[Tensor, "rows tokens"], name: str) -> Float[Tensor, ""]:
        """Mean over the tokens of all ranks and of the whole step; 0 where a stream has no sample."""
        count = count_of(self.batch, f"{self.prefix}{name}")
        return mean_over_tokens(energy, valid, (global_count(valid.sum()) if count is None else count).clamp_min(1))

    @cached_property
    def views(self) -> Float[Tensor, "contexts batch projected"]:
        """The projected mean of each context's tokens; a sample's contexts are its views."""
        mean = pooled(self.context)
        return rearrange(
            mean if self.projector is None else self.projector(mean), "(b e) d -> e b d", e=self.masked.contexts
        )


class Term:
    """A part of the loss beside the prediction: `term(made) -> its numbers by name, what it adds to the loss`."""

    joins_batch: ClassVar[bool] = False
    """True: it looks across the batch, which then cannot be accumulated in pieces."""
    reads_visible: ClassVar[bool] = False
    """True: it reads predictions at the tokens that the context sees."""

    def __call__(self, made: MaskedForward) -> tuple[dict[str, Tensor], Tensor]:
        raise NotImplementedError

    def counts(self, masked: MaskedBatch) -> dict[str, Tensor]:
        """What its means are taken over, by the names of its numbers; see `System.counts`."""
        return {}


@dataclass(frozen=True, kw_only=True)
class VisibleTerm(Term):
    """A loss on the tokens that the context sees, too (V-JEPA 2.1, arXiv 2603.14482, section 3): token i counts
    `weight / sqrt(d)`, with d its distance from the nearest hidden token on the grid of tokens.

    ramp: shares of the training between which the weight rises from 0, as the prediction has to be learned first. Without a
    ramp the paper loses 10 to 20 points of SSv2. (0, 0): none.
    """

    weight: float = 0.5
    ramp: tuple[float, float] = (0.11, 0.22)

    reads_visible: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("visible.weight", self.weight, 0)
        check_ramp("visible.ramp", self.ramp)

    def at(self, progress: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The weight at this share of the training."""
        return self.weight * risen(progress, self.ramp)

    def __call__(self, made: MaskedForward) -> tuple[dict[str, Tensor], Tensor]:
        assert made.at_visible is not None  # reads_visible
        visible, hidden = made.masked.visible(), made.masked.targets
        energy = made.energy(made.at_visible, visible.gather(made.targets.values))
        here, there = (ids.gather(made.targets.positions) for ids in (visible, hidden))
        weights = self.at(made.batch["progress"]) * nearness(here, there, hidden.valid)
        mean = made.mean(weights * energy, visible.valid, "visible")
        return {"visible": mean}, mean

    def counts(self, masked: MaskedBatch) -> dict[str, Tensor]:
        return {"visible": masked.visible().valid.sum()}


@dataclass(frozen=True)
class AntiCollapseTerm(Term):
    """A loss that keeps the projected contexts from becoming all alike."""

    method: AntiCollapse

    joins_batch: ClassVar[bool] = True

    def __call__(self, made: MaskedForward) -> tuple[dict[str, Tensor], Tensor]:
        numbers = self.method(made.views, int(made.batch["step"]))
        loss = numbers.pop("loss")
        return numbers, loss


@dataclass(frozen=True, kw_only=True)
class AlignmentTerm(Term):
    """`weight` times the squared distance of a sample's projected contexts from their mean, for an anti-collapse method that
    does not align views itself."""

    weight: float

    def __post_init__(self) -> None:
        check_range("invariance", self.weight, 0)

    def __call__(self, made: MaskedForward) -> tuple[dict[str, Tensor], Tensor]:
        apart = (made.views - made.views.mean(0)).square().mean(-1)
        mean = mean_over_tokens(apart, count=count_of(made.batch, f"{made.prefix}alignment"))
        return {"alignment": mean}, self.weight * mean

    def counts(self, masked: MaskedBatch) -> dict[str, Tensor]:
        contexts = masked.context.values
        return {"alignment": torch.tensor(len(contexts), device=contexts.device)}


def nearness(
    visible: Num[Tensor, "batch visible axes"], hidden: Num[Tensor, "batch hidden axes"], valid: Bool[Tensor, "batch hidden"]
) -> Float[Tensor, "batch visible"]:
    """`1 / sqrt(d)` of each visible token, d its Euclidean distance from the nearest (valid) hidden one, in tokens."""
    # Not by matrix products, whose rounding shows in small distances.
    apart = torch.cdist(visible.float(), hidden.float(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart.masked_fill(~valid[:, None], torch.inf).amin(dim=2)
    return nearest.clamp_min(1).rsqrt()  # tokens lie at least 1 apart; padding may lie anywhere


def pooled(context: Tokens) -> Float[Tensor, "n dim"]:
    """Mean over each context's tokens, of the last level."""
    mean = context.mean()
    return mean if mean.dim() == 2 else mean[:, -1]
