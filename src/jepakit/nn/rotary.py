"""Rotary positions on several axes: queries and keys are turned by where their tokens are, so that scores know distances."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor

from jepakit.errors import UserError

Rotation = Literal["paired", "tiled"]


def axis_width(head_dim: int, axes: int = 3) -> int:
    """Numbers of a head that each axis turns: an equal, even part; what is left over stays as it is.

    Errors: a head too narrow for a pair an axis.
    """
    width = 2 * (head_dim // axes // 2)
    if width == 0:
        least = 2 * axes
        raise UserError(f"Rotary positions on {axes} axes need heads at least {least} wide, got {head_dim}. Use fewer heads.")
    return width


def rotary_angles(
    positions: Num[Tensor, "*tokens axes"], width: int, rotation: Rotation = "paired"
) -> Float[Tensor, "*tokens turned"]:
    """The angle of each number of a head, axis after axis, `width` numbers each; base 10000 (RoFormer, arXiv 2104.09864).

    "paired": the two numbers of a pair are turned by one angle, so that scores depend on distances alone (V-JEPA 2.1).
    "tiled": the released V-JEPA 2 (arXiv 2506.09985) lays its angles out as for halves and turns neighbours by them, which
    are no rotations; its weights need just that.
    """
    frequencies = 10000.0 ** -(torch.arange(width // 2, device=positions.device, dtype=torch.float64) / (width // 2))
    angles = (positions.double()[..., None] * frequencies).float()
    doubled = angles.repeat_interleave(2, dim=-1) if rotation == "paired" else torch.cat([angles, angles], dim=-1)
    return doubled.flatten(-2)


def stretched(
    positions: Num[Tensor, "*tokens axes"], grid: tuple[int, ...], to: tuple[int, ...]
) -> Float[Tensor, "*tokens axes"]:
    """Places of a grid as places of another: its last axes, as many as `to` has, from end to end: pictures of any size then
    have the positions that were trained (V-JEPA 2.1's `interpolate_rope`)."""
    scales = torch.ones(len(grid), device=positions.device)
    for axis, size in enumerate(to, start=len(grid) - len(to)):
        scales[axis] = (size - 1) / max(1, grid[axis] - 1)
    return positions * scales


def rotate(
    heads: Float[Tensor, "batch heads tokens head_dim"], angles: Float[Tensor, "#batch tokens turned"]
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Queries or keys, their first numbers turned by the angles, neighbour with neighbour."""
    turned, rest = heads.split([angles.shape[-1], heads.shape[-1] - angles.shape[-1]], dim=-1)
    cos, sin = (part[:, None].to(heads.dtype) for part in (angles.cos(), angles.sin()))
    first, second = turned.unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack([-second, first], dim=-1).flatten(-2)
    return torch.cat([turned * cos + crossed * sin, rest], dim=-1)
