"""What a trained encoder expects of a clip, and the modality: it travels with the weights.."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from jepakit.errors import UserError
from jepakit.modalities.images.crops import center_view, nearest_view
from jepakit.modalities.modality import Inputs, Modality, check_scale
from jepakit.modalities.pixels import unit
from jepakit.modalities.steps import picture
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import VideoData, open_videos
from jepakit.modalities.video.samples import pixels_of
from jepakit.modalities.video.sources import holds_videos


@dataclass(frozen=True, kw_only=True)
class VideoInputs(Inputs):
    """Frames, height and width in pixels, channels, their mean and standard deviation in [0, 1], whether single pictures
    come, too, and how far apart the frames of a file are: `1 / fps` seconds, or every `stride`-th (both None: not said)."""

    frames: int
    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stills: bool = False
    fps: float | None = None
    stride: int | None = None

    modality: ClassVar[str] = "video"
    plain_name: ClassVar[str] = "pixels"
    has_maps: ClassVar[bool] = True
    noun: ClassVar[str] = "a clip"

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise UserError(f"inputs: mean {self.mean} and std {self.std} must have {self.channels} channels each.")
        check_scale((self.frames, *self.image_size), self.std)

    @classmethod
    def of(cls, data: VideoData) -> VideoInputs:
        """What an encoder trained on this data expects."""
        config = data.config
        if config.frames is None or config.image_size is None:
            raise UserError("The data's frames and image_size are not decided: open it with open_videos.")
        return cls(
            frames=config.frames,
            image_size=config.image_size,
            channels=data.channels,
            mean=data.mean,
            std=data.std,
            stills="image" in data.companions,
            fps=config.fps,
            stride=config.stride,
        )

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch channels frames height width"]:
        """Clips as the encoder's input: decoded, resized, cut at the centre, normalised. All of as many frames, of any size.
        Without chance, but that a training sample of a file (it has an epoch) begins where (seed, epoch, id) says."""
        found = [pixels_of(sample) for sample in samples]
        if any(clip.shape != found[0].shape for clip in found):  # pictures of other sizes than their neighbours
            found = [_cut(clip, self.image_size) for clip in found]
        clips = unit(torch.stack(found))
        batch, frames = clips.shape[:2]
        sizes = torch.tensor(clips.shape[3:]).expand(batch * frames, 2)
        pictures = center_view(clips.flatten(0, 1), sizes, self.image_size)
        return self.normalise(pictures).unflatten(0, (batch, frames)).transpose(1, 2)

    def normalise(self, pixels: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch channels height width"]:
        """Pictures in [0, 1] with mean 0 and standard deviation 1 over the training data."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def unit(self, pixels: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch channels height width"]:
        """The reverse of `normalise`."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return pixels * std + mean

    def plain(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch features"]:
        """The prepared pixels of all frames, one vector a clip."""
        return self.prepare(samples).flatten(1)

    def map_view(self, labels: Num[np.ndarray, "*frames h w"]) -> Num[np.ndarray, "*frames height width"]:
        """A map of labels as the encoder sees its picture: cut at the centre, each pixel's label that of the nearest one."""
        return nearest_view(labels, self.image_size)

    def sample(self, step: Any) -> dict[str, Any]:
        """One frame `[channels, height, width]`, as a clip of one."""
        return {"clip": picture(step, self.channels)[None]}

    @property
    def window(self) -> int:
        """Frames of a clip."""
        return self.frames

    def joined(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"clip": torch.cat([sample["clip"] for sample in samples])}

    def joined_prepared(self, prepared: Sequence[Tensor]) -> Float[Tensor, "1 channels frames height width"]:
        return torch.cat(list(prepared), dim=2)

    @property
    def extent(self) -> tuple[int, ...]:
        """What follows the channels in a prepared batch."""
        return (self.frames, *self.image_size)

    def check_reads(self, other: VideoInputs) -> None:
        """Raise `UserError` where an encoder of these inputs cannot read what was prepared for the other. Of other sizes is no
        reason: rotary positions read any, and fixed ones say so themselves."""
        if self.channels != other.channels:
            raise UserError(
                f"The encoder given was trained on clips of {self.channels} channels, this run has {other.channels}. Give "
                f"clips of {self.channels}."
            )
        if other.stills and not self.stills:
            raise UserError("The encoder given was trained on clips alone. Leave stills out: --stills none.")

    def describe(self) -> str:
        rate = f" ({self.fps:g} a second)" if self.fps else f" (one in {self.stride})" if self.stride else ""
        return f"{self.frames} frames{rate} of {self.image_size[0]} x {self.image_size[1]} pixels"

    def options(self) -> dict[str, Any]:
        return {"frames": self.frames, "image_size": self.image_size, "fps": self.fps, "stride": self.stride}


def _cut(clip: Tensor, size: tuple[int, int]) -> Float[Tensor, "frames channels height width"]:
    """The frames of a clip, in [0, 1], resized and cut at the centre."""
    return center_view(unit(clip), torch.tensor(clip.shape[2:]).expand(len(clip), 2), size)


VIDEO = Modality(
    "video", VideoDataConfig, VideoInputs, open_videos, VideoInputs.of, holds=holds_videos,
    inspect="jepakit.modalities.video.inspection:inspect", pictures="jepakit.modalities.video.pictures:look_at",
)  # fmt: skip
