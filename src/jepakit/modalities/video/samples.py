"""The samples of clips and of their single frames, by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from jepakit.modalities.files.names import Names
from jepakit.modalities.images.collection import Pictures
from jepakit.modalities.video.arrays import ArrayClips
from jepakit.modalities.video.bouncing_digits import BouncingDigits
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


class ClipDataset(Dataset[dict[str, Any]]):
    """Some of the clips of a source: `{"clip", "id", "label"?}`.

    `clip` is `[frames, channels, height, width]`, `uint8` or `float32` in [0, 1], of files an `UndecodedClip`; `pixels_of`
    gives the pixels of either. `id` is its position in the source; `frames` are those taken of an array's clip.
    """

    def __init__(
        self,
        clips: Clips,
        ids: NDArray[np.int64],
        labels: NDArray | None,
        frames: NDArray[np.int64],
        paths: Names | None = None,
    ):
        self.clips, self.ids, self.labels, self.frames, self.paths = clips, ids, labels, frames, paths

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        if isinstance(self.clips, FileClips):
            sample: dict[str, Any] = {"clip": UndecodedClip(self.clips, number), "id": number}
        else:
            sample = {"clip": torch.from_numpy(self.clips.read(number)[self.frames]), "id": number}
        if self.labels is not None:
            sample["label"] = self.labels[index]
        return sample

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ClipDataset:
        """The clips at these positions of this data set."""
        chosen = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        paths = None if self.paths is None else self.paths.take(chosen)
        return ClipDataset(self.clips, self.ids[chosen], labels, self.frames, paths)


class StillDataset(Dataset[dict[str, Any]]):
    """Single frames of clips, each a clip of one frame; `id` counts the frames of the source. Of a file's clip, the frame is
    that of a clip that begins where (seed, epoch, id) says."""

    paths: list[str] | None = None
    labels: np.ndarray | None = None

    def __init__(self, clips: Clips | StillPictures, ids: NDArray[np.int64]):
        self.clips, self.ids = clips, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        clip, frame = divmod(number, self.clips.frames)
        if isinstance(self.clips, FileClips):
            return {"clip": UndecodedClip(self.clips, clip, frame), "id": number}
        return {"clip": torch.from_numpy(self.clips.read(clip, frame)), "id": number}

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> StillDataset:
        return StillDataset(self.clips, self.ids[np.asarray(indices, dtype=np.int64)])


def pixels_of(sample: dict[str, Any], frames: slice = slice(None)) -> Shaped[Tensor, "frames channels height width"]:
    """The pixels of a sample, or of some of its frames: as they are, or decoded, in training for the sample's epoch."""
    clip = sample["clip"]
    return clip.decode(sample.get("epoch"), frames) if isinstance(clip, UndecodedClip) else clip[frames]
