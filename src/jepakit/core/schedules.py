"""Curves over the progress of a training: 0 at the first step, 1 after the last."""

from __future__ import annotations

import math


def linear(start: float, end: float, progress: float) -> float:
    """Straight line from `start` to `end`."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
