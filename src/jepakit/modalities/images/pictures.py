"""Draws what a system is shown of images: blocks of a mask, views."""

from __future__ import annotations

import numpy as np


def show_only(image: np.ndarray, ids: list[int], grid: tuple[int, int]) -> np.ndarray:
    """The image with all tokens but these washed out; grey stands for hidden."""
    shown = np.zeros(grid[0] * grid[1], dtype=bool)
    shown[ids] = True
    patch = (image.shape[0] // grid[0], image.shape[1] // grid[1])
    mask = np.kron(shown.reshape(grid), np.ones(patch, dtype=bool))[..., None]
    return np.where(mask, image, 0.75 + 0.1 * image)
