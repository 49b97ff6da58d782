"""What a trained encoder expects of an image: size, channels, scale. It travels with the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError
from jepakit.modalities.crops import center_view
from jepakit.modalities.images import ImageData, stack_images
from jepakit.randomness import Draws


@dataclass(frozen=True, kw_only=True)
class ImageInputs:
    """Height and width in pixels, channels (1 or 3), and the channels' mean and standard deviation in [0, 1]."""

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise UserError(f"inputs: mean {self.mean} and std {self.std} must have {self.channels} channels each.")

    @classmethod
    def of(cls, images: ImageData) -> ImageInputs:
        """What an encoder trained on this data expects."""
        if images.config.image_size is None or images.config.channels is None:
            raise UserError("The data's image_size and channels are not decided: open it with open_images.")
        return cls(
            image_size=images.config.image_size, channels=images.config.channels, mean=images.mean, std=images.std
        )

    def normalise(self, images: Float[Tensor, "*batch channels height width"]) -> Tensor:
        """Pixels in [0, 1] to zero mean and unit deviation."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return (images - mean) / std

    def restore(self, images: Float[Tensor, "*batch channels height width"]) -> Tensor:
        """The reverse of `normalise`, cut to [0, 1]: pixels to look at."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch channels height width"]:
        """Samples of a data set as the encoder's input, without chance: resized, cut at the centre, normalised."""
        return self.normalise(center_view(*stack_images(samples), self.image_size))


def sample_draws(samples: Sequence[dict[str, Any]], seed: int, stream: str) -> Draws:
    """The random stream of each sample, from (seed, epoch, id); samples outside training count as epoch 0."""
    epochs = np.asarray([sample.get("epoch", 0) for sample in samples])
    return Draws(seed, stream, epochs, np.asarray([sample["id"] for sample in samples]))


def sample_facts(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The parts of a batch that no system adds: `id [batch]`, `label [batch, ...]` where known, and the `step`."""
    batch = {"id": torch.tensor([sample["id"] for sample in samples]), "step": torch.tensor(samples[0].get("step", 0))}
    if "label" in samples[0]:
        batch["label"] = torch.as_tensor(np.stack([sample["label"] for sample in samples]))
    return batch
