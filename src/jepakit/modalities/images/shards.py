"""Packed shards: pictures end to end in a few large files that are memory-mapped, as `jepakit pack` writes them.

| file | what it holds |
|---|---|
| `index.json` | format and version, encoding, shards (file, samples, bytes), name and root of the source, sizes, classes |
| `shard-00000.bin`, ... | the samples' bytes, each begun at a multiple of 8: pixels `[c, h, w]`, or image files as they were |
| `samples.npy` | a row a sample: where it starts, its size, type and crc32 (`SAMPLE`) |
| `sizes.npy` | height and width as the source stored it, `[n, 2]` |
| `labels.npy`, `test.npy` | labels; the source's own split. Only where it has them |
| `names.npy`, `name_starts.npy` | paths relative to the source. Only where it has them |
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.files import UNFINISHED_PACKING, read_json
from jepakit.modalities.files.arrays import map_array
from jepakit.modalities.files.mapped import MappedArray, MappedFiles
from jepakit.modalities.files.names import Names
from jepakit.modalities.files.walk import BadFile
from jepakit.modalities.images.collection import Collection, ImageDataConfig
from jepakit.modalities.images.decoding import Pixels, cover_size, with_channels
from jepakit.modalities.images.survey import FileImages, decoded_bytes
from jepakit.modalities.labels import Labels, Task, groups_of, label_table

FORMAT, VERSION = "jepakit-shards", 1
INDEX = "index.json"

SAMPLE = np.dtype(
    {
        "names": ["start", "bytes", "crc32", "height", "width", "channels", "deep"],
        "formats": ["<i8", "<u4", "<u4", "<u4", "<u4", "u1", "u1"],
    }
)
"""A sample in its shard. `deep`: decoded pixels are float32 in [0, 1], else uint8."""


class ShardBytes(Sequence):
    """The bytes of each sample of a packed folder, by position. Pickles as its path."""

    def __init__(self, folder: Path, shards: list[dict[str, Any]]):
        self._table = MappedArray(folder / "samples.npy")
        self._files = MappedFiles([str(folder / shard["file"]) for shard in shards])
        self.ends = np.cumsum([shard["samples"] for shard in shards])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def table(self) -> NDArray:
        """`[n]` of `SAMPLE`."""
        return self._table.array

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of a sample. Errors: they are not those that were packed."""
        row = self.table[index]
        shard = int(np.searchsorted(self.ends, index, side="right"))
        content = self._files.read(shard, int(row["start"]), int(row["bytes"]))
        if zlib.crc32(content.data) != int(row["crc32"]):
            raise UserError(
                f"{self._files.paths[shard]} is damaged: sample {index:,} is not what was packed. Copy it again, or pack again."
            )
        return content

    def __getitem__(self, index: Any) -> Any:
        return self.read(int(index)).tobytes()


class PackedPixels:
    """Decoded pictures in shards: reading one is a copy out of a memory map."""

    def __init__(self, content: ShardBytes, channels: int):
        self.content, self.channels = content, channels

    def __len__(self) -> int:
        return len(self.content)

    def read(self, index: int) -> Pixels:
        """Pixels of picture `index`, as they were when it was packed."""
        row = self.content.table[index]
        kind = np.float32 if row["deep"] else np.uint8
        pixels = self.content.read(index).view(kind).reshape(int(row["channels"]), int(row["height"]), int(row["width"]))
        return with_channels(pixels, self.channels)


_BAD_FILE = {field.name for field in dataclasses.fields(BadFile)}


