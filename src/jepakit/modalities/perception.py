"""A pretrained encoder of images as the eyes of a world model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError
from jepakit.modalities.inputs import ImageInputs
from jepakit.modalities.trajectories import TrajectoryInputs
from jepakit.nn.tokens import Tokens


class PretrainedPerception(nn.Module):
    """Observations, normalised as a world model has them, to the tokens of a frozen image encoder, side by side.

    `[n, channels, height, width] -> [n, output_dim]`. The encoder never learns and never leaves eval mode; where something
    is in a picture stays known, as no token is averaged with another.

    Errors: observations that are vectors, or of another size or number of channels than the encoder was trained on.
    """

    def __init__(self, pretrained: Any, inputs: TrajectoryInputs):
        super().__init__()
        theirs: ImageInputs = pretrained.inputs
        expected = (theirs.channels, *theirs.image_size)
        if inputs.shape != expected:
            found, wanted = (" x ".join(map(str, shape)) for shape in (inputs.shape, expected))
            raise UserError(
                f"encoder: it was trained on pictures of {wanted} (channels, height, width), an observation "
                f"here is {found if len(inputs.shape) == 3 else f'a vector of {found}'}. Give the encoder of a run on pictures "
                "like these, or leave --encoder out."
            )
        self.encoder = pretrained.encoder.requires_grad_(False).eval()
        self.ours, self.theirs = inputs, theirs
        self.output_dim = self(torch.zeros(1, *inputs.shape)).shape[1]

    @torch.no_grad()
    def forward(self, observations: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n output_dim"]:
        mean, std = (torch.tensor(v, device=observations.device)[:, None, None] for v in (self.ours.mean, self.ours.std))
        found = self.encoder(self.theirs.normalise(observations * std + mean).to(observations.dtype))
        return (found.values if isinstance(found, Tokens) else found).flatten(1)

    def train(self, mode: bool = True) -> PretrainedPerception:
        super().train(mode)
        self.encoder.eval()
        return self
