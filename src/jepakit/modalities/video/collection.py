"""Which clips are asked for (`VideoDataConfig`), and what a reader of files finds (`VideoCollection`), before it is split."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import NDArray

from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.data import FileDataConfig
from jepakit.modalities.files.names import Names
from jepakit.modalities.files.walk import BadFile
from jepakit.modalities.labels import Labels
from jepakit.modalities.video.timeline import Timelines


@dataclass(frozen=True, kw_only=True)
class VideoDataConfig(FileDataConfig):
    """Which clips, and how they are split."""

    data: str
    """A folder of video files, a list of them (.txt with a path a line, .csv with a column path), one video file, a folder
    whose sub-folders hold the numbered pictures of a clip each, a .npy or .npz file with clips [n, frames, (channels,)
    height, width], or a built-in set: bouncing-digits, noisy-bouncing-digits, moving-photographs."""
    labels: str | None = None
    """For files, a CSV (columns path, label); for an array file, a .npy of labels beside it; for bouncing-digits digit (the
    default), direction, velocity (pixels a frame, down and right, at the clip's end), position (top left corner in the last
    frame) or future (the same 4 frames later), for moving-photographs motion (from frame to frame: the shift in pixels, right
    and down, and the turn in radians; by default none); "none" to ignore labels. Default: labels from sub-folders, from the
    list, or those in the .npz."""
    frames: int | None = None
    """Frames of a clip the model sees. Default: 16 of a file; of an array all (bouncing-digits: 8, moving-photographs: 2),
    fewer are spread evenly."""
    fps: float | None = None
    """Frames a second of a clip of a file, whatever the file's own rate is. Default: 4 (V-JEPA 2), unless stride is given."""
    stride: int | None = None
    """Take every stride-th frame of a file instead (V-JEPA: 4). Default for folders of pictures, which have no clock: 1."""
    clips: int = 1
    """Clips of a file. It is cut into so many equal parts; training begins a clip anywhere in its part, anew in every epoch,
    evaluation in the middle: 1 is the centre of the file. Each clip is a sample with the label of its file."""
    on_short_file: Literal["hold", "skip"] = "hold"
    """What to do with files that end before a clip would: hold their last frame, or leave them out."""
    image_size: tuple[int, int] | None = None
    """Height and width of a frame. Default: as stored (bouncing-digits: 32 32, moving-photographs: 64 64); files that differ or
    whose shorter side is above 64: 96 96."""
    stills: str = "frames"
    """Pictures to learn from beside the clips: frames (single ones of the training clips), a .npy or .npz file of
    pictures, a folder of them, a built-in set of pictures (its training part), or none."""
    stills_ratio: float = 1.0
    """Pictures for each clip of a step; the released recipe has 18."""
    test_fraction: float = 0.2
    """Part held out for evaluation where the data has no split of its own; 0: nothing is held out. Of files, whole ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise UserError(f"image_size must be two positive numbers, height and width, got {self.image_size}.")
        if self.frames is not None:
            check_range("frames", self.frames, 2)
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UserError(f"fps must be above 0, got {self.fps}.")
        if self.stride is not None:
            check_range("stride", self.stride, 1)
        if self.fps is not None and self.stride is not None:
            raise UserError(f"Give fps or stride, not both (fps {self.fps}, stride {self.stride}).")
        check_range("clips", self.clips, 1)
        check_choice("on_short_file", self.on_short_file, ("hold", "skip"))
        if not 0 < self.stills_ratio < math.inf:
            raise UserError(f"stills_ratio must be above 0, got {self.stills_ratio}; for no pictures give --stills none.")


@runtime_checkable
class Footage(Protocol):
    """Where frames come from: video files or folders of pictures. Pickles under `spawn`."""

    @property
    def timelines(self) -> Timelines: ...

    def __len__(self) -> int: ...

    def read(
        self, file: int, chosen: Int[np.ndarray, "clip"], image_size: tuple[int, int]
    ) -> UInt8[np.ndarray, "clip 3 height width"]:
        """Some frames of a file, upright, scaled and cut at the centre."""


@dataclass
class VideoCollection:
    """Everything that was found in files, before it is split; one entry a file, whatever number of clips it will give."""

    name: str
    kind: str
    """"folder", "list", "file" or "frames" (folders of pictures)."""
    footage: Footage
    shapes: NDArray[np.int64]
    """`[n, 2]` height and width, after rotation."""
    codecs: list[str]
    """How each is encoded: h264, vp9, ..., or pictures."""
    turned: NDArray[np.bool_]
    """Which files ask players to turn or mirror their frames."""
    paths: Names
    """As the user can open them."""
    relative: Names
    """Relative to the data folder, or as the list has them."""
    labels: Labels | None = None
    groups: list[str] | None = None
    test: NDArray[np.bool_] | None = None
    """The data's own split; None: it has none."""
    bad_files: list[BadFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a user should know about how the data was read, in sentences."""

    def __len__(self) -> int:
        return len(self.shapes)
