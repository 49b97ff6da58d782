"""`pack`: pictures into a few memory-mapped files, so that training reads them quickly and in little memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from jepakit.errors import UserError
from jepakit.modalities.image_collection import ImageDataConfig
from jepakit.modalities.image_sources import read_source
from jepakit.modalities.packing import write_shards

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9}


def pack(
    data: Any,
    out: str | Path,
    *,
    encoding: Literal["pixels", "files"] = "pixels",
    shard_size: str = "512MB",
    labels: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    on_bad_file: Literal["error", "skip"] = "error",
    value_range: tuple[float, float] | None = None,
) -> Path:
    """Pack pictures into memory-mapped shards, which every verb then takes as its data. Started again, it goes on.

    Args:
        data: a folder, an array file, tar shards, a built-in name, or a Hugging Face data set object.
        out: the folder to write; with the same command again, one that was not finished.
        encoding: "pixels" decodes once, at the size training would load (the fastest to train from); "files" keeps each
            file as it is (the smallest).
        shard_size: about how large each file is: 512MB, 2GB.
        labels: a CSV (columns path, label), or "none" to leave labels out.
        image_size: height and width the model will see, for which "pixels" reduces larger pictures.
        channels: 1 (grey) or 3 (colour).
        on_bad_file: "error" stops at unreadable files, "skip" leaves them out and lists them.
        value_range: the pixel values that become black and white where pixels are not 8 bits.
    """
    source = None if isinstance(data, str | os.PathLike) else data
    config = ImageDataConfig(
        data="object" if source is not None else os.fspath(data),
        labels=labels,
        image_size=image_size,
        channels=channels,
        on_bad_file=on_bad_file,
        value_range=value_range,
    )
    size = shard_bytes(shard_size)
    collection = read_source(config, source)
    out = Path(out)
    write_shards(collection, config, out, encoding, size)
    written = sum(file.stat().st_size for file in out.glob("shard-*.bin"))
    Console(stderr=True).print(f"{len(collection.pictures):,} pictures, {written / 1e6:,.1f} MB: --data {out}", soft_wrap=True)
    return out


def shard_bytes(size: str) -> int:
    """The bytes of "512MB". Errors: not a number with kB, MB or GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]b)", size.strip().lower())
    if match is None or float(match[1]) == 0:
        raise UserError(f"shard_size: {size!r} is not a size. Give one as 512MB or 2GB.")
    return max(1, int(float(match[1]) * _UNITS[match[2]]))
