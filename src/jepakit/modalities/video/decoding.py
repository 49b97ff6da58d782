"""Decodes video files by PyAV (FFmpeg): frames one after the other from a time on, or those asked for, small from the start.

Only containers that hold their pictures themselves are opened: FFmpeg also knows playlists, which make it read other files and
fetch addresses.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from jepakit.errors import UserError, missing_extra

EXTENSIONS = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv",
)  # fmt: skip
_DEMUXERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"  # FFmpeg's names of those that read these
HOLE = 3  # frames (of the file's usual gap) that may be missing before a file counts as damaged; players hold the one before
_BACK = (0.0, 1.0, 8.0)  # seconds before a frame at which its key frame is searched: some indices are of decoding times

Picture = UInt8[np.ndarray, "height width 3"]


class UnreadableVideo(UserError):
    """One video that cannot be decoded; `path` says which, `reason` why."""

    def __init__(self, message: str, path: str, reason: str):
        super().__init__(message)
        self.path, self.reason = path, reason


@contextmanager
def open_video(file: str | Path, threads: int = 0) -> Iterator[tuple[Any, Any]]:
    """The container of a file and its video stream, closed afterwards whatever happens; any trouble with it inside the block
    becomes `UnreadableVideo`. threads: of the decoder; 0: as many as it likes.

    Raises:
        UserError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "video", f"Decoding {file}") from error
    opened = False
    try:
        if Path(file).exists() and not Path(file).is_file():
            raise OSError("it is a folder, a pipe or a device")  # opening a pipe waits for its other end
        allowed = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
        # "file:", as what stands before a colon in a name would be taken for a protocol
        with av.open(f"file:{file}", container_options=allowed, metadata_errors="replace") as container:
            stream = _video_stream(container)
            if stream is None:
                raise ValueError("it holds no video stream")
            stream.thread_type, stream.thread_count = "AUTO", threads
            opened = True
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        unknown = (av.error.InvalidDataError, av.error.EOFError, av.error.PermissionError)  # the last: not of `_DEMUXERS`
        if isinstance(error, FileNotFoundError):
            reason = "it does not exist"
        elif not opened and os.access(file, os.R_OK) and isinstance(error, unknown):
            reason = "it is not a video of a known format, or was cut short"
        elif isinstance(error, av.error.InvalidDataError | av.error.EOFError):
            reason = "it is damaged"
        else:
            reason = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        message = f"{file} cannot be decoded: {reason}. Copy the file again, or leave it out."
        raise UnreadableVideo(message, str(file), reason) from error


def _video_stream(container: Any) -> Any:
    """The first that is not a cover picture; PyAV before 13 cannot tell these. None: there is none."""
    best = getattr(container.streams, "best", None)
    return best("video") if best else next(iter(container.streams.video), None)


