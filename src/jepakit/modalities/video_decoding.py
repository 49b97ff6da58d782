"""Frames of a video file, decoded one after the other by PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jepakit.errors import UserError, missing_extra


def decoded_frames(file: Path, begin: float = 0.0) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames shown from `begin` on, in seconds of the file's own clock starting at 0; in the order they are shown in, as
    they are stored (a rotation that the file asks of players is not applied).

    A frame counts as shown at `begin` up to half its duration early, as clocks of files are rounded. The decoder is closed
    when the iterator is, so that reading a few frames leaks nothing.

    Raises:
        UserError: PyAV is not installed; no video in the file, or one that is damaged, named.
    """
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "video", f"Decoding {file}") from error
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise UserError(f"{file} holds no video stream.")
            stream: Any = container.streams.video[0]
            stream.thread_type = "AUTO"
            origin = float((stream.start_time or 0) * stream.time_base)
            early = begin - (0.5 / float(stream.average_rate) if stream.average_rate else 0.0)
            if begin > 0:  # to the key frame before it
                container.seek(int((begin + origin) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is None or frame.time - origin >= early:
                    yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{file} cannot be decoded: {reason[:300]}. Copy the file again, or leave it out.") from error
