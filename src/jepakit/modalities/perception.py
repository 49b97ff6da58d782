"""A pretrained encoder of images or clips as the eyes of a world model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.nn.tokens import Tokens


class PretrainedPerception(nn.Module):
    """Observations, normalised as a world model has them, to the tokens of a frozen image encoder, side by side.

    `[n, channels, height, width] -> [n, output_dim]`. The encoder never learns and never leaves eval mode; where something
    is in a picture stays known, as no token is averaged with another. An encoder of clips is shown a picture that stands still
    for as long as one of its tokens lasts (V-JEPA 2-AC); one of colour pictures sees observations of two channels as red and
    green.

    Errors: observations that are vectors, or of another size or number of channels than the encoder was trained on.
    """

    def __init__(self, pretrained: Any, inputs: TrajectoryInputs):
        super().__init__()
        theirs: ImageInputs | VideoInputs = pretrained.inputs
        expected = (theirs.channels, *theirs.image_size)
        self.missing = 1 if theirs.channels == 3 and inputs.shape[0] == 2 else 0
        if len(inputs.shape) != 3 or (inputs.shape[0] + self.missing, *inputs.shape[1:]) != expected:
            found, wanted = (" x ".join(map(str, shape)) for shape in (inputs.shape, expected))
            raise UserError(
                f"encoder: it was trained on pictures of {wanted} (channels, height, width), an observation "
                f"here is {found if len(inputs.shape) == 3 else f'a vector of {found}'}. Give the encoder of a run on pictures "
                "like these, or leave --encoder out."
            )
        self.encoder = pretrained.encoder.requires_grad_(False).eval()
        self.still = pretrained.encoder.config.tubelet if isinstance(theirs, VideoInputs) else None
        self.ours, self.theirs = inputs, theirs
        self.output_dim = self._probe().values[0].numel()

    @torch.no_grad()
    def tokens(self, observations: Float[Tensor, "n channels height width"]) -> Tokens:
        """The encoder's tokens, as many for each observation."""
        ours, theirs = (
            [torch.tensor(values, device=observations.device)[:, None, None] for values in (inputs.mean, inputs.std)]
            for inputs in (self.ours, self.theirs)
        )
        pixels = F.pad(observations * ours[1] + ours[0], (0, 0, 0, 0, 0, self.missing))
        pictures = ((pixels - theirs[0]) / theirs[1]).to(observations.dtype)
        if self.still is not None:
            pictures = pictures[:, :, None].expand(-1, -1, self.still, -1, -1)
        found = self.encoder(pictures)
        return found if isinstance(found, Tokens) else Tokens(found[:, None], found.new_zeros(len(found), 1, 2))

    def _probe(self) -> Tokens:
        """Those of one observation, where the encoder's weights are: a world model may be built without numbers around it."""
        return self.tokens(torch.zeros(1, *self.ours.shape, device=next(self.encoder.parameters()).device))

    def forward(self, observations: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n output_dim"]:
        return self.tokens(observations).values.flatten(1)

    def train(self, mode: bool = True) -> PretrainedPerception:
        super().train(mode)
        self.encoder.eval()
        return self


class PretrainedTokens(PretrainedPerception):
    """The same, its tokens one by one: `[n, channels, height, width] -> Tokens`, on a grid of (rows, columns).

    Errors: also, an encoder whose tokens are not all of one grid.
    """

    def __init__(self, pretrained: Any, inputs: TrajectoryInputs):
        super().__init__(pretrained, inputs)
        found = self._probe()
        rows, columns = (found.positions[0, :, -2:].amax(0) + 1).long().tolist()
        self.grid, self.dim = (rows, columns), found.values.shape[2]
        if rows * columns != found.values.shape[1]:
            raise UserError(
                f"encoder: it gives {found.values.shape[1]} tokens on a grid of {rows} x {columns}. Give one with a token for "
                "each place."
            )

    def forward(self, observations: Float[Tensor, "n channels height width"]) -> Tokens:  # type: ignore[override]
        return self.tokens(observations)


class AsPrepared(nn.Module):
    """A pretrained encoder (with its `inputs`) that takes images or clips prepared for another: their scale is changed to its
    own.

    Errors: those of `check_reads` of its inputs.
    """

    def __init__(self, pretrained: Any, ours: Any):
        super().__init__()
        pretrained.inputs.check_reads(ours)
        self.encoder = pretrained.encoder
        self.ours, self.theirs = ours, pretrained.inputs

    def forward(self, prepared: Float[Tensor, "batch channels *frames height width"], **asked: Any) -> Any:
        if (self.ours.mean, self.ours.std) != (self.theirs.mean, self.theirs.std):
            # Clips have their frames between channels and height.
            prepared = self.theirs.normalise(self.ours.unit(prepared.movedim(1, -3))).movedim(-3, 1)
        return self.encoder(prepared, **asked)

    @torch.no_grad()
    def width_on(self, grid: tuple[int, ...]) -> int:
        """Width of its tokens. Errors: they do not lie on this grid."""
        tokens = self.encoder(torch.zeros(1, self.ours.channels, *self.ours.extent))
        found = tuple((tokens.positions[0].amax(0) + 1).tolist())
        if found != tuple(grid):
            theirs, ours = (" x ".join(map(str, sides)) for sides in (found, grid))
            raise UserError(
                f"The encoder given has {theirs} tokens {self.ours.noun}, this run has {ours}: a target for each token needs "
                f"the same. Use --patch-size {max(1, self.ours.image_size[0] // int(found[-2]))}."
            )
        return int(tokens.values.shape[-1])