def _size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def _shard(value: Any) -> bool:
    """A shard lies in the folder itself: its name is no path."""
    if not isinstance(value, dict) or not {"file", "samples", "bytes"} <= set(value):
        return False
    counted = all(type(value[name]) is int and value[name] > 0 for name in ("samples", "bytes"))
    return counted and isinstance(value["file"], str) and re.fullmatch(r"shard-\d+\.bin", value["file"]) is not None


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "encoding": lambda value: value in ("pixels", "files"),
    "shards": lambda value: isinstance(value, list) and bool(value) and all(map(_shard, value)),
    "name": lambda value: isinstance(value, str),
    "root": lambda value: isinstance(value, str),
    "named": lambda value: isinstance(value, bool),
    "split": lambda value: isinstance(value, bool),
    "image_size": _size,
    "channels": lambda value: value in (1, 3),
    "value_range": lambda value: value is None or (isinstance(value, list) and len(value) == 2),
    "modes": lambda value: isinstance(value, dict),
    "notes": lambda value: isinstance(value, list) and all(isinstance(note, str) for note in value),
    "task": lambda value: value in (None, *get_args(Task)),
    "classes": lambda value: value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value)),
    "bad_files": lambda value: isinstance(value, list) and all(isinstance(b, dict) and set(b) == _BAD_FILE for b in value),
}


def is_packed(folder: Path) -> bool:
    """Whether `folder` holds packed shards, finished or not."""
    return (folder / INDEX).is_file() or (folder / UNFINISHED_PACKING).is_dir()


def read_index(folder: Path) -> dict[str, Any]:
    """`index.json`. Errors: not there, not ours, of a later version, damaged; shards that are gone or of another length."""
    if not (folder / INDEX).exists():
        raise UserError(f"data: the packing of {folder} was not finished. Give the same `jepakit pack` command again.")
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UserError(f"data: {folder / INDEX} does not say that it is of the format {FORMAT!r}. Check the path.")
    if index.get("version") != VERSION:
        raise UserError(
            f"data: {folder} is of version {index.get('version')} of the format, and this jepakit reads version {VERSION}. "
            "Pack it again."
        )
    wrong = [name for name, fits in _FIELDS.items() if name not in index or not fits(index[name])]
    if wrong:
        raise UserError(f"data: {folder / INDEX} is damaged: {', '.join(wrong)}. Copy it again, or pack again.")
    for shard in index["shards"]:
        file = folder / shard["file"]
        length = file.stat().st_size if file.is_file() else None
        if length != shard["bytes"]:
            found = "is missing" if length is None else f"has {length:,} bytes instead of {shard['bytes']:,}"
            raise UserError(f"data: {file} {found}. Copy it again, or pack again into a new folder.")
    return index


def read_packed(config: ImageDataConfig, folder: Path) -> Collection:
    """The collection that was packed into `folder`. Errors: a file of it that is damaged or does not fit the others."""
    index = read_index(folder)
    content = ShardBytes(folder, index["shards"])
    count = len(content)
    shapes = _table(folder, "sizes", "iu", (count, 2)).astype(np.int64)
    _check_samples(folder, index, _table(folder, "samples", "V", (count,)))
    names = None
    if index["named"]:
        text, starts = _table(folder, "names", "u", (-1,)), _table(folder, "name_starts", "iu", (count + 1,))
        if starts[0] != 0 or starts[-1] != len(text) or (np.diff(starts.astype(np.int64)) < 0).any():
            raise UserError(f"data: {folder / 'name_starts.npy'} is damaged. Copy it again, or pack again.")
        names = Names(MappedArray(folder / "names.npy"), MappedArray(folder / "name_starts.npy"))
    image_size = config.image_size or tuple(index["image_size"])
    channels = config.channels or index["channels"]
    notes = list(index["notes"])
    pictures: Any
    if index["encoding"] == "pixels":
        _check_size(folder, image_size, content.table, shapes, index)
        pictures = PackedPixels(content, channels)
        if config.value_range is not None:
            raise UserError("value_range: the pixels of packed shards are in [0, 1] already. Give it to `jepakit pack`.")
    else:
        value_range = config.value_range or index["value_range"]
        files = names if names is not None else Names.of(f"picture {number}" for number in range(len(content)))
        cover = cover_size(image_size)
        decoded = decoded_bytes(shapes, channels, cover)
        pictures = FileImages(content, files, decoded, cover, value_range and tuple(value_range))
        pictures.channels = channels
    labels, table = _labels(config, folder, index, names)
    return Collection(
        name=index["name"],
        kind="shards",
        pictures=pictures,
        image_size=image_size,
        channels=channels,
        shapes=shapes,
        modes=index["modes"],
        labels=labels,
        paths=names,
        relative=names,
        groups=None if names is None else groups_of(config.group_by, table, names),
        test=np.array(_table(folder, "test", "b", (count,))) if index["split"] else None,
        bad_files=[BadFile(**bad) for bad in index["bad_files"]],
        notes=notes,
        shards=content.ends,
    )


