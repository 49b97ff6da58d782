"""Clips of video files and of folders of pictures, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from jepakit.modalities.images.crops import center_view
from jepakit.modalities.images.decoding import cover_size, read_image, with_channels
from jepakit.modalities.pixels import unit
from jepakit.modalities.video.collection import Footage
from jepakit.modalities.video.decoding import read_frames
from jepakit.modalities.video.timeline import Clock, Timelines
from jepakit.randomness import Draws


@dataclass(frozen=True)
class VideoFiles:
    """Video files by number; `Footage`."""

    files: Sequence[str]
    timelines: Timelines

    def __len__(self) -> int:
        return len(self.files)

    def read(
        self, file: int, chosen: Int[np.ndarray, "clip"], image_size: tuple[int, int]
    ) -> UInt8[np.ndarray, "clip 3 height width"]:
        """Raises `UnreadableVideo`, a `UserError` that names the file."""
        return read_frames(self.files[file], self.timelines.ticks(file), chosen, image_size)


@dataclass(frozen=True)
class FrameFolders:
    """Folders whose pictures are the frames of a clip each; `Footage`. `starts` says at which of `files` each folder begins."""

    files: Sequence[str]
    starts: Int[np.ndarray, "folders_and_one"]
    timelines: Timelines

    def __len__(self) -> int:
        return len(self.starts) - 1

    def read(
        self, file: int, chosen: Int[np.ndarray, "clip"], image_size: tuple[int, int]
    ) -> UInt8[np.ndarray, "clip 3 height width"]:
        """Raises `UnreadableImage`, a `UserError` that names the picture."""
        frames: list[np.ndarray] = []
        for place, number in enumerate(chosen):
            if place and number == chosen[place - 1]:
                frames.append(frames[-1])
                continue
            pixels = with_channels(read_image(self.files[self.starts[file] + number], cover_size(image_size)), 3)
            picture = unit(torch.from_numpy(pixels))[None]
            view = center_view(picture, torch.tensor([picture.shape[2:]]), image_size)[0]
            frames.append((view.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
        return np.stack(frames)


class FileClips:
    """The clips of files: number `file * clips + part` is that of one part of a file. `read(id) -> uint8 [frames, 3, height,
    width]`, of the size asked for.

    Args:
        clock: how the frames of a clip are chosen.
        clips: parts, and so clips, of each file.
        seed: draws where a clip begins in training.
    """

    channels: ClassVar[int] = 3

    def __init__(self, footage: Footage, clock: Clock, clips: int, image_size: tuple[int, int], seed: int):
        self.footage, self.clock, self.clips, self.image_size, self.seed = footage, clock, clips, image_size, seed

    def __len__(self) -> int:
        return len(self.footage) * self.clips

    @property
    def frames(self) -> int:
        return self.clock.frames

    def read(
        self, index: int, frame: int | None = None, epoch: int | None = None, frames: slice = slice(None)
    ) -> UInt8[np.ndarray, "frames 3 height width"]:
        """A clip, one frame of it, or some (`frames`). It begins in the middle of where it can; in an epoch of training where
        (seed, epoch, number) says."""
        file, _ = divmod(index, self.clips)
        chosen = self.chosen(index, frame, epoch)[frames]
        return self.footage.read(file, chosen, self.image_size)

    def chosen(self, index: int, frame: int | None = None, epoch: int | None = None) -> Int[np.ndarray, "clip"]:
        """The numbers of the frames of a clip in its file, or of one of them."""
        file, part = divmod(index, self.clips)
        within = 0.5
        if epoch is not None:
            stream, number = ("clips", index) if frame is None else ("stills", index * self.frames + frame)
            within = float(Draws(self.seed, f"start of {stream}", epoch, [number]).uniform()[0])
        numbers = self.footage.timelines.clip(file, self.clock, (part + within) / self.clips)
        return numbers if frame is None else numbers[frame : frame + 1]


@dataclass(frozen=True)
class UndecodedClip:
    """A sample of files before it is decoded: where it begins depends on the epoch, which only the collator is told."""

    clips: FileClips
    index: int
    frame: int | None = None

    def decode(self, epoch: int | None = None, frames: slice = slice(None)) -> UInt8[Tensor, "frames 3 height width"]:
        """Its pixels, or those of some of its frames. Raises `UserError`, naming a file that is damaged."""
        return torch.from_numpy(self.clips.read(self.index, self.frame, epoch, frames))
