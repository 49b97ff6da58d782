"""`pack`: pictures, or trajectories, into a few memory-mapped files that training reads quickly and in little memory."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from jepakit.config import OBJECT
from jepakit.errors import UserError
from jepakit.modalities.modality import Modality
from jepakit.registry import MODALITIES, load_modality, load_named

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
    observation: str | None = None,
) -> Path:
    """Pack pictures into memory-mapped shards, which every verb then takes as its data. Started again, it goes on.

    Trajectories of HDF5 files, Minari and LeRobot data sets become an episode store, numbers as they are.

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
        observation: of trajectories with several observations, which: NAME, or NAME,NAME for vectors side by side.
    """
    place, size = os.fspath(data) if isinstance(data, str | os.PathLike) else None, shard_bytes(shard_size)
    modality = _packing(place)
    options: dict[str, Any] = {
        "labels": labels, "image_size": image_size, "channels": channels, "value_range": value_range,
        "observation": observation, "on_bad_file": None if on_bad_file == "error" else on_bad_file,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - {field.name for field in dataclasses.fields(modality.Config)}:
        raise UserError(f"{name}: {data} is read as {modality.name}, which have no such option. Leave it out.")
    config = modality.Config(data=OBJECT if place is None else place, **given)
    written = load_named(str(modality.pack))(config, data if place is None else None, Path(out), encoding, size)
    Console(stderr=True).print(f"{written}: --data {out}", soft_wrap=True)
    return Path(out)


def _packing(place: str | None) -> Modality:
    """The modality that packs this data: the one whose data a path can only be, else the first that packs any."""
    packing = [modality for name in MODALITIES if (modality := load_modality(name)).pack is not None]
    return next((modality for modality in packing if place is not None and modality.holds(place)), packing[0])


def shard_bytes(size: str) -> int:
    """The bytes of "512MB". Errors: not a number with kB, MB or GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]b)", size.strip().lower())
    if match is None or float(match[1]) == 0:
        raise UserError(f"shard_size: {size!r} is not a size. Give one as 512MB or 2GB.")
    return max(1, int(float(match[1]) * _UNITS[match[2]]))
