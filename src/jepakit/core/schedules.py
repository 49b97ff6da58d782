"""Curves over the progress of a training: 0 at the first step, 1 after the last."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError


def linear(start: float, end: float, progress: float) -> float:
    """Straight line from `start` to `end`."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def risen(progress: Float[Tensor, ""], ramp: tuple[float, float]) -> Float[Tensor, ""]:
    """0 up to the first of two shares of the training, 1 from the second on, a straight line between them."""
    start, end = ramp
    return 1 - ((end - progress) / max(end - start, 1e-9)).clamp(0, 1)


def check_ramp(name: str, ramp: tuple[float, float]) -> None:
    """Errors: shares that are none, or the first after the second."""
    if not (len(ramp) == 2 and 0 <= ramp[0] <= ramp[1] <= 1):
        raise UserError(f"{name} must be two shares with 0 <= start <= end <= 1, got {' '.join(map(str, ramp))}.")
