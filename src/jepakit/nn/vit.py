"""Vision transformer: patches with fixed positions, all tokens or only the kept ones, rectangular inputs.

Dosovitskiy et al. 2021 (arXiv 2010.11929) without class token, as I-JEPA uses it (arXiv 2301.08243). Parameter names
are timm's, so released weights load by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.positions import grid_positions, interpolate_grid, sincos_2d
from jepakit.nn.tokens import Ids, Tokens
from jepakit.nn.transformer import TokenTransformer
from jepakit.registry import SIZES

MOST_TOKENS = 1024  # of a patch size chosen without being asked


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of a vision transformer. `image_size` is (height, width) in pixels, `patch_size` a square patch's side."""

    image_size: tuple[int, int]
    patch_size: int
    channels: int = 3
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name in ("patch_size", "channels", "dim", "depth", "heads"):
            check_range(name, getattr(self, name), 1, 10_000)  # a stranger's description may claim any number of blocks
        if self.dim % self.heads or self.dim % 4:
            raise UserError(f"dim {self.dim} must be a multiple of heads ({self.heads}) and of 4 (for positions).")
        for name, side in zip(("height", "width"), self.image_size, strict=True):
            if side % self.patch_size or side < self.patch_size:
                near = max(self.patch_size, round(side / self.patch_size) * self.patch_size)
                raise UserError(
                    f"image_size: {name} {side} is not a multiple of patch_size {self.patch_size}. "
                    f"Use {near}, or a patch size that divides {side}."
                )

    @classmethod
    def of_size(cls, size: str, image_size: tuple[int, int], channels: int, patch_size: int | None = None) -> ViTConfig:
        """The ViT of a named size (`jepakit list sizes`) for these images."""
        dim, depth, heads, mlp_ratio = SIZES[size]["vit"]
        return cls(
            image_size=image_size,
            patch_size=default_patch_size(image_size) if patch_size is None else patch_size,
            channels=channels,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns)."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


def default_patch_size(image_size: tuple[int, int], fewest: int = 4) -> int:
    """The largest side that divides the image and leaves at least `fewest` patches on its shorter side, at most 16 pixels.

    Errors: sides with no such divisor but tiny ones; tokens would be too many to train on.
    """
    height, width = image_size
    sides = range(min(16, max(1, min(image_size) // fewest)), 0, -1)
    patch = next(side for side in sides if height % side == 0 and width % side == 0)
    tokens = (height // patch) * (width // patch)
    if tokens > MOST_TOKENS:
        near = " ".join(str(max(16, round(side / 16) * 16)) for side in image_size)
        raise UserError(
            f"image_size {height} {width} can only be cut into {tokens:,} patches of {patch} pixels. Use --image-size {near}, "
            "or give --patch-size."
        )
    return patch


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens by one strided convolution."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.proj = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim rows columns"]:
        return self.proj(images)


class VisionTransformer(TokenTransformer):
    """`encoder(images, keep=None, levels=None) -> Tokens`.

    images: `[batch, channels, height, width]`, any size that the patch size divides; away from `config.image_size` the
    position table is interpolated. keep: encode only these tokens (ids of the raster grid, ragged allowed); positions
    are added before tokens are dropped. levels: block numbers (1-based, `depth` is the last) whose normalised outputs
    are returned as `[batch, tokens, levels, dim]`.
    """

    Config: ClassVar[type] = ViTConfig

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        # A frozen parameter, not a buffer: released checkpoints list it among the parameters.
        self.pos_embed = nn.Parameter(sincos_2d(config.grid, config.dim)[None], requires_grad=False)
        self.add_blocks(config.dim, config.depth, config.heads, config.mlp_ratio)

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        keep: Ids | None = None,
        levels: Sequence[int] | None = None,
    ) -> Tokens:
        self._check(images)
        features = self.patch_embed(images)
        grid = (features.shape[2], features.shape[3])
        table = interpolate_grid(self.pos_embed[0], self.config.grid, grid)
        x = features.flatten(2).transpose(1, 2) + table
        return self.run(x, grid_positions(grid, images.device).expand(x.shape[0], -1, -1), keep, levels)

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != self.config.channels:
            raise UserError(
                f"The encoder expects images [batch, {self.config.channels}, height, width], got {list(images.shape)}."
            )
        patch = self.config.patch_size
        if images.shape[2] % patch or images.shape[3] % patch:
            raise UserError(f"Image sides {tuple(images.shape[2:])} must be multiples of the patch size {patch}.")


class ClassTokenViT(VisionTransformer):
    """A vision transformer that answers with one vector, `[batch, channels, height, width] -> [batch, dim]`: what becomes of a
    learned token, of no position, that stands before the patches (Dosovitskiy et al. 2021; LeWorldModel)."""

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:  # type: ignore[override]
        self._check(images)
        features = self.patch_embed(images)
        grid = (features.shape[2], features.shape[3])
        patches = features.flatten(2).transpose(1, 2) + interpolate_grid(self.pos_embed[0], self.config.grid, grid)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        positions = F.pad(grid_positions(grid, images.device), (0, 0, 1, 0), value=-1)  # the token's: outside the grid
        return self.run(x, positions.expand(len(images), -1, -1)).values[:, 0]
