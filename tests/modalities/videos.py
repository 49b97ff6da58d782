"""Small video files, made while a test runs: each frame says its number, so that a test knows which ones it was given."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

STEP = 4  # grey levels from one frame to the next


def picture(number: int, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """Frame `number`, `[height, width, 3]`: a level for the number; corners of four colours say which way up it is."""
    height, width = size
    pixels = np.full((height, width, 3), number * STEP, dtype=np.uint8)
    rows, columns = height // 4, width // 4
    pixels[:rows, :columns] = (250, 0, 0)
    pixels[:rows, -columns:] = (0, 250, 0)
    pixels[-rows:, :columns] = (0, 0, 250)
    return pixels


def numbers(clip: Any) -> list[int]:
    """Which frames a clip `[frames, 3, height, width]` shows, told by its middle."""
    clip = np.asarray(clip)
    middle = clip[:, 0, clip.shape[2] // 2, clip.shape[3] // 2].astype(int)
    return np.round(middle / STEP).astype(int).tolist()


def write_video(
    path: Path,
    frames: int = 40,
    rate: int = 8,
    size: tuple[int, int] = (48, 64),
    codec: str = "ffv1",
    times: Sequence[float] | None = None,
    rotation: int | None = None,
    flip: bool = False,
    key_frames: int = 10,
    faststart: bool = False,
    **options: str,
) -> Path:
    """A file of `frames` frames. Lossless (ffv1, in .mkv) or of another codec; with `times` in seconds instead of a rate.

    rotation: degrees counter-clockwise that players are asked to turn it by. faststart: an mp4's index comes first, so that a
    file that was cut short still opens.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.gop_size = key_frames
        stream.options = options
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=flip)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            frame.pts = number if times is None else round(times[number] * 1000)
            frame.time_base = Fraction(1, rate) if times is None else Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path
