"""A small residual convolutional encoder for small images and small data, where a transformer learns slowly."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.positions import grid_positions
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
            check_range(name, getattr(self, name), 1)

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
    """`encoder(images) -> Tokens`: the cells of the last map are the tokens, `[batch, rows * columns, dim]`."""

    def __init__(self, config: ConvNetConfig):
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(config.channels, config.width, 3, padding=1, bias=False)
        self.stem_norm = _norm(config.width)
        layers: list[nn.Module] = []
        width = config.width
        for stage in range(1, config.stages + 1):
            wider = config.dim if stage == config.stages else min(config.dim, config.width * 2**stage)
            layers.append(ResidualBlock(width, wider, stride=2))
            layers += [ResidualBlock(wider, wider, stride=1) for _ in range(config.blocks - 1)]
            width = wider
        self.blocks = nn.Sequential(*layers)

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(self, images: Float[Tensor, "batch channels height width"], keep: Ids | None = None) -> Tokens:
        if images.dim() != 4 or images.shape[1] != self.config.channels:
            raise UserError(
                f"The encoder expects images [batch, {self.config.channels}, height, width], got {list(images.shape)}."
            )
        if keep is not None:
            raise UserError("A convnet sees whole images and cannot encode some tokens alone. Use the ViT.")
        features = self.blocks(F.gelu(self.stem_norm(self.stem(images))))
        grid = (features.shape[2], features.shape[3])
        return Tokens(
            features.flatten(2).transpose(1, 2), grid_positions(grid, images.device).expand(images.shape[0], -1, -1)
        )
