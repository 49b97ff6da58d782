"""What the anti-collapse methods have in common: the call, the checks of its input, the precision it runs in."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.collectives import global_length, world_size
from jepakit.errors import UserError


class AntiCollapse:
    """A loss over the whole batch; without parameters or state, hence no module.

    name: how messages call it.
    aligns_views: True where the method itself makes the views of a sample agree (VICReg, Barlow, InfoNCE); False where
        the system adds its own prediction or invariance term (SIGReg).
    minimum_views: how many views it needs.
    """

    name: ClassVar[str]
    aligns_views: ClassVar[bool]
    minimum_views: ClassVar[int] = 1

    def __call__(self, views: Float[Tensor, "views batch dim"], step: int) -> dict[str, Tensor]:
        """Terms by name, unweighted and detached, and their weighted sum as `loss`: the numbers of the joined batch.

        Computed in float32 (float64 stays float64) with autocast off: sums of cosines and squared covariances drown in
        the rounding of 16 bits.
        """
        if views.dim() != 3:
            raise UserError(f"{self.name} takes embeddings [views, batch, dim], got the shape {tuple(views.shape)}.")
        if len(views) < self.minimum_views:
            raise UserError(
                f"{self.name} compares views of a sample and needs at least {self.minimum_views}, got {len(views)}."
            )
        if views.shape[1] * world_size() < 2:
            raise UserError(
                f"{self.name} looks across the batch and needs at least 2 samples, got {views.shape[1]}. "
                "Raise the batch size, or drop the last incomplete batch of an epoch."
            )
        # On a GPU the answer would have to be waited for; there the loop finds a loss that is no number.
        if views.device.type == "cpu" and not torch.isfinite(views).all():
            raise UserError(
                f"{self.name} was given embeddings with NaN or infinity at step {step}: the encoder has diverged. "
                "Lower the learning rate, lengthen the warm-up or clip gradients."
            )
        with _without_autocast(views.device):
            wide = views.float() if views.dtype in (torch.float16, torch.bfloat16) else views
            return self.terms(wide, step, global_length(views, 1))

    def terms(self, views: Float[Tensor, "views batch dim"], step: int, count: int | Tensor) -> dict[str, Tensor]:
        """The method's own part; `count` is the batch size summed over ranks."""
        raise NotImplementedError


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
