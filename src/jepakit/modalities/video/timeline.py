"""When every frame of every file is shown, and which frames make a clip, by the clock (`fps`) or by counting (`stride`).

With a clock, a clip's frame is the one that a viewer would see at that moment, so that a variable frame rate changes nothing.
A file is cut into `clips` parts of equal length; the clip of a part begins anywhere in it, or in its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

_ROUNDING = 1e-3  # seconds: the clocks of Matroska and WebM tick in milliseconds


@dataclass(frozen=True)
class Clock:
    """How frames are chosen: `frames` of them, `1 / fps` seconds apart, or every `stride`-th."""

    frames: int
    fps: float | None
    stride: int | None


class Timelines:
    """The frames of many files. A file of constant rate costs a few numbers, only others a number for each frame.

    Args:
        ticks: for each file the times of its frames, rising.
        ends: the tick at which its last frame is gone.
        bases: seconds of a tick; 0 for a file without a clock (a folder of pictures).
    """

    def __init__(self, ticks: Sequence[Int[np.ndarray, "frames"]], ends: Sequence[int], bases: Sequence[float]):
        self.bases = np.asarray(bases, dtype=np.float64)
        self.counts = np.array([len(times) for times in ticks], dtype=np.int64)
        self.firsts = np.array([times[0] for times in ticks], dtype=np.int64)
        self.ends = np.asarray(ends, dtype=np.int64)
        gaps = [np.diff(times) for times in ticks]
        self.steps = np.array([gap[0] if len(gap) and (gap == gap[0]).all() else 0 for gap in gaps], dtype=np.int64)
        self.variable: Bool[np.ndarray, "files"] = np.array([_varies(gap) for gap in gaps], dtype=bool)
        uneven = [times if step == 0 else times[:0] for times, step in zip(ticks, self.steps, strict=True)]
        self._starts = np.cumsum([0, *(len(times) for times in uneven)])
        self._uneven = np.concatenate([np.zeros(0, dtype=np.int64), *uneven])

    def __len__(self) -> int:
        return len(self.counts)

    def ticks(self, file: int) -> Int[np.ndarray, "frames"]:
        """When each frame is shown, in units of the file's clock."""
        if self.steps[file]:
            return self.firsts[file] + self.steps[file] * np.arange(self.counts[file])
        return self._uneven[self._starts[file] : self._starts[file + 1]]

    @property
    def seconds(self) -> Float[np.ndarray, "files"]:
        """How long each file is; 0 without a clock."""
        return (self.ends - self.firsts) * self.bases

    @property
    def rates(self) -> Float[np.ndarray, "files"]:
        """Mean frames a second; 0 without a clock."""
        seconds = self.seconds
        return np.divide(self.counts, seconds, out=np.zeros_like(seconds), where=seconds > 0)

    def short(self, clock: Clock) -> Bool[np.ndarray, "files"]:
        """Which files end before a clip would: it would ask for frames after the last."""
        if clock.fps is not None:
            return self.seconds + _ROUNDING <= (clock.frames - 1) / clock.fps
        return self.counts < _reach(clock)

    def clip(self, file: int, clock: Clock, place: float) -> Int[np.ndarray, "clip"]:
        """The numbers of the frames of a clip; where a file is too short, its last frame is held.

        Args:
            place: where it begins, from 0 (the file's start) to 1 (as late as it can).
        """
        last = int(self.counts[file]) - 1
        if clock.fps is None:
            beginnings = max(1, last + 2 - _reach(clock))
            first = min(int(beginnings * place), beginnings - 1)
            return np.minimum(first + np.arange(clock.frames) * (clock.stride or 1), last)
        times = (self.ticks(file) - self.firsts[file]) * self.bases[file]
        late = min(_ROUNDING, float(np.median(np.diff(times))) / 4 if last else _ROUNDING)
        room = float(self.seconds[file]) - (clock.frames - 1) / clock.fps - 2 * late
        start = max(0.0, room) * place
        asked = start + np.arange(clock.frames) / clock.fps
        return np.searchsorted(times, asked + late, side="right") - 1

    def take(self, files: Sequence[int] | NDArray[np.int64]) -> Timelines:
        """Those of these files."""
        chosen = [int(file) for file in files]
        return Timelines([self.ticks(file) for file in chosen], self.ends[chosen].tolist(), self.bases[chosen].tolist())


def _reach(clock: Clock) -> int:
    """Frames from a clip's first to its last, both counted."""
    return (clock.frames - 1) * (clock.stride or 1) + 1


def _varies(gaps: Int[np.ndarray, "gaps"]) -> bool:
    """Whether a frame rate is variable: its gaps differ by more than a rounded clock's."""
    return bool(len(gaps)) and float(np.ptp(gaps)) > max(2.0, 0.05 * float(np.median(gaps)))
