"""The convnet for clips: every frame by itself, so that what moves is left to whoever compares two of them."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError
from jepakit.nn.convnet import ConvNet
from jepakit.nn.positions import grid_positions
from jepakit.nn.pyramid import FeatureMap
from jepakit.nn.tokens import Ids, Tokens


class FrameEncoder(ConvNet):
    """`encoder(clips [batch, channels, frames, height, width]) -> Tokens`: the last map of each frame, one frame after the
    other, `[batch, frames * rows * columns, dim]`, at positions (frame, row, column). Of clips of any number of frames.

    levels: of pictures `[batch, channels, height, width]` alone: their pyramid, as `ConvNet` gives it. The weights are a
    `ConvNet`'s, by name and shape.
    """

    def forward(
        self, images: Float[Tensor, "batch channels *frames height width"], keep: Ids | None = None,
        levels: Sequence[int] | None = None,
    ) -> Tokens | list[FeatureMap]:  # fmt: skip
        if images.dim() != 5:
            return super().forward(images, keep, levels)
        if levels is not None:
            raise UserError("A pyramid is of single pictures [batch, channels, height, width]: give the frames one by one.")
        frames = images.shape[2]
        maps = super().forward(images.transpose(1, 2).flatten(0, 1), keep, levels=[self.config.stages])
        assert isinstance(maps, list)  # levels were asked for
        values = maps[0].values.unflatten(0, (len(images), frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        return Tokens(values, grid_positions((frames, *maps[0].grid), images.device).expand(len(images), -1, -1))
