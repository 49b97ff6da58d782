"""A small residual convolutional encoder for small images and small data, where a transformer learns slowly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.positions import grid_positions
from jepakit.nn.pyramid import FeatureMap
from jepakit.nn.tokens import Ids, Tokens
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class ConvNetConfig:
    """Shape of the convnet. It halves the image once a stage, until the map is about 4 x 4."""

    image_size: tuple[int, int]
    channels: int = 3
    dim: int = 128
    width: int = 32
    blocks: int = 1

    def __post_init__(self) -> None:
        check_range("image_size", min(self.image_size), 4)
        for name in ("channels", "dim", "width", "blocks"):
            check_range(name, getattr(self, name), 1, 10_000)  # a stranger's description may claim any number of blocks

    @classmethod
    def of_size(cls, size: str, image_size: tuple[int, int], channels: int) -> ConvNetConfig:
        """The convnet of a named size (`jepakit list sizes`) for these images."""
        dim, width, blocks = SIZES[size]["convnet"]
        return cls(image_size=image_size, channels=channels, dim=dim, width=width, blocks=blocks)

    @property
    def stages(self) -> int:
        """Number of halvings."""
        stages, side = 0, min(self.image_size)
        while side > 6:
            side, stages = (side + 1) // 2, stages + 1
        return max(1, stages)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the stem's map and of the map after each halving, `dim` last."""
        inner = (min(self.dim, self.width * 2**stage) for stage in range(1, self.stages))
        return (self.width, *inner, self.dim)

    @property
    def grid(self) -> tuple[int, int]:
        """Size of the last map, (rows, columns)."""
        rows, columns = self.image_size
        for _ in range(self.stages):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        return rows, columns


def _norm(width: int) -> nn.Module:
    # Group rather than batch statistics: the same function for one image and for many, on one process and on many.
    return nn.GroupNorm(max(1, width // 16), width)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut, `stride` in the first."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = _norm(width)
        changed = stride != 1 or width_in != width
        self.shortcut = nn.Conv2d(width_in, width, 1, stride=stride, bias=False) if changed else nn.Identity()

    def forward(self, x: Float[Tensor, "batch width_in h w"]) -> Float[Tensor, "batch width h2 w2"]:
        y = F.gelu(self.norm1(self.conv1(x)))
        return F.gelu(self.shortcut(x) + self.norm2(self.conv2(y)))


class ConvNet(nn.Module):
    """`encoder(images, levels=None) -> Tokens`: the cells of the last map are the tokens, `[batch, rows * columns, dim]`.

    levels: a pyramid instead, the `FeatureMap` of each level asked for, in that order. Level 0 is the stem's, of a
    cell a pixel; level l, up to `config.stages`, that after l halvings. Their widths are `config.widths`. A convolution
    of stride 2 lies centred on every second cell, so cell (r, c) of level l lies over pixel (2^l r, 2^l c), offset 0.
    What is deeper than the deepest level asked for is not computed, and gets no gradient.
    """

    Config: ClassVar[type] = ConvNetConfig

    def __init__(self, config: ConvNetConfig):
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(config.channels, config.width, 3, padding=1, bias=False)
        self.stem_norm = _norm(config.width)
        layers: list[nn.Module] = []
        for narrower, wider in pairwise(config.widths):
            layers.append(ResidualBlock(narrower, wider, stride=2))
            layers += [ResidualBlock(wider, wider, stride=1) for _ in range(config.blocks - 1)]
        self.blocks = nn.Sequential(*layers)

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        keep: Ids | None = None,
        levels: Sequence[int] | None = None,
    ) -> Tokens | list[FeatureMap]:
        self._check(images, keep, levels)
        x = F.gelu(self.stem_norm(self.stem(images)))
        if levels is None:
            x = self.blocks(x)
            grid = (x.shape[2], x.shape[3])
            return Tokens(x.flatten(2).transpose(1, 2), grid_positions(grid, images.device).expand(x.shape[0], -1, -1))
        maps = {0: FeatureMap(x, 1)}
        for level in range(1, max(levels) + 1):
            for number in range((level - 1) * self.config.blocks, level * self.config.blocks):
                x = self.blocks[number](x)
            maps[level] = FeatureMap(x, 2**level)
        return [maps[level] for level in levels]

    def _check(self, images: Tensor, keep: Ids | None, levels: Sequence[int] | None) -> None:
        if images.dim() != 4 or images.shape[1] != self.config.channels:
            raise UserError(
                f"The encoder expects images [batch, {self.config.channels}, height, width], got {list(images.shape)}."
            )
        if keep is not None:
            raise UserError("A convnet sees whole images and cannot encode some tokens alone. Use the ViT.")
        if levels is not None and (not levels or not all(0 <= level <= self.config.stages for level in levels)):
            raise UserError(f"levels {list(levels)} must lie between 0 (the stem) and the {self.config.stages} halvings.")
