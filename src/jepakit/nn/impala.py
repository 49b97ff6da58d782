"""The convolutional encoder of IMPALA (Espeholt et al., ICML 2018, arXiv 1802.01561), as PLDM and EB-JEPA use it, and its
reverse; layers of the same width where observations are vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.mlp import vector_encoder


class ImpalaBlock(nn.Module):
    """Two 3 x 3 convolutions, each after a ReLU, added to their input."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "n width h w"]) -> Float[Tensor, "n width h w"]:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Impala(nn.Module):
    """Images to vectors: for each width a convolution, a halving by max-pooling and `blocks` residual blocks; then the
    flattened map, `[n, channels, height, width] -> [n, output_dim]`, so that *where* something is stays known.

    Errors: images of another shape than told.
    """

    def __init__(self, image_size: tuple[int, int], channels: int, widths: Sequence[int] = (16, 32, 32), blocks: int = 2):
        super().__init__()
        self.image_shape = (channels, *image_size)
        layers: list[nn.Module] = []
        (height, width), before = image_size, channels
        for after in widths:
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [ImpalaBlock(after) for _ in range(blocks)]
            height, width, before = (height + 1) // 2, (width + 1) // 2, after
        self.layers = nn.Sequential(*layers)
        self.output_dim = before * height * width

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n output_dim"]:
        if images.shape[1:] != self.image_shape:
            raise UserError(f"The encoder expects images [n, *{list(self.image_shape)}], got {list(images.shape)}.")
        # Twice as fast on CPUs as channels first, where there are few of them.
        x = self.layers(images.contiguous(memory_format=torch.channels_last))
        return F.relu(x).flatten(1)


class ImpalaDecoder(nn.Module):
    """Vectors to images, `[n, dim] -> [n, channels, height, width]`: the maps of an `Impala` of these widths in reverse, each
    doubled in size by repeating its cells and put through one 3 x 3 convolution."""

    def __init__(self, dim: int, image_size: tuple[int, int], channels: int, widths: Sequence[int] = (16, 32, 32)):
        super().__init__()
        self.sizes = [image_size]
        for _ in widths:
            height, width = self.sizes[-1]
            self.sizes.append(((height + 1) // 2, (width + 1) // 2))
        height, width = self.sizes.pop()
        self.first = (widths[-1], height, width)
        self.linear = nn.Linear(dim, widths[-1] * height * width)
        narrowing = [*reversed(widths), channels]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(narrowing))

    def forward(self, vectors: Float[Tensor, "n dim"]) -> Float[Tensor, "n channels height width"]:
        x = self.linear(vectors).unflatten(1, self.first).contiguous(memory_format=torch.channels_last)
        for convolution, size in zip(self.convolutions, reversed(self.sizes), strict=True):
            x = convolution(F.interpolate(F.relu(x), size=size, mode="nearest"))
        return x.contiguous()


def check_widths(widths: Sequence[int]) -> None:
    """Errors: no stage, or a width below 1."""
    if not widths:
        raise UserError("widths: an encoder needs at least one stage. Give for example 8 16 32.")
    for width in widths:
        check_range("widths", width, 1)


def observation_encoder(shape: tuple[int, ...], widths: Sequence[int]) -> tuple[nn.Module, int]:
    """An encoder of single observations of this shape, `[dim]` or `[channels, height, width]`, and the width of its output."""
    if len(shape) == 1:
        return vector_encoder(shape[0], 8 * widths[-1]), 8 * widths[-1]
    channels, height, width = shape
    impala = Impala((height, width), channels, widths)
    return impala, impala.output_dim


def observation_decoder(dim: int, shape: tuple[int, ...], widths: Sequence[int]) -> nn.Module:
    """What makes observations of this shape of vectors, `[n, dim] -> [n, *shape]`."""
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(dim, 8 * widths[-1]), nn.GELU(), nn.Linear(8 * widths[-1], shape[0]))
    return ImpalaDecoder(dim, (shape[1], shape[2]), shape[0], widths)
