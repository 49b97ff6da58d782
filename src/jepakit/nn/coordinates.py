"""Positions that are real coordinates: places in space, on a head or along a walk, made into vectors for a transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from jepakit.errors import UserError, check_choice, check_range


@dataclass(frozen=True, kw_only=True)
class CoordinatesConfig:
    """How coordinates become vectors.

    fourier: for each axis x the number x / unit and sin(2^k pi x / unit), cos(2^k pi x / unit) for k = 0 .. bands - 1, then a
        linear layer (NeRF, arXiv 2003.08934, section 5.1; Perceiver, arXiv 2103.03206). The longest wave is 2 units, the
        shortest 2^(2 - bands) units: with 6 bands places 1/32 unit apart are in opposite phase.
    mlp: two linear layers with a GELU between them on x / unit (Point-MAE, arXiv 2203.06604).
    """

    kind: Literal["fourier", "mlp"] = "fourier"
    axes: int = 3
    """Coordinates of a place."""
    unit: float = 1.0
    """Length that coordinates are divided by: about half the extent of the data."""
    bands: int = 6
    """Frequencies of fourier, each twice the one before."""
    hidden: int = 128
    """Width of the hidden layer of mlp."""

    def __post_init__(self) -> None:
        check_choice("coordinates.kind", self.kind, ("fourier", "mlp"))
        check_range("coordinates.axes", self.axes, 1, 10_000)
        check_range("coordinates.bands", self.bands, 1, 24)  # beyond, float32 has no digits left for the phase
        check_range("coordinates.hidden", self.hidden, 1, 1_000_000)
        if not 0 < self.unit < math.inf:
            raise UserError(f"coordinates.unit must be a length above 0, got {self.unit}. Give half the extent of the data.")


class CoordinateEmbedding(nn.Module):
    """Coordinates to vectors, `[..., axes] -> [..., dim]`, with gradient to the coordinates."""

    def __init__(self, config: CoordinatesConfig, dim: int):
        super().__init__()
        self.config = config
        if config.kind == "fourier":
            self.layers: nn.Module = nn.Linear(config.axes * (1 + 2 * config.bands), dim)
        else:
            self.layers = nn.Sequential(nn.Linear(config.axes, config.hidden), nn.GELU(), nn.Linear(config.hidden, dim))

    def forward(self, coordinates: Num[Tensor, "*tokens axes"]) -> Float[Tensor, "*tokens dim"]:
        weight = next(self.layers.parameters())
        scaled = coordinates.to(torch.float64 if weight.dtype == torch.float64 else torch.float32) / self.config.unit
        if self.config.kind == "fourier":
            scaled = fourier_features(scaled, self.config.bands)
        return self.layers(scaled.to(weight.dtype))


def fourier_features(scaled: Float[Tensor, "*tokens axes"], bands: int) -> Float[Tensor, "*tokens features"]:
    """Each coordinate, then its sines, then its cosines at pi, 2 pi, 4 pi, ..., axis by axis."""
    frequencies = math.pi * 2.0 ** torch.arange(bands, device=scaled.device, dtype=scaled.dtype)
    angles = scaled[..., None] * frequencies
    return torch.cat([scaled[..., None], angles.sin(), angles.cos()], dim=-1).flatten(-2)
