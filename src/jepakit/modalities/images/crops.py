"""Reads boxes of pictures at another size, turned or mirrored: one map of coordinates, one `grid_sample` for all.

Bilinear. Boxes at least twice, four times, ... as large as their output are read (in one `grid_sample` more for each
such power) from the picture averaged over 2x2, 4x4, ... pixels, so that fine texture does not alias.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor


def center_view(
    canvas: Float[Tensor, "batch channels canvas_height canvas_width"],
    sizes: Int[Tensor, "batch 2"],
    out_size: tuple[int, int],
) -> Float[Tensor, "batch channels height width"]:
    """The view for evaluation: the largest centred crop of the output's proportions, resized. Nothing is drawn."""
    height, width = out_size
    if bool((sizes == torch.tensor([height, width], device=sizes.device)).all()):
        return canvas[:, :, :height, :width]
    true = sizes.to(torch.float32)
    scale = torch.minimum(true[:, 0] / height, true[:, 1] / width)
    extent = torch.stack([scale * height, scale * width], dim=1)
    return crop_resize(canvas, sizes, torch.cat([(true - extent) / 2, extent], dim=1), out_size)


def crop_resize(
    canvas: Float[Tensor, "batch channels canvas_height canvas_width"],
    sizes: Int[Tensor, "batch 2"],
    boxes: Float[Tensor, "batch *views 4"],
    out_size: tuple[int, int],
    angle: Float[Tensor, "batch *views"] | None = None,
    flip: Bool[Tensor, "batch *views"] | None = None,
    outside: Literal["edge", "background"] = "edge",
) -> Float[Tensor, "batch *views channels height width"]:
    """Boxes of pictures, resized (and turned, and mirrored) to `out_size`.

    Args:
        boxes: (top, left, height, width) in pixels, fractions allowed; may reach over the picture's edge.
        angle: turn of the content about the box's centre, counter-clockwise, radians.
        flip: mirror left and right.
        outside: what is seen beyond the picture: its nearest pixel, or its background (median of the edge pixels).
    """
    many = boxes if boxes.dim() == 3 else boxes[:, None]
    batch, views = many.shape[:2]
    height, width = out_size
    rows = ((torch.arange(height, device=canvas.device) + 0.5) / height - 0.5)[None, None, :, None]
    columns = ((torch.arange(width, device=canvas.device) + 0.5) / width - 0.5)[None, None, None, :]
    if flip is not None:
        columns = torch.where(flip.reshape(batch, views, 1, 1), -columns, columns)
    top, left, box_height, box_width = (many[..., i, None, None] for i in range(4))
    down, right = rows * box_height, columns * box_width
    if angle is not None:
        cos, sin = (turn.reshape(batch, views, 1, 1) for turn in (angle.cos(), angle.sin()))
        down, right = cos * down + sin * right, cos * right - sin * down
    y, x = torch.broadcast_tensors(top + box_height / 2 + down, left + box_width / 2 + right)

    background = _background(canvas, sizes) if outside == "background" else None
    if background is not None:
        canvas = torch.where(_inside(canvas, sizes), canvas - background, 0.0)
    reduction = torch.maximum(many[..., 2] / height, many[..., 3] / width)
    level = reduction.clamp(min=1.0).log2().floor().to(torch.int64)
    views_out = canvas.new_empty(batch, views, canvas.shape[1], height, width)
    for power in level.unique().tolist():
        members = (level == power).any(dim=1)
        read = _read(canvas[members], sizes[members], y[members], x[members], 2**power, edge=outside == "edge")
        chosen = (level[members] == power)[:, :, None, None, None]
        views_out[members] = torch.where(chosen, read, views_out[members])
    if background is not None:
        views_out = views_out + background[:, None]
    return views_out if boxes.dim() == 3 else views_out[:, 0]


def _read(
    canvas: Tensor, sizes: Tensor, y: Tensor, x: Tensor, block: int, edge: bool
) -> Float[Tensor, "batch views channels height width"]:
    """Pixels at the coordinates `y, x [batch, views, height, width]` of the canvas averaged over `block`² pixels."""
    extent = sizes
    if block > 1:
        canvas, extent = _averaged(canvas, sizes, block), (sizes + block - 1) // block
    y, x = y / block, x / block
    if edge:
        y, x = (
            torch.minimum(place.clamp(min=0.5), extent[:, axis, None, None, None] - 0.5)
            for axis, place in enumerate((y, x))
        )
    batch, views, height, width = y.shape
    grid = torch.stack([2 * x / canvas.shape[3] - 1, 2 * y / canvas.shape[2] - 1], dim=-1)
    # All views of a picture lie below each other in one tall output, so that the canvas is not repeated.
    grid = grid.reshape(batch, views * height, width, 2)
    read = F.grid_sample(canvas, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return read.reshape(batch, -1, views, height, width).transpose(1, 2)


def _averaged(canvas: Tensor, sizes: Tensor, block: int) -> Tensor:
    """Means over `block`² pixels; at a picture's edge over those pixels that belong to it."""
    real = _inside(canvas, sizes).to(canvas.dtype)
    fill = (0, -canvas.shape[3] % block, 0, -canvas.shape[2] % block)
    total = F.avg_pool2d(F.pad(canvas * real, fill), block)
    return total / F.avg_pool2d(F.pad(real, fill), block).clamp(min=1e-6)


def _inside(canvas: Tensor, sizes: Tensor) -> Bool[Tensor, "batch 1 canvas_height canvas_width"]:
    rows = torch.arange(canvas.shape[2], device=canvas.device)[None, None, :, None]
    columns = torch.arange(canvas.shape[3], device=canvas.device)[None, None, None, :]
    return (rows < sizes[:, 0, None, None, None]) & (columns < sizes[:, 1, None, None, None])


def _background(canvas: Tensor, sizes: Tensor) -> Float[Tensor, "batch channels 1 1"]:
    """Median of the pixels along a picture's four edges."""
    rows = torch.arange(canvas.shape[2], device=canvas.device)[None, None, :, None]
    columns = torch.arange(canvas.shape[3], device=canvas.device)[None, None, None, :]
    last = sizes[:, :, None, None, None] - 1
    edge = (rows == 0) | (columns == 0) | (rows == last[:, 0]) | (columns == last[:, 1])
    edge_pixels = torch.where(edge & _inside(canvas, sizes), canvas, torch.nan)
    return edge_pixels.flatten(2).nanmedian(dim=2).values[:, :, None, None]


def nearest_view(
    maps: Num[np.ndarray, "*frames height width"], out_size: tuple[int, int]
) -> Num[np.ndarray, "*frames out_height out_width"]:
    """`center_view` of label maps: the same crop, each pixel's label that of the nearest one, as labels cannot be mixed."""
    places = []
    scale = min(side / out for side, out in zip(maps.shape[-2:], out_size, strict=True))
    for side, out in zip(maps.shape[-2:], out_size, strict=True):
        centres = (side - scale * out) / 2 + scale * (np.arange(out) + 0.5)
        places.append(np.clip(centres.astype(np.int64), 0, side - 1))
    return maps[..., places[0][:, None], places[1]]
