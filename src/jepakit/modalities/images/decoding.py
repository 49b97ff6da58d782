"""Finds and decodes image files safely.

What a file becomes, whatever it was stored as:

- EXIF orientation is applied; of an animation the first frame is taken; colour profiles are not applied.
- Grey stays one channel. Palette, CMYK and YCbCr become RGB. Transparency is laid on white, as a page would show it.
- 8 bits stay `uint8`. Grey of 9 to 16 bits becomes `float32`, scaled by the file's own bit depth, nothing rounded
  (Pillow itself reduces 16-bit *colour* to 8 bits). 32-bit integers and floats are taken as they are when they lie in
  [0, 1]; otherwise `value_range` has to say what is black and what is white.
- A picture much larger than the model's input is reduced while it is read (`loaded_size`).
- A truncated file is an error, never a half-grey picture, and so is a PNG whose checksums do not fit. What a JPEG decoder
  cannot know (flipped bits that still decode) passes as a picture.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageFile

from jepakit.errors import UserError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# What Pillow may take a file for, whatever its name: of all it knows, some run programs (EPS: Ghostscript, a stranger's code).
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Pixels = UInt8[np.ndarray, "_channels height width"] | Float[np.ndarray, "_channels height width"]

# What Pillow's readers raise on damaged files, found by fuzzing and in its source: not only OSError.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError,
    MemoryError, NotImplementedError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as Pillow's convert("L")


class UnreadableImage(UserError):
    """One picture that cannot be decoded; `path` says which, `reason` why."""

    def __init__(self, message: str, path: str = "", reason: str = ""):
        super().__init__(message)
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are decoded (`height` and `width` after EXIF orientation)."""

    height: int
    width: int
    mode: str

    @property
    def deep(self) -> bool:
        """More than 8 bits a channel (always grey: Pillow has no deep colour)."""
        return self.mode in ("I", "F") or self.mode.startswith("I;16")

    @property
    def grey(self) -> bool:
        return self.deep or self.mode in ("1", "L", "LA", "La")

    @property
    def bytes_per_pixel(self) -> int:
        """Of the decoded picture."""
        return 4 if self.deep else 1 if self.grey else 3


def loaded_size(height: int, width: int, cover: tuple[int, int]) -> tuple[int, int]:
    """Size `(height, width)` a picture is held at: just covering `cover`, never enlarged, at most twice `cover` a side.

    The last bound keeps a panorama from blowing up the padded canvas of its whole batch; its ends are cut off.
    """
    scale = min(1.0, max(cover[0] / height, cover[1] / width))
    return (
        min(max(1, round(height * scale)), 2 * cover[0]),
        min(max(1, round(width * scale)), 2 * cover[1]),
    )


def cover_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """8/7 of the model's input (256 for 224): room for crops, small enough to read quickly."""
    return math.ceil(image_size[0] * 8 / 7), math.ceil(image_size[1] * 8 / 7)


def read_header(file: str | bytes, name: str | None = None) -> Header:
    """Size and mode of a picture, from the start of the file. Raises `UnreadableImage`."""
    with _opened(file, name) as image:
        width, height = image.size
        # A PNG may hold its EXIF behind the pixels; the whole file would have to be read for it.
        turned = image.format != "PNG" and _orientation(image) >= 5
        return Header(*((width, height) if turned else (height, width)), mode=image.mode)


