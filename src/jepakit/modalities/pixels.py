"""Pixels as numbers in [0, 1], whatever they are stored as."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def unit(pixels: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`uint8` from 0 to 255 as `float32` in [0, 1]; numbers that are no `uint8` as they are."""
    return pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels
