"""Writes packed shards (`shards.py`): sample by sample, shard by shard, so that a killed packing goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.files import UNFINISHED_PACKING, read_json, write_atomic, write_json
from jepakit.modalities.files.names import Names
from jepakit.modalities.images.collection import Collection, ImageDataConfig
from jepakit.modalities.images.shards import FORMAT, INDEX, SAMPLE, VERSION
from jepakit.modalities.images.sources import read_source
from jepakit.modalities.images.survey import FileImages, each

_ALIGN = 8
_PROBED = 64
_AHEAD = 64  # samples that are read before they are written


def pack(config: ImageDataConfig, source: object | None, out: Path, encoding: str, shard_bytes: int) -> str:
    """Pack the pictures of a data set into the folder `out`, see `write_shards`. Returns what was written, in words."""
    collection = read_source(config, source)
    write_shards(collection, config, out, encoding, shard_bytes)
    written = sum(file.stat().st_size for file in out.glob("shard-*.bin"))
    return f"{len(collection.pictures):,} pictures, {written / 1e6:,.1f} MB"


def write_shards(collection: Collection, config: ImageDataConfig, out: Path, encoding: str, shard_bytes: int) -> None:
    """Pack a collection into the folder `out`. Shards that a killed packing of the same data finished are kept.

    Errors: `out` holds something else, or another process packs into it; a picture that cannot be read.
    """
    count, read = len(collection.pictures), _encoder(collection, encoding)
    with _held(out) as work:
        probed = [read(int(index))[0] for index in np.linspace(0, count - 1, min(_PROBED, count)).astype(int)]
        per_shard = max(1, int(shard_bytes / np.mean([len(content) for content in probed])))
        plan = {"samples": count, "per_shard": per_shard, "encoding": encoding, "data": _digest(collection, config, probed)}
        _agree(work / "plan.json", plan, out)
        shards, tables = [], []
        for number, start in enumerate(range(0, count, per_shard)):
            file = out / f"shard-{number:05d}.bin"
            table = work / f"{file.name}.npy"
            if not table.exists():
                label = f"Packing shard {number + 1} of {-(-count // per_shard)}"
                rows = _write_shard(file, read, range(start, min(start + per_shard, count)), label)
                _save(table, rows)
            tables.append(np.load(table))
            shards.append({"file": file.name, "samples": len(tables[-1]), "bytes": file.stat().st_size})
        _write_index(collection, config, out, encoding, shards, np.concatenate(tables))
    shutil.rmtree(work)


def _encoder(collection: Collection, encoding: str) -> Callable[[int], tuple[bytes, tuple]]:
    """A function of a sample's position that gives its bytes, and height, width, channels and depth of `SAMPLE`."""
    pictures = collection.pictures

    def pixels(index: int) -> tuple[bytes, tuple]:
        found = pictures.read(index)
        return found.tobytes(), (*found.shape[1:], found.shape[0], found.dtype != np.uint8)

    def file(index: int) -> tuple[bytes, tuple]:
        found = pictures.file(index)  # type: ignore[attr-defined]
        content = found if isinstance(found, bytes) else Path(found).read_bytes()
        return content, (*collection.shapes[index], collection.channels, False)

    if encoding == "pixels":
        return pixels
    if not isinstance(pictures, FileImages):
        raise UserError(f"encoding files: the pictures of {collection.name} are arrays, not files. Use --encoding pixels.")
    return file


def _write_shard(file: Path, read: Any, indices: range, label: str) -> NDArray:
    rows = np.zeros(len(indices), dtype=SAMPLE)

    def write(path: Path) -> None:
        place = 0
        with open(path, "wb") as handle:
            for number, (content, kind) in enumerate(each(read, indices, label, ahead=_AHEAD)):
                handle.write(content)
                rows[number] = (place, len(content), zlib.crc32(content), *kind)
                padding = -len(content) % _ALIGN
                handle.write(bytes(padding))
                place += len(content) + padding

    write_atomic(file, write)
    return rows


def _write_index(
    collection: Collection, config: ImageDataConfig, out: Path, encoding: str, shards: list[dict[str, Any]], table: NDArray
) -> None:
    labels, names = collection.labels, collection.relative
    arrays = {"samples": table, "sizes": collection.shapes.astype(np.int32)}
    if labels is not None:
        arrays["labels"] = labels.values
    if collection.test is not None:
        arrays["test"] = collection.test
    if names is not None:
        packed = Names.of(names)
        arrays |= {"names": packed.text, "name_starts": packed.starts}
    for name, array in arrays.items():
        _save(out / f"{name}.npy", array)
    write_json(
        out / INDEX,
        {
            "format": FORMAT,
            "version": VERSION,
            "encoding": encoding,
            "name": collection.name,
            "root": os.path.abspath(os.path.expanduser(config.data)),
            "samples": len(table),
            "image_size": list(collection.image_size),
            "channels": collection.channels,
            "value_range": config.value_range or collection.value_range,
            "modes": collection.modes,
            "task": None if labels is None else labels.task,
            "classes": None if labels is None else labels.classes,
            "named": names is not None,
            "split": collection.test is not None,
            "bad_files": [{"path": bad.path, "reason": bad.reason} for bad in collection.bad_files],
            "notes": collection.notes,
            "shards": shards,
        },
    )


def _save(path: Path, array: NDArray) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "wb") as handle:  # np.save adds .npy to a name, but not to a file
            np.save(handle, array, allow_pickle=False)

    write_atomic(path, write)


def _digest(collection: Collection, config: ImageDataConfig, probed: list[bytes]) -> str:
    """Of what is packed (of some of it, of all sizes and names), so that shards of other data are not continued."""
    digest = hashlib.sha256(b"".join(probed))
    digest.update(np.ascontiguousarray(collection.shapes).tobytes())
    digest.update(repr((collection.image_size, collection.channels, config.value_range)).encode())
    for name in collection.relative or ():
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:16]


def _agree(path: Path, plan: dict[str, Any], out: Path) -> None:
    if path.exists() and (found := read_json(path)) != plan:
        found = found if isinstance(found, dict) else {}
        differing = ", ".join(name for name in plan if plan[name] != found.get(name))
        raise UserError(
            f"{out} holds an unfinished packing that differs in {differing}. Repeat that command, remove the folder, or choose "
            "another one."
        )
    write_json(path, plan)


@contextlib.contextmanager
def _held(out: Path) -> Iterator[Path]:
    """The folder for unfinished work inside `out`, which nobody else packs into."""
    work = out / UNFINISHED_PACKING
    if (out / INDEX).exists():
        raise UserError(f"{out} holds a finished packing. Choose another folder.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder to pack into.")
    if out.is_dir() and not work.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty. Give a new folder to pack into.")
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"Another process is packing into {out}. Wait for it, or choose another folder.") from error
    try:
        yield work
    finally:
        lock.release()