def read_image(
    file: str | bytes,
    cover: tuple[int, int] | None = None,
    value_range: tuple[float, float] | None = None,
    name: str | None = None,
) -> Pixels:
    """Pixels `[channels, height, width]` of one picture, channels 1 (grey) or 3: `uint8`, or `float32` in [0, 1].

    Args:
        file: a path, or the file's content.
        cover: reduce to `loaded_size(height, width, cover)`; None: as it is.
        value_range: the values of pixels deeper than 8 bits that become 0 and 1; None: the file's bit depth.
        name: what to call it in errors; None: the path.

    Raises:
        UnreadableImage: it cannot be decoded completely; the message names it.
    """
    with _opened(file, name) as image:
        if cover is not None:
            image.draft(None, (max(cover), max(cover)))  # a large JPEG is decoded at 1/2, 1/4 or 1/8: much faster
        image.load()
        if image.format == "PNG":
            _check_png(file if isinstance(file, bytes) else Path(file).read_bytes())
        orientation = _orientation(image)
        image = _plain(image, value_range)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        if cover is not None:
            image = _reduced(image, cover)
        pixels = np.array(image)
    if pixels.dtype != np.uint8:
        pixels = np.clip(pixels, 0.0, 1.0)  # bicubic filters overshoot
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Grey repeated to three channels, or colour reduced to its luma; unchanged when it fits."""
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    grey = np.tensordot(_LUMA, pixels.astype(np.float32), axes=1)[None]
    return np.rint(grey).astype(np.uint8) if pixels.dtype == np.uint8 else grey


def is_grey(pixels: Pixels) -> bool:
    """Whether all channels are equal (a grey picture may be stored as RGB)."""
    return len(pixels) == 1 or bool((pixels[0] == pixels[1]).all() and (pixels[1] == pixels[2]).all())


@contextmanager
def _opened(file: str | bytes, name: str | None) -> Iterator[Image.Image]:
    """An open Pillow image; any trouble with it inside the block becomes `UnreadableImage`."""
    # Another library may have asked Pillow to fill truncated pictures with grey. Here that is never wanted.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        if not isinstance(file, bytes) and os.path.exists(file) and not os.path.isfile(file):
            raise OSError("it is a folder, a pipe or a device")  # opening a pipe waits for its other end
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            yield image
    except _DECODE_ERRORS as error:
        name = name if name is not None else ("picture" if isinstance(file, bytes) else file)
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is not an image of a known format"
        elif isinstance(error, FileNotFoundError):
            reason = "it does not exist"
        else:
            reason = str(error).strip() or type(error).__name__
        raise UnreadableImage(f"{name} cannot be read as an image: {reason}", name, reason) from error


def _check_png(content: bytes) -> None:
    """Compare the checksums of the chunks that make the picture: Pillow passes over those of the pixels."""
    place = 8
    while place + 12 <= len(content):
        (length,), kind = struct.unpack_from(">I", content, place), content[place + 4 : place + 8]
        end = place + 8 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            if zlib.crc32(content[place + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
                raise ValueError(f"it is damaged: the checksum of its {kind.decode()} chunk does not fit")
        place = end + 4


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return 1  # a damaged EXIF block: every viewer shows such a picture as stored
    return value if isinstance(value, int) else 1


def _plain(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    """The picture in mode L, RGB (8 bits) or F (deeper, black 0 and white 1)."""
    if Header(image.height, image.width, image.mode).deep:
        values = np.asarray(image)
        low, high = value_range or _own_range(image, values)
        scaled = (values.astype(np.float64) - low) / (high - low)
        if not np.isfinite(scaled).all():
            raise ValueError("it contains NaN or infinite pixels")
        return Image.fromarray(scaled.clip(0.0, 1.0).astype(np.float32))
    grey = Header(image.height, image.width, image.mode).grey
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("L" if grey else "RGB")


def _own_range(image: Image.Image, values: NDArray) -> tuple[float, float]:
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):  # older Pillow opens 16-bit PNG in mode I
        depth = getattr(image, "tag_v2", {}).get(258, (16,))  # TIFF: bits per sample, 12 for many cameras
        return 0.0, float(2 ** int(depth[0]) - 1)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"its 32-bit pixels lie between {low:g} and {high:g}: say which are black and white, e.g. "
            f"--value-range {low:g} {high:g}"
        )
    return 0.0, 1.0


def _reduced(image: Image.Image, cover: tuple[int, int]) -> Image.Image:
    width, height = image.size
    new_height, new_width = loaded_size(height, width, cover)
    if (new_height, new_width) == (height, width):
        return image
    scale = min(1.0, max(cover[0] / height, cover[1] / width))
    kept_width, kept_height = min(width, new_width / scale), min(height, new_height / scale)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    box = (left, top, left + kept_width, top + kept_height)
    return image.resize((new_width, new_height), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