def decoded_frames(file: Path, begin: float = 0.0, upright: bool = False) -> Iterator[Picture]:
    """The frames shown from `begin` on, in seconds of the file's own clock starting at 0; in the order they are shown in.

    A frame counts as shown at `begin` up to half its duration early, as clocks of files are rounded. The decoder is closed
    when the iterator is, so that reading a few frames leaks nothing.

    Args:
        upright: turn and mirror them as the file asks players to; False: as they are stored.

    Raises:
        UserError: PyAV is not installed; no video in the file, or one that is damaged, named.
    """
    with open_video(file) as (container, stream):
        origin = float((stream.start_time or 0) * stream.time_base)
        early = begin - (0.5 / float(stream.average_rate) if stream.average_rate else 0.0)
        if begin > 0:  # to the key frame before it
            container.seek(int((begin + origin) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is None or frame.time - origin >= early:
                yield turned(frame.to_ndarray(format="rgb24"), frame) if upright else frame.to_ndarray(format="rgb24")


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d): a pixel at (x, y) is to be shown at (a x + c y, b x + d y), in quarter turns and mirrored or not."""
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(found), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):  # the nearest quarter turn
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def turned(
    pixels: UInt8[np.ndarray, "stored_height stored_width 3"], frame: Any
) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a frame, turned and mirrored as its file asks players to."""
    a, b, c, d = display_matrix(frame)
    upright = pixels if a else pixels.transpose(1, 0, 2)
    return upright[:: d or b, :: a or c]


def read_frames(
    file: str | Path, ticks: Int[np.ndarray, "frames"], chosen: Int[np.ndarray, "clip"], image_size: tuple[int, int]
) -> UInt8[np.ndarray, "clip 3 {image_size[0]} {image_size[1]}"]:
    """Some frames of a file, upright, each scaled and cut at the centre to `image_size` as soon as it is decoded.

    Decoding begins at the key frame before the first and ends at the last. Where times cannot be relied on, frames are counted
    from the start of the file.

    Args:
        ticks: when each of all frames is shown, in units of the stream's clock, as `survey.py` found.
        chosen: which of them, in order; one may stand there several times.

    Raises:
        UnreadableVideo: it cannot be opened; a frame that is asked for is damaged or missing.
    """
    wanted = ticks[chosen].tolist()
    hole = HOLE * int(np.median(np.diff(ticks))) if len(ticks) > 1 else 0
    with open_video(file, threads=1 if get_worker_info() else 0) as (container, stream):
        from av.video.reformatter import VideoReformatter

        scaler = VideoReformatter()

        def picture(frame: Any) -> Picture:
            if frame.is_corrupt:
                raise ValueError(f"its frame at {frame.time:.2f} s is damaged")
            return _sized(frame, image_size, scaler)

        pictures = None
        for back in () if _must_count(container, stream) else _BACK:
            begin = wanted[0] - int(back / stream.time_base)
            if wanted[0] > ticks[0]:
                container.seek(max(begin, int(ticks[0])), stream=stream)
            pictures = _pictures(container.decode(stream), wanted, hole, picture)
            if pictures is not None or begin <= ticks[0]:
                break
    if pictures is None:
        with open_video(file, threads=1 if get_worker_info() else 0) as (container, stream):
            pictures = _counted(container.decode(stream), chosen.tolist(), picture)
    return np.stack(pictures).transpose(0, 3, 1, 2)


def _must_count(container: Any, stream: Any) -> bool:
    """Whether times after a search are known to be wrong: an avi does not say when its B-frames are shown, and in an mpeg
    program stream they are guessed, sometimes one frame off."""
    name = container.format.name
    return name in ("mpeg", "mpegvideo") or (name == "avi" and bool(stream.codec_context.has_b_frames))


def _pictures(
    frames: Iterator[Any], wanted: list[int], hole: int, picture: Callable[[Any], Picture]
) -> list[Picture] | None:
    """For each wanted time the last frame that is not after it; None: they begin too late, or their times are not in order."""
    pictures: list[Picture] = []
    last = None
    for frame in chain(frames, [None]):
        if frame is not None and (frame.pts is None or frame.pts <= (frame.pts - 1 if last is None else last.pts)):
            return None
        if last is not None:
            before = len(wanted) if frame is None else bisect_left(wanted, frame.pts)
            if before > len(pictures):
                if wanted[before - 1] - last.pts > hole:
                    raise ValueError(f"its frames after {last.time:.2f} s cannot be decoded")
                pictures += [picture(last)] * (before - len(pictures))
        elif frame is None or frame.pts > wanted[0]:
            return None
        if frame is not None and (reached := bisect_right(wanted, frame.pts)) > len(pictures):
            pictures += [picture(frame)] * (reached - len(pictures))
        if len(pictures) == len(wanted):
            break
        last = frame
    return pictures


def _counted(frames: Iterator[Any], chosen: list[int], picture: Callable[[Any], Picture]) -> list[Picture]:
    """The frames of these numbers, counted from the first."""
    pictures: list[Picture] = []
    number = -1
    for number, frame in enumerate(frames):
        if chosen[len(pictures)] == number:
            pictures += [picture(frame)] * chosen.count(number)
        if len(pictures) == len(chosen):
            return pictures
    raise ValueError(f"only {number + 1} of its frames can be decoded")


def _sized(frame: Any, image_size: tuple[int, int], scaler: Any) -> Picture:
    """A frame, scaled until it just covers `image_size`, upright, cut at the centre."""
    sideways = display_matrix(frame)[0] == 0
    height, width = image_size[::-1] if sideways else image_size
    scale = max(height / frame.height, width / frame.width)
    covering = (max(height, round(frame.height * scale)), max(width, round(frame.width * scale)))
    if covering == (frame.height, frame.width):
        pixels = scaler.reformat(frame, format="rgb24").to_ndarray()
    else:
        pixels = scaler.reformat(frame, covering[1], covering[0], "rgb24", interpolation="BICUBIC").to_ndarray()
    return centre_cut(turned(pixels, frame), image_size)


def centre_cut(pixels: NDArray[np.uint8], image_size: tuple[int, int]) -> Picture:
    """The middle of a picture `[height, width, 3]` that is at least so large."""
    top, left = ((have - want) // 2 for have, want in zip(pixels.shape, image_size, strict=False))
    return pixels[top : top + image_size[0], left : left + image_size[1]]
