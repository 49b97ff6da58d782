"""Packs episodes of other formats into a store."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.progress import track

from jepakit.errors import UserError
from jepakit.files import UNFINISHED_PACKING
from jepakit.modalities.trajectories.data import TrajectoryDataConfig
from jepakit.modalities.trajectories.episode_writer import EpisodeWriter
from jepakit.modalities.trajectories.episodes import foreign_episodes, holds_foreign


def pack(config: TrajectoryDataConfig, source: object | None, out: Path, encoding: str, shard_bytes: int) -> str:
    """Write episodes into a store, one in memory at a time where their own files allow it (D4RL's flat arrays do not).

    They are written beside `out`, which is there only when all of them are. Numbers stay as they are, so that `encoding` and
    `shard_bytes` do nothing. Returns what was written, in words.

    Errors: no file of another format; nothing in it to learn from; a folder that holds something.
    """
    path, observation = Path(config.data).expanduser(), config.observation
    if not holds_foreign(path):
        raise UserError(
            f"pack makes stores of HDF5 files, Minari and LeRobot data sets, and {path} is none of these. Use it as it is: "
            f"--data {path}"
        )
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
            written = f"{len(writer):,} episodes, {writer.steps:,} observations"
    if not long:
        raise UserError(f"{path} holds no episode of two observations or more. Check the path.")
    partial.replace(out)
    return written
