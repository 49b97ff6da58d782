"""What tells a right flow from a wrong one where nobody knows the flow: the picture it explains, and how even it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from jepakit.collectives import global_count
from jepakit.core.energies import mean_over_tokens
from jepakit.errors import UserError, check_range


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How far two pictures in [0, 1] are apart, a mix of three measures; called with `[batch, channels, h, w]` twice, gives
    `[batch, h, w]`."""

    l1: float = 1.0
    """Weight of the mean over channels of |d|."""
    l2: float = 0.0
    """Weight of the mean over channels of d^2."""
    ssim: float = 0.0
    """Weight of (1 - SSIM) / 2, over 3 x 3 pixels: it forgives a change of brightness or contrast."""

    def __post_init__(self) -> None:
        for name in ("l1", "l2", "ssim"):
            check_range(f"likeness.{name}", getattr(self, name), 0)
        if not self.l1 + self.l2 + self.ssim > 0:
            raise UserError("likeness: l1, l2 and ssim are all 0, so that nothing is measured. Give one of them a weight.")

    def __call__(
        self, first: Float[Tensor, "batch channels h w"], second: Float[Tensor, "batch channels h w"]
    ) -> Float[Tensor, "batch h w"]:
        difference = first - second
        parts = []
        if self.l1 > 0:
            parts.append(self.l1 * difference.abs().mean(1))
        if self.l2 > 0:
            parts.append(self.l2 * difference.square().mean(1))
        if self.ssim > 0:
            parts.append(self.ssim * (1 - structural_similarity(first, second)).mean(1) / 2)
        return torch.stack(parts).sum(0)


def structural_similarity(
    first: Float[Tensor, "batch channels h w"], second: Float[Tensor, "batch channels h w"]
) -> Float[Tensor, "batch channels h w"]:
    """SSIM (Wang et al. 2004) of pictures in [0, 1] around each pixel, over 3 x 3 pixels of equal weight, the edge repeated."""
    x, y = (F.pad(picture, [1] * 4, mode="replicate") for picture in (first, second))
    mean_x, mean_y, xx, yy, xy = (F.avg_pool2d(picture, 3, stride=1) for picture in (x, y, x * x, y * y, x * y))
    spread_x, spread_y, shared = xx - mean_x.square(), yy - mean_y.square(), xy - mean_x * mean_y
    one, two = 0.01**2, 0.03**2  # the paper's
    above = (2 * mean_x * mean_y + one) * (2 * shared + two)
    return above / ((mean_x.square() + mean_y.square() + one) * (spread_x + spread_y + two))


def smoothness(
    flow: Float[Tensor, "batch 2 h w"], image: Float[Tensor, "batch channels h w"], edges: float
) -> Float[Tensor, ""]:
    """Mean over both directions of exp(-edges |grad image|) |grad flow|, between neighbouring cells: a flow may break where the
    picture does. |.| of the flow is the mean over its two numbers, of the image the mean over its channels."""
    total = []
    for axis in (2, 3):
        change = image.diff(dim=axis).abs().mean(1)
        bend = flow.diff(dim=axis).abs().mean(1)
        total.append(mean_over_tokens(torch.exp(-edges * change) * bend))
    return (total[0] + total[1]) / 2


def mean_where(energy: Float[Tensor, "batch h w"], valid: Bool[Tensor, "batch h w"]) -> Float[Tensor, ""]:
    """Mean over the valid cells of all ranks; 0 where there is none."""
    return mean_over_tokens(energy, valid, global_count(valid.sum()).clamp_min(1))
