"""Targets that are fixed features of the input, patch by patch: pixels, and ratio gradients at several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepakit.core.targets import Target
from jepakit.errors import UserError, check_choice, check_range
from jepakit.nn.positions import grid_positions
from jepakit.nn.tokens import Ids, Tokens


class FeatureTarget(Target):
    """A function of the input without weights: nothing flows into it, and `encode` is the encoder that is trained.

    Args:
        patch: sides of a patch in pixels: `(height, width)` for images `[batch, channels, height, width]`, `(frames, height,
            width)` for clips. Patches lie on the encoder's grid.
    """

    differentiable = False
    encodes = "encoder"

    def __init__(self, patch: Sequence[int]):
        super().__init__()
        self.patch = tuple(patch)
        if not 1 <= len(self.patch) <= 3 or min(self.patch) < 1:
            raise UserError(f"patch must be one to three sides of at least 1 pixel, got {self.patch}.")

    def dim(self, channels: int) -> int:
        """Numbers of a token: the width of the predictions (`output_dim` of the predictor)."""
        return channels * math.prod(self.patch)

    def features(self, inputs: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch features *sides"]:
        """What is cut into patches: an image or clip of features."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, inputs: Any, keep: Ids | None = None, levels: Sequence[int] | None = None) -> Tokens:
        """Patches of features as tokens `[batch, tokens, dim]` in raster order, or those that `keep` names.

        Errors: inputs that the patches do not tile; levels, which an input has not.
        """
        if levels is not None:
            raise UserError(f"levels {tuple(levels)}: {type(self).__name__} has no depths. Leave levels out.")
        sides = tuple(inputs.shape[2:])
        if len(sides) != len(self.patch) or any(side % part for side, part in zip(sides, self.patch, strict=True)):
            raise UserError(
                f"patch {self.patch} does not tile inputs of sides {sides}. Give one side for each axis, which divides it."
            )
        wide = inputs if inputs.dtype == torch.float64 else inputs.float()
        values = self.finish(patches(self.features(wide), self.patch))
        grid = tuple(side // part for side, part in zip(sides, self.patch, strict=True))
        positions = grid_positions(grid, inputs.device).expand(len(inputs), -1, -1)
        if keep is None:
            return Tokens(values, positions)
        return Tokens(keep.gather(values), keep.gather(positions), keep.lengths)

    def finish(self, values: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """What is done to each patch at the end; nothing."""
        return values


class PixelTarget(FeatureTarget):
    """The pixels of each patch (MAE, He et al. 2022, arXiv 2111.06377), in the order row, column, channel.

    Args:
        norm: "patch" takes each patch's mean from it and divides by its (unbiased) standard deviation, all channels together,
            as MAE's better targets; "none" leaves it.
        eps: added to the variance.
    """

    def __init__(self, patch: Sequence[int], norm: Literal["patch", "none"] = "patch", eps: float = 1e-6):
        super().__init__(patch)
        check_choice("norm", norm, ("patch", "none"))
        check_range("eps", eps, 0)
        self.norm, self.eps = norm, eps

    def features(self, inputs: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch channels *sides"]:
        return inputs

    def finish(self, values: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        if self.norm == "none":
            return values
        if values.shape[-1] == 1:
            raise UserError(f"norm 'patch': a patch of {self.patch} is one number. Give a larger patch, or norm 'none'.")
        variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
        return (values - mean) / (variance + self.eps).sqrt()


class GradientTarget(FeatureTarget):
    """Ratio gradients at several scales (SAR-JEPA, Li et al. 2024, arXiv 2311.15153): of a picture x > 0 at each pixel

        G_k = sqrt(g_h^2 + g_v^2),   g_h = log(sum of x to the left / sum to the right),   g_v = log(above / below)

    over the halves of a window of 2k + 1 pixels a side around it, which both hold its middle column (row). A ratio does not
    change when the picture is multiplied: neither does the spread of G where speckle, which multiplies, is all there is.
    Not normalised patch by patch, which would take the strength of edges away. Tokens hold the pixels of a patch with their
    channels, for each of them all scales, from the first.

    Args:
        scales: k of each scale, in pixels.
        offset: added to the picture, so that dark pixels have a logarithm.
        mean, std: of the normalisation of the inputs, by channel, which is undone first: ratios are of amplitudes.
    """

    def __init__(
        self,
        patch: Sequence[int],
        scales: Sequence[int] = (5, 9, 13, 17),
        offset: float = 0.01,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ):
        super().__init__(patch)
        if len(self.patch) != 2:
            raise UserError(f"patch {self.patch}: gradients are of images. Give (height, width).")
        if not scales or min(scales) < 1:
            raise UserError(f"scales must be one or more whole numbers of at least 1 pixel, got {tuple(scales)}.")
        check_range("offset", offset, 0)
        self.scales, self.offset = tuple(scales), offset
        self.mean, self.std = tuple(mean), tuple(std)

    def dim(self, channels: int) -> int:
        return super().dim(channels) * len(self.scales)

    def features(self, inputs: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features height width"]:
        mean, std = (inputs.new_tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        picture = inputs * std + mean + self.offset
        if max(self.scales) >= min(picture.shape[2:]):
            raise UserError(
                f"scales {self.scales}: a window of {max(self.scales)} pixels to each side does not fit into an image of "
                f"{picture.shape[2]} x {picture.shape[3]}. Give scales below {min(picture.shape[2:])}."
            )
        return torch.stack([ratio_gradient(picture, k) for k in self.scales], dim=2).flatten(1, 2)


def ratio_gradient(
    picture: Float[Tensor, "batch channels height width"], k: int
) -> Float[Tensor, "batch channels height width"]:
    """The strength of the ratio gradient with windows of 2k + 1 pixels a side; borders are reflected."""
    height, width = picture.shape[2:]
    padded = F.pad(picture, (k, k, k, k), mode="reflect")
    across = F.avg_pool2d(padded, (2 * k + 1, k + 1), stride=1)  # halves of equal size: means have the ratio of sums
    down = F.avg_pool2d(padded, (k + 1, 2 * k + 1), stride=1)
    horizontal = (across[..., :width] / across[..., k:]).log()
    vertical = (down[..., :height, :] / down[..., k:, :]).log()
    return torch.hypot(horizontal, vertical)


def patches(inputs: Float[Tensor, "batch channels *sides"], patch: tuple[int, ...]) -> Float[Tensor, "batch tokens dim"]:
    """Non-overlapping patches in raster order; in each the pixels in raster order, and of each pixel its channels."""
    axes = len(patch)
    cut = inputs
    for axis, side in enumerate(patch):
        cut = cut.unflatten(2 + 2 * axis, (-1, side))
    blocks = [2 + 2 * axis for axis in range(axes)]
    cut = cut.permute(0, *blocks, *(place + 1 for place in blocks), 1)
    return cut.flatten(1, axes).flatten(2)
