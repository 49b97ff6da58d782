"""Images as inline data, and mask pictures drawn over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float, Num
from PIL import Image

from jepakit.pages.markup import tag

_LARGEST = 128  # pixels of the longer side: pictures stand at 60 to 130 CSS pixels, and a page holds about a hundred
_BLOCK_COLOURS = (0, 1, 4, 2, 9, 6)  # of the ten colours those that stand apart from each other over a grey picture
_SMALL = 64  # up to this size pictures are stored exactly and shown with sharp pixels


def data_uri(image: Num[np.ndarray, "channels height width"]) -> str:
    """An image in [0, 1] as a data URI: PNG when it is small, otherwise JPEG of at most 128 pixels a side.

    Values outside [0, 1] are clipped, NaN is black; one channel is grey, of two or more than three the first is shown.
    """
    clean = np.clip(np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0), 0.0, 1.0)
    pixels = np.round(clean * 255).astype(np.uint8)
    picture = Image.fromarray(np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[0])
    longer = max(picture.size)
    buffer = io.BytesIO()
    if longer <= _SMALL:
        picture.save(buffer, "PNG", optimize=True)
        return _encode("png", buffer)
    picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=85, optimize=True)
    return _encode("jpeg", buffer)


def _encode(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def picture(image: Num[np.ndarray, "channels height width"], alt: str) -> Element:
    """An `<img>`; small ones keep their pixels when they are enlarged."""
    height, width = image.shape[1:]
    kind = "pixels" if max(height, width) <= _SMALL else None
    return tag("img", {"src": data_uri(image), "alt": alt, "width": width, "height": height, "class": kind})


def colour_map(colours: Float[np.ndarray, "rows columns 3"], shape: tuple[int, int], alt: str) -> Element:
    """A map with one flat cell a token, in the proportions `shape` (height, width) of its image."""
    uri = data_uri(np.moveaxis(colours, -1, 0))
    if max(colours.shape[:2]) > _SMALL:
        return tag("img", {"src": uri, "alt": alt, "width": shape[1], "height": shape[0]})
    return tag("img", {"src": uri, "alt": alt, "width": shape[1], "height": shape[0], "class": "pixels"})


def outline(ids: Iterable[int], grid: tuple[int, int]) -> str:
    """SVG path data of the border around cells of a grid, in units of cells; any shape, several pieces, holes."""
    columns = grid[1]
    cells = {(int(i) // columns, int(i) % columns) for i in ids}
    edges = []
    for row, column in sorted(cells):
        if (row - 1, column) not in cells:
            edges.append(f"M{column} {row}h1")
        if (row + 1, column) not in cells:
            edges.append(f"M{column} {row + 1}h1")
        if (row, column - 1) not in cells:
            edges.append(f"M{column} {row}v1")
        if (row, column + 1) not in cells:
            edges.append(f"M{column + 1} {row}v1")
    return "".join(edges)


def area(ids: Iterable[int], grid: tuple[int, int]) -> str:
    """SVG path data that fills the cells, in units of cells."""
    columns = grid[1]
    return "".join(f"M{i % columns} {i // columns}h1v1h-1z" for i in sorted({int(i) for i in ids}))


def mask_picture(
    image: Num[np.ndarray, "channels height width"],
    context: Sequence[int],
    targets: Sequence[Sequence[int]],
    grid: tuple[int, int],
    name: str,
) -> list[Element]:
    """Three panels: the image, what the context encoder saw, and the blocks that were asked for."""
    hidden = set(range(grid[0] * grid[1])) - {int(i) for i in context}
    veil = tag("path", {"class": "veil", "d": area(hidden, grid)})
    blocks: list[Element] = []
    for number, block in enumerate(targets):
        colour = f"c{_BLOCK_COLOURS[number % len(_BLOCK_COLOURS)]}"
        blocks.append(tag("path", {"class": f"block {colour}", "d": area(block, grid)}))
        blocks.append(tag("path", {"class": f"border {colour}", "d": outline(block, grid)}))
    return [
        _panel(image, grid, f"{name}: the whole image", []),
        _panel(image, grid, f"{name}: the {len(set(context))} patches that the context encoder saw", [veil]),
        _panel(image, grid, f"{name}: the {len(targets)} target blocks", blocks, dim=True),
    ]


def _panel(
    image: Num[np.ndarray, "channels height width"],
    grid: tuple[int, int],
    label: str,
    over: Sequence[Element],
    dim: bool = False,
) -> Element:
    rows, columns = grid
    height, width = image.shape[1:]
    sharp = " pixels" if max(height, width) <= _SMALL else ""
    # One unit is one token, so that ids draw without knowing the patch size.
    inside = tag(
        "image",
        {
            "href": data_uri(image),
            "width": columns,
            "height": rows,
            "preserveAspectRatio": "none",
            "class": ("dim" if dim else "") + sharp,
        },
    )
    box = {"viewBox": f"0 0 {columns} {rows}", "preserveAspectRatio": "none", "role": "img", "aria-label": label}
    return tag("svg", {**box, "class": "panel", "style": f"aspect-ratio:{width}/{height}"}, inside, over)
