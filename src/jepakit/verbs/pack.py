"""`pack`: pictures, or trajectories, into a few memory-mapped files that training reads quickly and in little memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.packing import write_shards
from jepakit.modalities.images.shards import UNFINISHED_PACKING
from jepakit.modalities.images.sources import read_source
from jepakit.modalities.trajectories.episode_writer import EpisodeWriter
from jepakit.modalities.trajectories.episodes import foreign_episodes, holds_foreign

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
    if isinstance(data, str | os.PathLike) and holds_foreign(path := Path(data).expanduser()):
        return _pack_episodes(path, Path(out), observation)
    if observation is not None:
        raise UserError(f"observation: {data} holds no trajectories. Leave it out.")
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


def _pack_episodes(path: Path, out: Path, observation: str | None) -> Path:
    """Episodes into a store, one in memory at a time where their own files allow it (D4RL's flat arrays do not).

    They are written beside `out`, which is there only when all of them are.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty. Give a new folder to pack into.")
    partial = out.with_name(f"{out.name}{UNFINISHED_PACKING}")
    with foreign_episodes(path, observation) as (episodes, kind):
        about = {"source": os.path.abspath(path), "kind": kind, "observation": observation}
        with EpisodeWriter(partial, about) as writer:
            if writer.about != about:
                raise UserError(f"{partial} is an unfinished packing of {writer.about}. Remove it, or choose another folder.")
            done, long = len(writer), 0
            for episode in track(episodes, "Packing episodes", console=Console(stderr=True), transient=True):
                # Of a single observation nothing can be learned, and a store takes none.
                if len(episode["observations"]) > 1:
                    long += 1
                    if long > done:
                        writer.append(episode)
            found = f"{len(writer):,} episodes, {writer.steps:,} observations"
    if not long:
        raise UserError(f"{path} holds no episode of two observations or more. Check the path.")
    partial.replace(out)
    Console(stderr=True).print(f"{found}: --data {out}", soft_wrap=True)
    return out


def shard_bytes(size: str) -> int:
    """The bytes of "512MB". Errors: not a number with kB, MB or GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]b)", size.strip().lower())
    if match is None or float(match[1]) == 0:
        raise UserError(f"shard_size: {size!r} is not a size. Give one as 512MB or 2GB.")
    return max(1, int(float(match[1]) * _UNITS[match[2]]))
