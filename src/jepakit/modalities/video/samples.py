"""The samples of clips and of their single frames, by position."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from jepakit.modalities.data import SampleDataset
from jepakit.modalities.files.names import Names
from jepakit.modalities.images.collection import Pictures
from jepakit.modalities.video.arrays import ArrayClips
from jepakit.modalities.video.bouncing_digits import BouncingDigits, Event
from jepakit.modalities.video.files import FileClips, UndecodedClip
from jepakit.modalities.video.moving_photographs import MovingPhotographs


class StillPictures:
    """Pictures as clips of one frame, each at its own size."""

    frames = 1

    def __init__(self, pictures: Pictures, channels: int):
        self.pictures, self.channels = pictures, channels

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int, frame: int | None = None) -> Shaped[np.ndarray, "1 channels height width"]:
        """A picture; it has no frame but the first."""
        return self.pictures.read(index)[None]


Clips = ArrayClips | BouncingDigits | MovingPhotographs | FileClips


class ClipDataset(SampleDataset):
    """Some of the clips of a source: `{"clip", "id", "label"?}`.

    `clip` is `[frames, channels, height, width]`, `uint8` or `float32` in [0, 1], of files an `UndecodedClip`; `pixels_of`
    gives the pixels of either. `frames` are those taken of an array's clip.
    """

    def __init__(
        self,
        clips: Clips,
        ids: NDArray[np.int64],
        labels: NDArray | None,
        frames: NDArray[np.int64],
        paths: Names | None = None,
    ):
        super().__init__(ids, labels, paths)
        self.clips, self.frames = clips, frames

    def read(self, number: int) -> dict[str, Any]:
        """Return the clip."""
        if isinstance(self.clips, FileClips):
            return {"clip": UndecodedClip(self.clips, number)}
        return {"clip": torch.from_numpy(self.clips.read(number)[self.frames])}

    def pixels(self, index: int) -> Shaped[Tensor, "frames channels height width"]:
        """Return the pixels of the clip at this position."""
        return pixels_of(self[index])

    def show(self, index: int, pixels: Shaped[Tensor, "frames channels height width"]) -> dict[str, Any]:
        """Return the sample at this position with other pixels."""
        return {**self[index], "clip": pixels}

    def impossible(self, index: int, frame: int) -> dict[str, Tensor]:
        """Return what cannot happen from a frame on, of bouncing digits; else nothing."""
        if not isinstance(self.clips, BouncingDigits):
            return {}
        number, first = int(self.ids[index]), int(self.frames[frame])
        return {
            event: torch.from_numpy(self.clips.read(number, event=(event, first))[self.frames]) for event in get_args(Event)
        }

    def mask(self, index: int) -> UInt8[np.ndarray, "frames height width"] | None:
        """Return which pixels are a bouncing digit's; None of other clips."""
        return self.clips.mask(int(self.ids[index]))[self.frames] if isinstance(self.clips, BouncingDigits) else None

    def flow(self, index: int) -> Float[np.ndarray, "2 height width"] | None:
        """Return the motion of moving photographs from the first frame to the next; None of other clips."""
        return self.clips.flow(int(self.ids[index])) if isinstance(self.clips, MovingPhotographs) else None


class StillDataset(SampleDataset):
    """Single frames of clips, each a clip of one frame; `id` counts the frames of the source. Of a file's clip, the frame is
    that of a clip that begins where (seed, epoch, id) says."""

    def __init__(self, clips: Clips | StillPictures, ids: NDArray[np.int64]):
        super().__init__(ids)
        self.clips = clips

    def read(self, number: int) -> dict[str, Any]:
        """Return the frame."""
        clip, frame = divmod(number, self.clips.frames)
        if isinstance(self.clips, FileClips):
            return {"clip": UndecodedClip(self.clips, clip, frame)}
        return {"clip": torch.from_numpy(self.clips.read(clip, frame))}


def pixels_of(sample: dict[str, Any], frames: slice = slice(None)) -> Shaped[Tensor, "frames channels height width"]:
    """The pixels of a sample, or of some of its frames: as they are, or decoded, in training for the sample's epoch."""
    clip = sample["clip"]
    return clip.decode(sample.get("epoch"), frames) if isinstance(clip, UndecodedClip) else clip[frames]
