"""What a trained encoder expects of an image: size, channels, scale. It travels with the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.crops import center_view, nearest_view
from jepakit.modalities.images.data import ImageData, in_pieces, open_images, stack_images
from jepakit.modalities.modality import Inputs, Modality, check_scale
from jepakit.modalities.steps import picture


@dataclass(frozen=True, kw_only=True)
class ImageInputs(Inputs):
    """Height and width in pixels, channels (1 or 3), and the channels' mean and standard deviation in [0, 1]."""

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    modality: ClassVar[str] = "images"
    plain_name: ClassVar[str] = "pixels"
    has_maps: ClassVar[bool] = True
    noun: ClassVar[str] = "an image"

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise UserError(f"inputs: mean {self.mean} and std {self.std} must have {self.channels} channels each.")
        check_scale(self.image_size, self.std)

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

    def unit(self, images: Float[Tensor, "*batch channels height width"]) -> Tensor:
        """The reverse of `normalise`."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return images * std + mean

    def restore(self, images: Float[Tensor, "*batch channels height width"]) -> Tensor:
        """The reverse of `normalise`, cut to [0, 1]: pixels to look at."""
        return self.unit(images).clamp(0, 1)

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch channels height width"]:
        """Samples of a data set as the encoder's input, without chance: resized, cut at the centre, normalised."""

        def prepared(few: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
            return {"images": self.normalise(center_view(*stack_images(few), self.image_size))}

        return in_pieces(prepared, samples, self.image_size)["images"]

    def map_view(self, labels: Num[np.ndarray, "*frames h w"]) -> Num[np.ndarray, "*frames height width"]:
        """A map of labels as the encoder sees its picture: cut at the centre, each pixel's label that of the nearest one."""
        return nearest_view(labels, self.image_size)

    def sample(self, step: Any) -> dict[str, Any]:
        """One picture `[channels, height, width]`."""
        return {"image": picture(step, self.channels)}

    @property
    def prepared_shape(self) -> tuple[int, ...]:
        return (self.channels, *self.image_size)

    @property
    def extent(self) -> tuple[int, ...]:
        """What follows the channels in a prepared batch."""
        return self.image_size

    def check_reads(self, other: ImageInputs) -> None:
        """Raise `UserError` where an encoder of these inputs cannot read what was prepared for the other."""
        if (self.image_size, self.channels) != (other.image_size, other.channels):
            size = " ".join(map(str, self.image_size))
            raise UserError(
                f"The encoder given was trained on {self.describe()} in {self.channels} channels, this run has "
                f"{other.describe()} in {other.channels}. Use --image-size {size} --channels {self.channels}."
            )

    def describe(self) -> str:
        """The input's size in words."""
        return f"{self.image_size[0]} x {self.image_size[1]} pixels"

    def plain(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch features"]:
        """The prepared pixels, one vector an image."""
        return self.prepare(samples).flatten(1)

    def options(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "channels": self.channels}


DECODING = 150, "JPEGs"  # photographs that a core decodes, crops and resizes to 224 in a second (assumed)


def blank(config: ImageDataConfig) -> tuple[ImageInputs, dict[str, Any]]:
    """What an encoder of pictures of this size would expect, 224 x 224 and in colour where nothing is said, and a black one."""
    size, channels = config.image_size or (224, 224), config.channels or 3
    inputs = ImageInputs(image_size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    return inputs, {"image": torch.zeros(channels, *size, dtype=torch.uint8)}


IMAGES = Modality(
    "images", ImageDataConfig, ImageInputs, open_images, ImageInputs.of, blank=blank, decoding=DECODING,
    inspect="jepakit.modalities.images.inspection:inspect", pictures="jepakit.modalities.images.pictures:look_at",
    pack="jepakit.modalities.images.packing:pack",
)  # fmt: skip
