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

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.image_collection import Collection, ImageDataConfig
from jepakit.modalities.image_files import BadFile, Pixels, cover_size, with_channels
from jepakit.modalities.image_labels import Labels, groups_of, label_table
from jepakit.modalities.image_survey import FileImages, decoded_bytes
from jepakit.modalities.mapped_files import MappedArray, MappedFiles
from jepakit.modalities.names import Names

FORMAT, VERSION = "jepakit-shards", 1
INDEX = "index.json"
UNFINISHED_PACKING = ".packing"

SAMPLE = np.dtype(
    {
        "names": ["start", "bytes", "crc32", "height", "width", "channels", "deep"],
        "formats": ["<i8", "<u4", "<u4", "<u4", "<u4", "u1", "u1"],
    }
)
"""A sample in its shard. `deep`: decoded pixels are float32 in [0, 1], else uint8."""


class ShardBytes(Sequence[bytes]):
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
        row = self.table[index]
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return self._files.read(shard, int(row["start"]), int(row["bytes"]))

    def __getitem__(self, index: Any) -> Any:
        return self.read(int(index)).tobytes()

    def damaged(self, index: int) -> bool:
        """Whether a sample's bytes are not those that were packed."""
        return zlib.crc32(self[index]) != int(self.table[index]["crc32"])


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


def is_packed(folder: Path) -> bool:
    """Whether `folder` holds packed shards, finished or not."""
    return (folder / INDEX).is_file() or (folder / UNFINISHED_PACKING).is_dir()


def read_index(folder: Path) -> dict[str, Any]:
    """`index.json`. Errors: not there, not ours, of a later version; shards that are gone or of another length."""
    if not (folder / INDEX).exists():
        raise UserError(f"data: the packing of {folder} was not finished. Give the same `jepakit pack` command again.")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"data: {folder / INDEX} cannot be read: {error}.") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UserError(f"data: {folder / INDEX} does not say that it is of the format {FORMAT!r}.")
    if index["version"] != VERSION:
        raise UserError(
            f"data: {folder} is of version {index['version']} of the format, and this jepakit reads version {VERSION}. Pack it "
            "again."
        )
    for shard in index["shards"]:
        file = folder / shard["file"]
        length = file.stat().st_size if file.is_file() else None
        if length != shard["bytes"]:
            found = "is missing" if length is None else f"has {length:,} bytes instead of {shard['bytes']:,}"
            raise UserError(f"data: {file} {found}. Copy it again, or pack again into a new folder.")
    return index


def read_packed(config: ImageDataConfig, folder: Path) -> Collection:
    """The collection that was packed into `folder`."""
    index = read_index(folder)
    content = ShardBytes(folder, index["shards"])
    shapes = np.load(folder / "sizes.npy").astype(np.int64)
    names = None
    if index["named"]:
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
        test=np.load(folder / "test.npy") if index["split"] else None,
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
    return Labels(np.load(folder / "labels.npy"), index["task"], index["classes"]), None


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
