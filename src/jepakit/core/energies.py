"""Energies: how far a prediction lies from its target in embedding space, one number a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from jepakit.collectives import global_count, sum_over_ranks
from jepakit.errors import UserError, check_choice

ENERGIES = ("smooth_l1", "l1", "l2", "cosine")


@dataclass(frozen=True, kw_only=True)
class Energy:
    """An energy by name: `energy(prediction, target) -> energy per token`.

    Called with `[..., dim]` twice, gives `[...]`, in float32 whatever the autocast dtype (float64 stays):
      smooth_l1  mean over dim of d^2 / (2 beta) where |d| < beta, else |d| - beta / 2 (I-JEPA, beta 1);
      l1         mean over dim of |d| (V-JEPA);
      l2         mean over dim of d^2;
      cosine     1 - cos, in [0, 2] (BYOL writes 2 - 2 cos, twice this).
    The mean over dim (and not the sum, which some papers write) lets a loss weight keep its meaning with the width.
    """

    name: Literal["smooth_l1", "l1", "l2", "cosine"] = "smooth_l1"
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_choice("energy", self.name, ENERGIES)
        if not self.beta > 0:
            raise UserError(f"energy.beta must be above 0, got {self.beta}; for its limit at 0 choose the energy 'l1'.")
        if self.beta != 1.0 and self.name != "smooth_l1":
            raise UserError(f"energy.beta belongs to 'smooth_l1' and does nothing for {self.name!r}: leave it out.")

    def __call__(self, prediction: Float[Tensor, "... dim"], target: Float[Tensor, "... dim"]) -> Float[Tensor, "..."]:
        if prediction.shape != target.shape:
            # Broadcasting would quietly compare every prediction with the wrong target.
            raise UserError(
                f"energy: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape."
            )
        prediction, target = _at_least_float32(prediction), _at_least_float32(target)
        if self.name == "cosine":
            return 1 - F.cosine_similarity(prediction, target, dim=-1)
        if self.name == "smooth_l1":
            return F.smooth_l1_loss(prediction, target, beta=self.beta, reduction="none").mean(-1)
        difference = prediction - target
        return (difference.abs() if self.name == "l1" else difference.square()).mean(-1)


def mean_over_tokens(
    energy: Float[Tensor, "*tokens"], valid: Bool[Tensor, "*mask"] | None = None, count: Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean energy over the real tokens of all ranks: their sum divided by the *global* count.

    Args:
        energy: one number a token, for example `[batch, tokens]`.
        valid: True where a token is real, in the shape of `energy` or of its first axes; None: all are.
        count: the count to divide by; None: the real tokens of this batch on all ranks. With accumulated micro-batches,
            give the global count of all of them, so that each token weighs the same in whichever it lies.

    Batch-size meaning: a mean, the same at any size. Rank-count meaning: the same number on every rank; under DDP
    the gradient of one process with the joined batch, however unevenly tokens are spread over ranks (a mean of the
    ranks' means is not that). No real token on any rank gives NaN.
    """
    if valid is None:
        valid = torch.ones_like(energy, dtype=torch.bool)
    else:
        valid = valid.reshape(*valid.shape, *([1] * (energy.dim() - valid.dim()))).expand_as(energy)
    total = sum_over_ranks(torch.where(valid, energy, 0).sum())
    return total / (global_count(valid.sum()) if count is None else count)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
