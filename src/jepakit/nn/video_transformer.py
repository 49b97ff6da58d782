"""Video transformer: clips cut into tubelets, still pictures into patches, and one transformer for both.

V-JEPA 2.1 (arXiv 2603.14482, section 3; parameter names as in the released code): each modality has its own patchifier and a
learnable embedding added to all its tokens. Positions are fixed 3-D sine and cosine as in V-JEPA (arXiv 2404.08471), for
clips of the size it was made for; or rotary ones as in V-JEPA 2 (arXiv 2506.09985), for clips of any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError, check_choice, check_range
from jepakit.nn.positions import grid_positions, sincos_3d
from jepakit.nn.rotary import Rotation, axis_width, stretched
from jepakit.nn.tokens import Ids, Tokens
from jepakit.nn.transformer import TokenTransformer
from jepakit.nn.vit import default_patch_size
from jepakit.registry import SIZES

PATCHES = 8  # a side at least, of a patch size chosen without being asked: tubes need room


def level_depths(depth: int, levels: int) -> tuple[int, ...]:
    """Numbers (1-based) of the blocks whose outputs are `levels` levels of an encoder: evenly spaced, the last included.

    Four levels are the released ones for 12 (3, 6, 9, 12), 24, 40 and 48 blocks, of which the third is 38 instead of 36.
    """
    if not 1 <= levels <= depth:
        raise UserError(f"levels must be at least 1 and at most the encoder's depth {depth}, got {levels}.")
    if (depth, levels) == (48, 4):
        return (12, 24, 38, 48)
    return tuple(math.ceil(depth * level / levels) for level in range(1, levels + 1))


@dataclass(frozen=True, kw_only=True)
class VideoTransformerConfig:
    """Shape of a video transformer. `frames` and `image_size` (height, width) are what it is trained on.

    tubelet: frames of a token. stills: whether it reads single pictures, too. levels: how many depths it can give, each with
    a norm of its own. positions: "sincos", a fixed table added to the tokens, or how rotary ones turn them, see `nn.rotary`.
    stretch: (rows, columns) that rotary positions of any picture are stretched to (V-JEPA 2.1: 16, 16); None: they are as they
    are.
    """

    frames: int
    image_size: tuple[int, int]
    patch_size: int
    tubelet: int = 2
    channels: int = 3
    stills: bool = False
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    levels: int = 1
    positions: Literal["sincos", "paired", "tiled"] = "sincos"
    stretch: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_choice("positions", self.positions, ("sincos", "paired", "tiled"))
        if self.stretch is not None and self.rotation is None:
            raise UserError("stretch is of rotary positions. Leave it out, or set positions to paired or tiled.")
        for name in ("frames", "patch_size", "tubelet", "channels", "dim", "depth", "heads"):
            check_range(name, getattr(self, name), 1, 10_000)  # a stranger's description may claim any number of blocks
        if self.dim % self.heads:
            raise UserError(f"dim {self.dim} must be a multiple of heads ({self.heads}).")
        if self.rotation is not None:
            axis_width(self.dim // self.heads)
        level_depths(self.depth, self.levels)
        if self.frames % self.tubelet:
            raise UserError(f"{self.frames} frames cannot be cut into tubelets of {self.tubelet}. Use --frames or --tubelet.")
        for name, side in zip(("height", "width"), self.image_size, strict=True):
            if side % self.patch_size:
                raise UserError(
                    f"image_size: {name} {side} is not a multiple of patch_size {self.patch_size}. "
                    f"Use {max(1, round(side / self.patch_size)) * self.patch_size}, or a patch size that divides {side}."
                )

    @classmethod
    def of_size(
        cls,
        size: str,
        frames: int,
        image_size: tuple[int, int],
        channels: int,
        patch_size: int | None = None,
        *,
        tubelet: int = 2,
        stills: bool = False,
        levels: int = 1,
        positions: Literal["sincos", "paired", "tiled"] = "sincos",
    ) -> VideoTransformerConfig:
        """The transformer of a named size (`jepakit list sizes`) for these clips."""
        dim, depth, heads, mlp_ratio = SIZES[size]["vit"]
        return cls(
            frames=frames,
            image_size=image_size,
            patch_size=default_patch_size(image_size, PATCHES) if patch_size is None else patch_size,
            tubelet=tubelet,
            channels=channels,
            stills=stills,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            levels=levels,
            positions=positions,
        )

    @property
    def rotation(self) -> Rotation | None:
        """Of rotary positions."""
        return None if self.positions == "sincos" else self.positions

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of a clip as (time, rows, columns)."""
        rows, columns = (side // self.patch_size for side in self.image_size)
        return self.frames // self.tubelet, rows, columns

    @property
    def still_grid(self) -> tuple[int, int, int]:
        """Tokens of a still picture: those of the first moment."""
        return 1, *self.grid[1:]

    @property
    def levels_at(self) -> tuple[int, ...]:
        """The blocks of its levels."""
        return level_depths(self.depth, self.levels)


class TubeletEmbed(nn.Module):
    """Non-overlapping tubelets to tokens by one strided convolution."""

    def __init__(self, channels: int, dim: int, tubelet: int, patch_size: int):
        super().__init__()
        size = (tubelet, patch_size, patch_size)
        self.proj = nn.Conv3d(channels, dim, size, stride=size)

    def forward(self, clips: Float[Tensor, "batch channels frames height width"]) -> Float[Tensor, "batch tokens dim"]:
        return self.proj(clips).flatten(2).transpose(1, 2)


class VideoTransformer(TokenTransformer):
    """`encoder(clips, keep=None, levels=None) -> Tokens`, positions `(time, row, column)`.

    clips: `[batch, channels, frames, height, width]`, of the size it was made for, and of its number of frames or fewer; with
    rotary positions of any whole number of tubelets. One frame is a still picture where the encoder reads those. keep: encode
    only these tokens (ids of the raster grid, ragged allowed). levels: numbers of blocks, out of `config.levels_at`, whose
    normalised outputs are returned as `[batch, tokens, levels, dim]`.
    """

    Config: ClassVar[type] = VideoTransformerConfig

    def tubelet_of(self, frames: int) -> int:
        """Frames that a token covers in clips of so many frames. Errors: clips that the encoder cannot read."""
        config = self.config
        tubelet = 1 if frames == 1 and config.stills else config.tubelet  # each frame is a still picture
        if frames % tubelet:
            near = max(1, round(frames / tubelet)) * tubelet
            raise UserError(f"window {frames} cannot be cut into tubelets of {tubelet}. Use {near}.")
        if frames > config.frames and config.rotation is None:
            raise UserError(
                f"window {frames}: the encoder's positions are for at most {config.frames} frames. Use a window up to "
                "that, or an encoder with rotary positions."
            )
        return tubelet

    def __init__(self, config: VideoTransformerConfig):
        super().__init__()
        self.config = config
        self.patch_embed = TubeletEmbed(config.channels, config.dim, config.tubelet, config.patch_size)
        if config.stills:
            self.patch_embed_img = TubeletEmbed(config.channels, config.dim, 1, config.patch_size)
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, config.dim))
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, config.dim))
            for embedding in (self.img_mod_embed, self.video_mod_embed):
                nn.init.trunc_normal_(embedding, std=0.02)
        if config.rotation is None:
            self.pos_embed = nn.Parameter(sincos_3d(config.grid, config.dim)[None], requires_grad=False)
        norms = config.levels_at if config.levels > 1 else ()
        self.add_blocks(config.dim, config.depth, config.heads, config.mlp_ratio, norms, config.rotation)

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(
        self,
        clips: Float[Tensor, "batch channels frames height width"],
        keep: Ids | None = None,
        levels: Sequence[int] | None = None,
    ) -> Tokens:
        self._check(clips)
        config = self.config
        still = config.stills and clips.shape[2] == 1
        time = 1 if still else clips.shape[2] // config.tubelet
        x = self.patch_embed_img(clips) if still else self.patch_embed(clips)
        if config.rotation is None:
            x = x + self.pos_embed[:, : x.shape[1]]  # raster order: the first moments come first
        else:
            x = x.to(self.patch_embed.proj.weight.dtype)  # as precise as with positions, for much is added to it
        if config.stills:
            x = x + (self.img_mod_embed if still else self.video_mod_embed)
        grid = (time, *(side // config.patch_size for side in clips.shape[3:]))
        positions = grid_positions(grid, clips.device)
        turn_by = None if config.stretch is None else stretched(positions, grid, config.stretch).expand(len(x), -1, -1)
        return self.run(x, positions.expand(len(x), -1, -1), keep, levels, turn_by=turn_by)

    def _check(self, clips: Tensor) -> None:
        config, frames = self.config, clips.shape[2]
        free = config.rotation is not None
        sides = tuple(clips.shape[3:])
        fits = min(sides) > 0 and not any(side % config.patch_size for side in sides) if free else sides == config.image_size
        if clips.shape[1] != config.channels or not fits:
            asked = f"multiples of {config.patch_size}" if free else " x ".join(map(str, config.image_size))
            raise UserError(
                f"The encoder expects clips [batch, {config.channels}, frames, {asked}], got {list(clips.shape)}. Prepare "
                "them with its inputs."
            )
        if config.stills and frames == 1:
            return
        if frames % config.tubelet or frames < 1 or (frames > config.frames and not free):
            most = "any number of" if free else f"{config.tubelet} to {config.frames}"
            still = " (or 1, a still picture)" if config.stills else ""
            raise UserError(f"The encoder expects {most} frames, a multiple of {config.tubelet}{still}, got {frames}.")
