"""Feature maps that know where they lie in the image: what a convolutional encoder returns at several resolutions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepakit.nn.positions import grid_positions
from jepakit.nn.tokens import Tokens


@dataclass(frozen=True)
class FeatureMap:
    """One level of a pyramid: `values [batch, dim, rows, columns]`.

    stride: pixels from one cell to the next. offset: pixel coordinate of the first cell's centre, in both axes.

    Coordinates are (row, column) in pixels of the image, whatever the level, and a pixel's centre lies at its index. So
    a flow in pixels means the same on every level and needs no factor when it is carried to a finer one, and nothing
    depends on how a library counts corners. Coarse to fine, with `flow [batch, 2, rows, columns]` of a coarser level:

        there = FeatureMap(flow, coarse.stride, coarse.offset).at(fine.positions)   # the flow at the finer cells
        warped = fine_of_next_frame.at(fine.positions + there.movedim(1, -1))       # that frame's features, carried back
    """

    values: Float[Tensor, "batch dim rows columns"]
    stride: int
    offset: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        return self.values.shape[2], self.values.shape[3]

    @property
    def positions(self) -> Float[Tensor, "batch rows columns 2"]:
        """Centre of each cell, in the map's dtype but never less than float32."""
        wide = torch.promote_types(self.values.dtype, torch.float32)
        cells = grid_positions(self.grid, self.values.device).to(wide).unflatten(0, self.grid)
        return (self.offset + self.stride * cells).expand(len(self.values), -1, -1, -1)

    def tokens(self) -> Tokens:
        """The cells in raster order, their positions in pixels."""
        return Tokens(self.values.flatten(2).transpose(1, 2), self.positions.flatten(1, 2))

    def at(self, points: Float[Tensor, "batch h w 2"]) -> Float[Tensor, "batch dim h w"]:
        """Values at points of the image by bilinear interpolation; outside the cells' centres that of the nearest edge."""
        cells = (points - self.offset) / self.stride
        sides = torch.tensor(self.grid, device=cells.device, dtype=cells.dtype)
        # grid_sample counts from -1 to 1 over the cells' outer edges, column first.
        unit = ((2 * cells + 1) / sides - 1).flip(-1)
        values = self.values.to(unit.dtype)
        return F.grid_sample(values, unit, mode="bilinear", padding_mode="border", align_corners=False)