def _labels(config: ImageDataConfig, folder: Path, index: dict[str, Any], names: Names | None) -> tuple[Labels | None, Any]:
    if names is None and config.group_by is not None:
        raise UserError(f"group_by: the pictures of {config.data} have no paths. Pack a folder of image files.")
    if config.labels not in (None, "none") and names is None:
        raise UserError(f"labels: the pictures of {config.data} have no paths. Give the labels to `jepakit pack`.")
    table = None if names is None else label_table(config.labels, Path(index["root"]), names)
    if table is not None:
        return table.labels(), table
    if config.labels == "none" or index["task"] is None:
        return None, None
    values = np.array(_table(folder, "labels", "iufb", (sum(shard["samples"] for shard in index["shards"]), ...)))
    classes = len(index["classes"] or ())
    if classes and index["task"] == "classification" and not 0 <= values.min() <= values.max() < classes:
        raise UserError(f"data: {folder / 'labels.npy'} holds numbers of no class. Copy it again, or pack again.")
    return Labels(values, index["task"], index["classes"]), None


def _table(folder: Path, name: str, kinds: str, shape: tuple[Any, ...]) -> NDArray:
    """One of the tables, mapped. -1 stands for any length, ... for any further axes."""
    path = folder / f"{name}.npy"
    array = map_array(path)
    wanted = shape[:-1] if shape[-1] is ... else shape
    fits = array.shape[: len(wanted)] if shape[-1] is ... else array.shape
    agrees = len(fits) == len(wanted) and all(n in (-1, found) for n, found in zip(wanted, fits, strict=True))
    if not agrees or array.dtype.kind not in kinds or (kinds == "V" and array.dtype != SAMPLE):
        raise UserError(f"data: {path} is damaged: {array.dtype} {array.shape} does not fit. Copy it again, or pack again.")
    return array


def _check_samples(folder: Path, index: dict[str, Any], table: NDArray) -> None:
    """Every sample lies within its shard, and has the bytes that its size needs."""
    counts = [shard["samples"] for shard in index["shards"]]
    length = np.repeat([shard["bytes"] for shard in index["shards"]], counts)
    ends = table["start"] + table["bytes"].astype(np.int64)
    fits = (table["start"] >= 0) & (ends <= length)
    if index["encoding"] == "pixels":
        pixels = np.prod([table[side].astype(np.float64) for side in ("channels", "height", "width")], axis=0)
        fits &= (pixels > 0) & np.isin(table["channels"], (1, 3)) & (pixels * np.where(table["deep"], 4, 1) == table["bytes"])
    if not fits.all():
        raise UserError(
            f"data: {folder / 'samples.npy'} is damaged: sample {int(np.argmin(fits)):,} does not lie in its shard. Copy it "
            "again, or pack again."
        )


def _check_size(folder: Path, wanted: tuple[int, int], table: NDArray, own: NDArray, index: dict[str, Any]) -> None:
    """Refuse a model's input that needs more pixels than were kept."""
    if all(asked <= packed for asked, packed in zip(wanted, index["image_size"], strict=True)):
        return
    if bool((table["height"] < own[:, 0]).any() or (table["width"] < own[:, 1]).any()):
        packed, asked = (" ".join(map(str, size)) for size in (index["image_size"], wanted))
        raise UserError(
            f"image_size {asked}: {folder} holds pixels reduced for {packed}. Pack again with --image-size {asked}, or with "
            "--encoding files, which keeps every size."
        )
