"""Video clips: arrays of them or the built-in bouncing digits, split, with still pictures as a companion stream.

Choices made where nothing is said: all frames of a clip, at their own size; the data's own split, else `test_fraction` by
class; stills are single frames of the training clips. Frames are cut at the centre and resized where a size is asked for.
Reading of video files, and random parts of long clips, are yet to come.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.bouncing_digits import DIRECTIONS, TRAIN, BouncingDigits
from jepakit.modalities.crops import center_view
from jepakit.modalities.image_labels import Labels
from jepakit.modalities.modality import Companion, Inputs, Modality, check_scale
from jepakit.modalities.pixels import unit
from jepakit.modalities.splits import held_out, limited
from jepakit.modalities.video_arrays import ArrayClips, read_clips, read_stills

_STATISTICS = 200  # clips that mean and deviation of the pixels are computed from

Clips = ArrayClips | BouncingDigits


@dataclass(frozen=True, kw_only=True)
class VideoDataConfig:
    """Which clips, and how they are split."""

    data: str
    """A .npy or .npz file with clips [n, frames, (channels,) height, width], or the built-in bouncing-digits."""
    labels: str | None = None
    """For an array file, a .npy of labels beside it; for bouncing-digits digit (the default) or direction; "none" to ignore
    labels. Default: those in the .npz."""
    frames: int | None = None
    """Frames of a clip the model sees, evenly spaced over it. Default: all (bouncing-digits: 8)."""
    image_size: tuple[int, int] | None = None
    """Height and width of a frame. Default: as stored (bouncing-digits: 32 32)."""
    stills: str = "frames"
    """Pictures to learn from beside the clips: frames (single ones of the training clips), a .npy or .npz file of
    pictures, or none."""
    stills_ratio: float = 1.0
    """Pictures for each clip of a step; the released recipe has 18."""
    test_fraction: float = 0.2
    """Part held out for evaluation where the data has no split of its own; 0: nothing is held out."""
    limit: int | None = None
    """Train on only so many clips, drawn with the seed (for sample-efficiency curves)."""

    def __post_init__(self) -> None:
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise UserError(f"image_size must be two positive numbers, height and width, got {self.image_size}.")
        if self.frames is not None:
            check_range("frames", self.frames, 2)
        if not 0 < self.stills_ratio < math.inf:
            raise UserError(f"stills_ratio must be above 0, got {self.stills_ratio}; for no pictures give --stills none.")
        if not 0.0 <= self.test_fraction < 1.0:
            raise UserError(f"test_fraction must be at least 0 and below 1, got {self.test_fraction}.")
        if self.limit is not None:
            check_range("limit", self.limit, 1)


class ClipDataset(Dataset[dict[str, Any]]):
    """Some of the clips of a source: `{"clip", "id", "label"?}`.

    `clip` is `[frames, channels, height, width]`, `uint8` or `float32` in [0, 1]; `id` is its position in the source.
    """

    paths: list[str] | None = None

    def __init__(self, clips: Clips, ids: NDArray[np.int64], labels: NDArray | None, frames: NDArray[np.int64]):
        self.clips, self.ids, self.labels, self.frames = clips, ids, labels, frames

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        sample: dict[str, Any] = {"clip": torch.from_numpy(self.clips.read(number)[self.frames]), "id": number}
        if self.labels is not None:
            sample["label"] = self.labels[index]
        return sample

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ClipDataset:
        """The clips at these positions of this data set."""
        chosen = np.asarray(indices, dtype=np.int64)
        return ClipDataset(self.clips, self.ids[chosen], None if self.labels is None else self.labels[chosen], self.frames)


class StillDataset(Dataset[dict[str, Any]]):
    """Single frames of clips, each a clip of one frame; `id` counts the frames of the source."""

    paths: list[str] | None = None
    labels: np.ndarray | None = None

    def __init__(self, clips: Clips, ids: NDArray[np.int64]):
        self.clips, self.ids = clips, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        return {"clip": torch.from_numpy(self.clips.read(*divmod(number, self.clips.frames))), "id": number}

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> StillDataset:
        return StillDataset(self.clips, self.ids[np.asarray(indices, dtype=np.int64)])


@dataclass
class VideoData:
    """Clips, split: `test` is held out and never trained on. mean, std: of the channels of training pixels in [0, 1]."""

    train: ClipDataset
    test: ClipDataset
    config: VideoDataConfig
    name: str
    kind: str
    classes: list[str] | None
    task: str | None
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    companions: dict[str, Companion] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    noun: str = "clips"


def open_videos(config: VideoDataConfig, seed: int, source: object | None = None) -> VideoData:
    """Find, label and split the clips of `config.data`.

    Args:
        seed: draws the `limit` training clips; not the split, and not what the bouncing digits do.
        source: an array of clips to use instead of a file, or a pair of it and labels.

    Raises:
        UserError: nothing there, shapes or labels that do not fit; with the remedy.
    """
    clips, labels, test = _open(config, source)
    if test is None:
        classes = labels.values if labels is not None and labels.task == "classification" else None
        test = held_out(len(clips), config.test_fraction, classes=classes)
    chosen = clips.frames if config.frames is None else config.frames
    if chosen > clips.frames:
        raise UserError(f"frames {chosen}: the clips of {config.data} have only {clips.frames}. Lower --frames.")
    config = replace(config, frames=chosen, image_size=config.image_size or clips.image_size)
    frames = np.round(np.linspace(0, clips.frames - 1, chosen)).astype(np.int64)
    train_ids = limited(np.flatnonzero(~test), config.limit, seed)
    train, test_clips = (
        ClipDataset(clips, ids, None if labels is None else labels.values[ids], frames)
        for ids in (train_ids, np.flatnonzero(test))
    )
    mean, std = _statistics(train)
    return VideoData(
        train=train,
        test=test_clips,
        config=config,
        name=config.data,
        kind="bouncing-digits" if isinstance(clips, BouncingDigits) else "array",
        classes=None if labels is None else labels.classes,
        task=None if labels is None else labels.task,
        channels=clips.channels,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(clips, labels, train_ids, test),
        companions=_companions(config, train),
    )


def _open(config: VideoDataConfig, source: object | None) -> tuple[Clips, Labels | None, NDArray[np.bool_] | None]:
    """The clips, their labels, and which are held out where the data says so."""
    if config.data != "bouncing-digits" or source is not None:
        return read_clips(config.data, config.labels, source)
    asked = "digit" if config.labels is None else config.labels
    check_choice("labels", asked, ("digit", "direction", "none"))
    clips = BouncingDigits(8 if config.frames is None else config.frames, config.image_size or (32, 32))
    ids = np.arange(len(clips))
    facts, labels = clips.facts(ids), None
    if asked == "digit":
        labels = Labels(facts.digit, "classification", [str(digit) for digit in range(10)])
    elif asked == "direction":
        labels = Labels(facts.direction, "classification", list(DIRECTIONS))
    return clips, labels, ids >= TRAIN


def _companions(config: VideoDataConfig, train: ClipDataset) -> dict[str, Companion]:
    if config.stills == "none":
        return {}
    if config.stills == "frames":
        count = train.clips.frames
        ids = (train.ids[:, None] * count + np.arange(count)).flatten()
        return {"image": Companion(StillDataset(train.clips, ids), config.stills_ratio)}
    stills = read_stills(config.stills)
    if stills.channels != train.clips.channels:
        raise UserError(f"stills: {config.stills} has {stills.channels} channels, the clips {train.clips.channels}.")
    return {"image": Companion(StillDataset(stills, np.arange(len(stills))), config.stills_ratio)}


def _statistics(train: ClipDataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    chosen = np.linspace(0, len(train) - 1, min(len(train), _STATISTICS)).astype(int)
    pixels = torch.stack([unit(train[int(index)]["clip"]) for index in chosen]).double().transpose(0, 2).flatten(1)
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).clamp_min(1e-3).tolist())


def _fingerprint(clips: Clips, labels: Labels | None, train: NDArray[np.int64], test: NDArray[np.bool_]) -> str:
    digest = hashlib.sha256(f"{len(clips)} {clips.frames} {clips.image_size}".encode())
    for array in (train, test, *(() if labels is None else (labels.values,))):
        digest.update(np.ascontiguousarray(array).tobytes())
    for index in np.linspace(0, len(clips) - 1, 16).astype(int):
        digest.update(clips.read(int(index)).tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class VideoInputs(Inputs):
    """Frames, height and width in pixels, channels, their mean and standard deviation in [0, 1], and whether single
    pictures come, too."""

    frames: int
    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stills: bool = False

    plain_name: ClassVar[str] = "pixels"

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
        )

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch channels frames height width"]:
        """Clips as the encoder's input, without chance: resized, cut at the centre, normalised. All of as many frames."""
        clips = unit(torch.stack([sample["clip"] for sample in samples]))
        batch, frames = clips.shape[:2]
        sizes = torch.tensor(clips.shape[3:]).expand(batch * frames, 2)
        pictures = center_view(clips.flatten(0, 1), sizes, self.image_size)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((pictures - mean) / std).unflatten(0, (batch, frames)).transpose(1, 2)

    def plain(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch features"]:
        """The prepared pixels of all frames, one vector a clip."""
        return self.prepare(samples).flatten(1)

    def describe(self) -> str:
        return f"{self.frames} frames of {self.image_size[0]} x {self.image_size[1]} pixels"

    def options(self) -> dict[str, Any]:
        return {"frames": self.frames, "image_size": self.image_size}


VIDEO = Modality("video", VideoDataConfig, VideoInputs, open_videos, VideoInputs.of)
