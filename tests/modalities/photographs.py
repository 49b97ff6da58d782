"""A small folder of mixed photographs, as people have them: two learnable classes and every odd kind of file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EXIF_ORIENTATION = 0x0112


def scene(kind: str, size: int, seed: int) -> NDArray[np.uint8]:
    """One RGB picture `[size, 4/3 size, 3]`: a bright disc on blue ("moons") or warm stripes ("roofs"), with noise."""
    generator = np.random.default_rng([seed, kind == "moons"])
    height, width = size, size * 4 // 3
    rows, columns = np.mgrid[0:height, 0:width] / size
    if kind == "moons":
        centre = generator.uniform(0.35, 0.65, 2)
        lit = np.hypot(rows - centre[0], columns - centre[1] * width / height) < generator.uniform(0.2, 0.3)
        low, high = np.array([20, 30, 90]), np.array([240, 235, 200])
    else:
        lit = np.sin(2 * np.pi * (3 * rows + generator.uniform(-1, 1) * columns + generator.uniform())) > 0
        low, high = np.array([120, 50, 30]), np.array([220, 130, 80])
    picture = np.where(lit[..., None], high, low) + generator.normal(0, 8, (height, width, 3))
    return picture.clip(0, 255).astype(np.uint8)


def make_photographs(folder: Path, per_class: int = 6, size: int = 48) -> Path:
    """Write `folder/moons` and `folder/roofs`, `per_class` sound pictures each, and two bad files.

    The first six pictures of a class are one of each kind: grey, RGBA, 16-bit grey, EXIF-rotated JPEG, palette, CMYK;
    the others are JPEG. `moons/torn.jpg` is a truncated JPEG, `roofs/fake.png` is a text file, and `notes.txt` is a
    text file that says so.
    """
    for kind in ("moons", "roofs"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            write_odd(Image.fromarray(scene(kind, size, number)), folder / kind / f"{number:03}", number)
    torn = folder / "moons" / "torn.jpg"
    Image.fromarray(scene("moons", size, 10_000)).save(torn, quality=95)
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size * 4 // 5])  # the header is whole, the pixels are not
    (folder / "roofs" / "fake.png").write_text("This is no picture.\n")
    (folder / "notes.txt").write_text("Photographs from the roof.\n")
    return folder


def write_odd(picture: Image.Image, stem: Path, number: int) -> Path:
    """Write an RGB picture as the `number`-th odd kind of file."""
    if number == 0:
        picture.convert("L").save(path := stem.with_suffix(".png"))
    elif number == 1:
        layer = picture.convert("RGBA")
        layer.putalpha(Image.linear_gradient("L").resize(picture.size).point(lambda level: 255 - level // 2))
        layer.save(path := stem.with_suffix(".png"))
    elif number == 2:
        deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(path := stem.with_suffix(".png"))
    elif number == 3:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6  # to be turned a quarter clockwise for display, so it is stored turned back
        picture.transpose(Image.Transpose.ROTATE_90).save(path := stem.with_suffix(".jpg"), exif=exif, quality=95)
    elif number == 4:
        picture.quantize(64).save(path := stem.with_suffix(".gif"))
    elif number == 5:
        picture.convert("CMYK").save(path := stem.with_suffix(".jpg"), quality=95)
    else:
        picture.save(path := stem.with_suffix(".jpg"), quality=95)
    return path
