"""Projection heads (MLPs with batch normalisation between their layers), and plain ones."""

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


def mlp(input_dim: int, hidden: Sequence[int], output_dim: int) -> nn.Sequential:
    """Linear and GELU for each hidden width, then a linear layer: `[..., input_dim] -> [..., output_dim]`."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(input_dim, width), nn.GELU()]
        input_dim = width
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))


def vector_encoder(input_dim: int, dim: int) -> nn.Sequential:
    """Two layers of `dim` with GELU for observations that are vectors: `[..., input_dim] -> [..., dim]`."""
    layers = nn.Linear(input_dim, dim), nn.Linear(dim, dim)
    for layer in layers:
        # torch's default loses nine tenths of the variance here. Batch normalisation makes up for it in training, but
        # in eval mode its statistics start at 1: the first health line would see embeddings near a point.
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU())
