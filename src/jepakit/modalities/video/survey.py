"""Looks at all video files before anything starts: which are damaged or cut short, how large they are, when their frames are.

Of every file the packets are read, not decoded, but for the first frame: that gives the times of all frames. A file counts as
bad when

- it cannot be opened, holds no video stream, or its first frame cannot be decoded;
- a packet is marked as damaged or cut, as FFmpeg does with the last one of a file that ends within it;
- its packets end earlier than its header promises, by more than 3 frames and 5 % (at most 1 s) of the promised duration: that
  of the stream (mp4, mov; of an avi its number of frames), or that of the file compared with all its streams (mkv, webm, flv);
- it is decoded from its last key frame on, and does not come to its last frame. Above 20,000 files this is done with
  `on_bad_file="skip"` only.

What this cannot know: a stream without a header (mpeg, m2ts) that was cut is a shorter one; damage in the middle of a file
shows when a clip from there is read, and stops by name. What a decoder mends without saying so (some of mpeg4) passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.files.walk import BadFile
from jepakit.modalities.images.decoding import UnreadableImage
from jepakit.modalities.images.survey import each
from jepakit.modalities.video.decoding import HOLE, UnreadableVideo, display_matrix, open_video
from jepakit.modalities.video.timeline import Timelines

_DECODE_FIRST = 20_000

T = TypeVar("T")


@dataclass(frozen=True)
class Recording:
    """What was seen of one file: size after rotation, the times of its frames in ticks of `base` seconds (0: no clock), and
    the tick at which the last one ends."""

    height: int
    width: int
    turned: bool
    codec: str
    ticks: Int[np.ndarray, "frames"]
    end: int
    base: float


@dataclass
class Survey:
    """What was seen of all. `good` are the positions of the usable files, to which everything else but `bad` refers."""

    good: NDArray[np.int64]
    bad: list[BadFile]
    shapes: NDArray[np.int64]
    turned: NDArray[np.bool_]
    codecs: list[str]
    timelines: Timelines


def survey_videos(files: Sequence[str], names: Sequence[str], on_bad_file: str) -> Survey:
    """Look at every file.

    Raises:
        UserError: bad files under `on_bad_file="error"` (the first ten are listed), or no usable file at all.
    """
    thorough = len(files) <= _DECODE_FIRST or on_bad_file == "skip"
    return survey(lambda index: look(files[index], thorough), names, on_bad_file, "video files")


def survey(look_at: Callable[[int], Recording], names: Sequence[str], on_bad_file: str, noun: str) -> Survey:
    """`look_at(index)` for each name, sorted into good and bad; `noun` is what errors call them."""
    found = list(each(_careful(look_at, names), range(len(names)), "Looking at videos", few=200))
    bad = [result for result in found if isinstance(result, BadFile)]
    _refuse(bad, len(found), on_bad_file, noun)
    good = [index for index, result in enumerate(found) if not isinstance(result, BadFile)]
    seen = [result for result in found if not isinstance(result, BadFile)]
    return Survey(
        good=np.array(good, dtype=np.int64),
        bad=bad,
        shapes=np.array([(one.height, one.width) for one in seen], dtype=np.int64),
        turned=np.array([one.turned for one in seen], dtype=bool),
        codecs=[one.codec for one in seen],
        timelines=Timelines([one.ticks for one in seen], [one.end for one in seen], [one.base for one in seen]),
    )


def look(file: str, thorough: bool = True) -> Recording:
    """Read the packets of a file and decode its first frame; `thorough`: also what follows its last key frame.

    Raises:
        UnreadableVideo: it is damaged or cut short, by the signs that the head of this file lists.
    """
    with open_video(file, threads=1) as (container, stream):
        base = float(stream.time_base)
        ticks: list[int] = []
        first, end, others = None, 0, 0.0
        for packet in container.demux():
            if packet.stream.index != stream.index:
                if packet.pts is not None:
                    others = max(others, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                continue
            if packet.is_corrupt:
                raise ValueError(f"it is damaged or cut short after {len(ticks):,} frames")
            if first is None:
                first = next(iter(packet.decode()), None)
            when = packet.dts if packet.pts is None else packet.pts
            if when is not None and packet.size and not packet.is_discard:
                ticks.append(when)
                end = max(end, when + (packet.duration or 0))
        if first is None:
            raise ValueError("it holds no frames")
        if first.is_corrupt:
            raise ValueError("its first frame is damaged")
        if not ticks:
            raise ValueError("it does not say when its frames are shown")
        times = np.unique(np.array(ticks, dtype=np.int64))
        gap = int(np.median(np.diff(times))) if len(times) > 1 else max(1, end - int(times[0]))
        end = max(end, int(times[-1]) + (gap if end <= times[-1] else 0))
        _check_length(container, stream, (times[0] * base, end * base), others, gap * base)
        if thorough:
            _check_tail(container, stream, times, HOLE * gap)
        matrix = display_matrix(first)
        height, width = (first.height, first.width) if matrix[0] else (first.width, first.height)
        return Recording(height, width, matrix != (1, 0, 0, 1), stream.codec_context.name, times, end, base)


def _check_length(container: Any, stream: Any, span: tuple[float, float], others: float, gap: float) -> None:
    """Compare what was found, in seconds, with what the header promises."""
    found = max(span[1], span[1] - span[0])
    promises = [(stream.duration * float(stream.time_base), found)] if stream.duration else []
    if container.duration:
        promises.append((container.duration / 1e6, max(found, others)))
    if container.format.name == "avi" and stream.average_rate:  # its durations are guessed from the file's size
        promises.append((stream.frames / float(stream.average_rate), found))
    for promised, there in promises:
        if promised - there > max(HOLE * gap, min(1.0, 0.05 * promised)) + 1e-6:
            raise ValueError(f"it is cut short: {there:.2f} s of {promised:.2f} s are there")


def _check_tail(container: Any, stream: Any, times: Int[np.ndarray, "frames"], hole: int) -> None:
    if len(times) > 1:
        container.seek(int(times[-1]), stream=stream)
    last = None
    for frame in container.decode(stream):
        if frame.is_corrupt and frame.pts in (None, int(times[-1])):
            raise ValueError("its last frame is damaged")
        last = frame.pts if last is None or frame.pts is None else max(last, frame.pts)
    if last is not None and times[-1] - last > hole:
        raise ValueError(f"it cannot be decoded to its end ({float((times[-1] - last) * stream.time_base):.2f} s are missing)")


def _refuse(bad: Sequence[BadFile], total: int, policy: str, noun: str) -> None:
    listed = "\n".join(f"  {file.path}: {file.reason}" for file in bad[:10])
    more = f"\n  and {len(bad) - 10:,} more" if len(bad) > 10 else ""
    if bad and policy == "error":
        raise UserError(
            f"{len(bad):,} of {total:,} {noun} cannot be read:\n{listed}{more}\n"
            "Repair or remove them, or leave them out with --on-bad-file skip."
        )
    if len(bad) == total:
        raise UserError(f"None of the {total:,} {noun} can be read:\n{listed}{more}\nRepair or replace them.")


def _careful(look_at: Callable[[int], T], names: Sequence[str]) -> Callable[[int], T | BadFile]:
    """`look_at`, giving a `BadFile` where the video cannot be read."""

    def attempt(index: int) -> T | BadFile:
        try:
            return look_at(index)
        except (UnreadableVideo, UnreadableImage) as error:
            return BadFile(names[index], error.reason)

    return attempt


def codec_counts(codecs: Sequence[str]) -> dict[str, int]:
    """How many files are encoded in which way, the most frequent first."""
    return dict(Counter(codecs).most_common())
