"""Reads LeRobot-style data sets: parquet tables `data/chunk-*/*.parquet` with a row a step, described by `meta/info.json`.

Row t holds what was observed (`observation.state` and further vectors), the `action` taken there and its `episode_index`;
a file holds one episode (version 2) or several (version 3). Video and image columns are not read yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, missing_extra
from jepakit.files import read_json
from jepakit.modalities.array_files import check_memory
from jepakit.modalities.observation_choice import chosen_observation

_INFO = Path("meta/info.json")
_PREFIX = "observation."


def is_lerobot(folder: Path) -> bool:
    """Whether a folder is described as such a data set is."""
    return (folder / _INFO).is_file()


def lerobot_episodes(folder: Path, observation: str | None) -> Iterator[dict[str, NDArray]]:
    """The episodes in order of number. `observation` names what is taken: "state" (the default where it is there),
    another vector without its prefix "observation.", or several (`chosen_observation`).

    Raises:
        UserError: only video or images to look at, no tables, columns missing or damaged; with the remedy.
    """
    names = _vectors(folder, observation)
    files = sorted((folder / "data").glob("chunk-*/*.parquet"), key=_numbers)
    if not files:
        raise UserError(f"{folder} has {_INFO}, but no data/chunk-*/*.parquet. Copy the data set again.")
    last = -1
    for file in files:
        table = _read(file, [*(_PREFIX + name for name in names), "action", "episode_index"])
        numbers = table["episode_index"].reshape(-1)
        parts = {name: table[_PREFIX + name] for name in names}
        begins = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1), len(numbers)] if len(numbers) else [0]
        for begin, end in pairwise(begins):
            if numbers[begin] <= last:
                raise UserError(f"{file}: episode {numbers[begin]} stands after episode {last}. Sort them by episode_index.")
            last = int(numbers[begin])
            some = {name: array[begin:end] for name, array in parts.items()}
            seen = chosen_observation({name: 2 for name in some}, some.__getitem__, ",".join(names), str(file))
            yield {"observations": seen, "actions": table["action"][begin:end]}


def _numbers(file: Path) -> list[int]:
    """Numbers of chunk and file: as text, chunk-1000 would stand before chunk-999."""
    return [int(number) for number in re.findall(r"\d+", f"{file.parent.name} {file.stem}")]


def _vectors(folder: Path, wanted: str | None) -> list[str]:
    """The observations to read, without their prefix."""
    info = read_json(folder / _INFO)
    features = info.get("features") if isinstance(info, dict) else None
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise UserError(f"{folder / _INFO} does not describe features. Copy the data set again.")
    seen = {name.removeprefix(_PREFIX): feature.get("dtype") for name, feature in features.items() if name.startswith(_PREFIX)}
    pictures = sorted(name for name, kind in seen.items() if kind in ("video", "image"))
    vectors = sorted(name for name, kind in seen.items() if kind not in ("video", "image"))
    names = [name.strip().removeprefix(_PREFIX) for name in wanted.split(",")] if wanted is not None else None
    if names is None:
        names = ["state"] if "state" in vectors else vectors
    if any(name in pictures for name in names) or (pictures and not names):
        raise UserError(
            f"{folder} observes video or images ({', '.join(pictures)}), which are not read yet. Choose vectors with "
            f"--observation ({', '.join(vectors) or 'none here'}), or decode them into an episode store (docs/trajectories.md)."
        )
    if not names or any(name not in vectors for name in names):
        missing = ", ".join(name for name in names if name not in vectors) or "a vector"
        raise UserError(f"{folder} does not observe {missing}. It observes {', '.join(vectors) or 'nothing'}.")
    return names


def _read(file: Path, columns: list[str]) -> dict[str, NDArray[Any]]:
    """Columns of numbers or of lists of equal length, as `[rows]` and `[rows, width]`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", f"Reading {file}") from error
    try:
        groups = pyarrow.parquet.read_metadata(file)
        check_memory(sum(groups.row_group(number).total_byte_size for number in range(groups.num_row_groups)))
        table = pyarrow.parquet.read_table(file, columns=columns)
        found = {}
        for name in columns:
            column = table.column(name).combine_chunks()
            if column.null_count:
                raise ValueError(f"{name} has rows without a value")
            rows = len(column)
            if pyarrow.types.is_nested(column.type):
                while pyarrow.types.is_nested(column.type):
                    column = column.flatten()
                found[name] = column.to_numpy(zero_copy_only=False).reshape(rows, -1)
            else:
                found[name] = column.to_numpy(zero_copy_only=False)
        return found
    except (OSError, KeyError, ValueError, AttributeError, MemoryError, pyarrow.ArrowException) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{file} cannot be read: {reason[:500]}. Copy the data set again.") from error
