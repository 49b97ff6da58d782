"""Motion between two frames, found coarse to fine on their pyramids of features (PWC-Net: Sun et al. 2018, arXiv 1709.02371).

Flow is in pixels of the image on every level, (down, right) as `FeatureMap` counts, and says where what lies at a cell of the
first frame lies in the second. A flow in cells would have to be doubled whenever it is carried to a level twice as fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.pyramid import FeatureMap


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Sizes of the flow predictor."""

    dim: int = 32
    """Width of the features that are compared."""
    radius: int = 2
    """Cells around a place that are searched, on each level; PWC-Net: 4."""
    width: int = 64
    """Width of the network that reads the comparisons."""

    def __post_init__(self) -> None:
        check_range("flow.dim", self.dim, 1)
        check_range("flow.radius", self.radius, 1, 16)
        check_range("flow.width", self.width, 1)


class FlowPredictor(nn.Module):
    """`predictor(first, second) -> flows`: of two pyramids, finest level first, the flow of each level, in the same order.

    On each level, from the coarsest: the second frame's features are carried back by the flow so far, compared with the first's
    around each cell, and one small network, the same for all levels, says in cells what the flow lacks. (PWC-Net shows it the
    first frame's features, too; on moving photographs that made no difference but in time.)

    Args:
        levels: those of the encoder's pyramid that are read, finest first.
        widths: of each level's features.
    """

    def __init__(self, config: FlowConfig, levels: Sequence[int], widths: Sequence[int]):
        super().__init__()
        self.config, self.levels = config, tuple(levels)
        self.projections = nn.ModuleList(nn.Conv2d(width, config.dim, 1) for width in widths)
        compared, inner = (2 * config.radius + 1) ** 2, config.width
        self.network = nn.Sequential(
            nn.Conv2d(compared + 2, inner, 3, padding=1), nn.GELU(),
            nn.Conv2d(inner, inner, 3, padding=1), nn.GELU(),
            nn.Conv2d(inner, inner // 2 or 1, 3, padding=1), nn.GELU(),
            nn.Conv2d(inner // 2 or 1, 2, 3, padding=1),
        )  # fmt: skip

    def forward(self, first: Sequence[FeatureMap], second: Sequence[FeatureMap]) -> list[FeatureMap]:
        if not len(first) == len(second) == len(self.projections):
            raise UserError(f"Flow is found on {len(self.projections)} levels, got {len(first)} and {len(second)}.")
        flows: list[FeatureMap] = []
        for here, there, project in reversed(list(zip(first, second, self.projections, strict=True))):
            ours, theirs = comparable(project(here.values), project(there.values))
            so_far = flows[-1].at(here.positions) if flows else ours.new_zeros(len(ours), 2, *here.grid)
            carried = carry(FeatureMap(theirs, there.stride, there.offset), so_far)
            seen = torch.cat([correlation(ours, carried, self.config.radius), so_far / here.stride], dim=1)
            flows.append(FeatureMap(so_far + here.stride * self.network(seen), here.stride, here.offset))
        return flows[::-1]

    def between(
        self, encoder: nn.Module, first: Float[Tensor, "batch channels h w"], second: Tensor
    ) -> Float[Tensor, "batch 2 h w"]:
        """Motion from one prepared frame to the next, pixel by pixel: right and down, in pixels. `encoder`: whose pyramid it
        learned to read. Errors: frames of unequal shapes."""
        if first.shape != second.shape or first.dim() != 4:
            raise UserError(
                f"Flow is between two batches of frames [batch, channels, height, width] of one shape, got {list(first.shape)} "
                f"and {list(second.shape)}."
            )
        flows = self(encoder(first, levels=self.levels), encoder(second, levels=self.levels))
        return flows[0].at(FeatureMap(first, 1).positions).flip(1)


def comparable(
    first: Float[Tensor, "batch dim h w"], second: Float[Tensor, "batch dim h w"]
) -> tuple[Float[Tensor, "batch dim h w"], Float[Tensor, "batch dim h w"]]:
    """Both with the mean over their cells taken off, of length 1: their products are cosines. What all cells share would else
    hide what tells them apart: such normalisation matters much (Jonschkowski et al. 2020, arXiv 2006.04902)."""
    mean = (first.mean((2, 3), keepdim=True) + second.mean((2, 3), keepdim=True)) / 2
    return F.normalize(first - mean, dim=1), F.normalize(second - mean, dim=1)


def carry(second: FeatureMap, flow: Float[Tensor, "batch 2 h w"]) -> Float[Tensor, "batch dim h w"]:
    """The second frame carried back onto the first, by the first's flow: its values where each cell has gone."""
    return second.at(second.positions + flow.movedim(1, -1))


def stays(level: FeatureMap, flow: Float[Tensor, "batch 2 h w"]) -> Bool[Tensor, "batch h w"]:
    """Which cells go to a place between the cells' centres: the others left the picture, and nothing is known of them."""
    places = level.positions + flow.movedim(1, -1)
    last = level.offset + level.stride * (torch.tensor(level.grid, device=flow.device) - 1)
    return ((places >= level.offset) & (places <= last)).all(-1)


def correlation(
    first: Float[Tensor, "batch dim h w"], second: Float[Tensor, "batch dim h w"], radius: int
) -> Float[Tensor, "batch offsets h w"]:
    """Sum over dim of each cell of `first` times every cell of `second` up to `radius` rows and columns away.

    `(2 radius + 1)^2` offsets (down, right) in raster order; 0 beyond the edge.
    """
    rows, columns = first.shape[2:]
    padded = F.pad(second, [radius] * 4)
    sides = range(2 * radius + 1)
    found = [(first * padded[:, :, i : i + rows, j : j + columns]).sum(1) for i in sides for j in sides]
    return torch.stack(found, dim=1)


def image_pyramid(images: Float[Tensor, "batch channels height width"], levels: int) -> list[FeatureMap]:
    """The pictures at levels 0 to `levels`, each half the one before: blurred by (1, 2, 1) / 4, every second pixel taken.

    So cell r of level l lies over pixel 2^l r, as those of `ConvNet` do.
    """
    maps = [FeatureMap(images, 1)]
    row = torch.tensor([0.25, 0.5, 0.25], device=images.device, dtype=images.dtype)
    kernel = (row[:, None] * row).expand(images.shape[1], 1, 3, 3)
    for level in range(1, levels + 1):
        padded = F.pad(maps[-1].values, [1] * 4, mode="replicate")
        maps.append(FeatureMap(F.conv2d(padded, kernel, stride=2, groups=images.shape[1]), 2**level))
    return maps
