"""Projection heads: MLPs with batch normalisation between their layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from jepakit.nn.batch_norm import BatchNorm


def projection_head(input_dim: int, hidden: Sequence[int], output_dim: int) -> nn.Sequential:
    """Linear, BatchNorm, GELU for each hidden width, then a linear layer: `[..., input_dim] -> [..., output_dim]`.

    Every leading axis is samples to the BatchNorm, which sees those of all ranks. Nothing normalises the output: SIGReg and
    VICReg need to reach any mean and scale.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(input_dim, width, bias=False), BatchNorm(width), nn.GELU()]
        input_dim = width
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))
