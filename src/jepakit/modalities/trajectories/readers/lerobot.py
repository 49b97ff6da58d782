"""Reads LeRobot-style data sets: parquet tables `data/chunk-*/*.parquet` with a row a step, described by `meta/info.json`.

Row t holds what was observed (`observation.state` and further vectors), the `action` taken there and its `episode_index`;
a file holds one episode (version 2) or several (version 3). Pictures lie in the rows, as encoded bytes, or in video files:
one of each episode (version 2), or of several with the seconds at which each begins in `meta/episodes` (version 3).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepakit.errors import UserError, missing_extra
from jepakit.files import read_json
from jepakit.modalities.files.arrays import check_memory
from jepakit.modalities.trajectories.readers.observation_choice import chosen_observation
from jepakit.modalities.video.decoding import decoded_frames

_INFO = Path("meta/info.json")
_PREFIX = "observation."
_VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"  # of version 2


def is_lerobot(folder: Path) -> bool:
    """Whether a folder is described as such a data set is."""
    return (folder / _INFO).is_file()


def lerobot_episodes(folder: Path, observation: str | None) -> Iterator[dict[str, NDArray]]:
    """The episodes in order of number. `observation` names what is taken, without its prefix "observation.": "state" (the
    default where it is there), another vector, several vectors (`chosen_observation`), or one camera, whose pictures are
    uint8 `[steps, 3, height, width]`.

    Raises:
        UserError: no tables, columns missing or damaged, a video of fewer frames than steps; with the remedy.
    """
    names, camera = _chosen(folder, observation)
    files = sorted((folder / "data").glob("chunk-*/*.parquet"), key=_numbers)
    if not files:
        raise UserError(f"{folder} has {_INFO}, but no data/chunk-*/*.parquet. Copy the data set again.")
    last, videos = -1, _Videos(folder, names[0]) if camera == "video" else None
    for file in files:
        in_rows = [] if videos else [_PREFIX + name for name in names]
        table = _read(file, [*in_rows, "action", "episode_index"])
        numbers = table["episode_index"].reshape(-1)
        parts = {name: table[_PREFIX + name] for name in names if not videos}
        changes = (np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()
        begins = [0, *changes, len(numbers)] if len(numbers) else [0]
        for begin, end in pairwise(begins):
            if numbers[begin] <= last:
                raise UserError(f"{file}: episode {numbers[begin]} stands after episode {last}. Sort them by episode_index.")
            last = int(numbers[begin])
            if camera is not None:
                frames = videos.frames(last) if videos else map(_picture, parts[names[0]][begin:end])
                seen = _stacked(frames, end - begin, f"{folder}: {names[0]} of episode {last}")
            else:
                some = {name: array[begin:end] for name, array in parts.items()}
                seen = chosen_observation({name: 2 for name in some}, some.__getitem__, ",".join(names), str(file))
            yield {"observations": seen, "actions": table["action"][begin:end]}


def _numbers(file: Path) -> list[int]:
    """Numbers of chunk and file: as text, chunk-1000 would stand before chunk-999."""
    return [int(number) for number in re.findall(r"\d+", f"{file.parent.name} {file.stem}")]


def _chosen(folder: Path, wanted: str | None) -> tuple[list[str], str | None]:
    """The observations to read, without their prefix; "video" or "image" where it is one camera's pictures, else None."""
    features = _description(folder).get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise UserError(f"{folder / _INFO} does not describe features. Copy the data set again.")
    kinds = {name.removeprefix(_PREFIX): feature.get("dtype") for name, feature in features.items() if name.startswith(_PREFIX)}
    cameras = sorted(name for name, kind in kinds.items() if kind in ("video", "image"))
    vectors = sorted(name for name, kind in kinds.items() if kind not in ("video", "image"))
    names = [name.strip().removeprefix(_PREFIX) for name in wanted.split(",")] if wanted is not None else None
    if names is None:
        names = ["state"] if "state" in vectors else vectors or cameras
    missing = [name for name in names if name not in kinds]
    if not names or missing:
        raise UserError(
            f"{folder} does not observe {', '.join(missing) or 'anything'}. "
            f"It observes {', '.join(sorted(kinds)) or 'nothing'}."
        )
    if len(names) > 1 and any(name in cameras for name in names):
        raise UserError(
            f"{folder} observes the cameras {', '.join(cameras)} and the vectors {', '.join(vectors) or '(none)'}. Choose one "
            "camera, or vectors, with --observation NAME or NAME,NAME."
        )
    return names, kinds[names[0]] if names[0] in cameras else None


def _description(folder: Path) -> dict[str, Any]:
    info = read_json(folder / _INFO)
    return info if isinstance(info, dict) else {}


class _Videos:
    """Where the frames of a camera lie; what says so is read once."""

    def __init__(self, folder: Path, camera: str):
        self.folder, self.key, self.info = folder, _PREFIX + camera, _description(folder)
        self.template = self.info.get("video_path") or _VIDEO_PATH
        names = [f"videos/{self.key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        self.places: dict[int, tuple[int, int, float]] = {}  # of each episode: chunk, file, second it begins at (version 3)
        tables = sorted((folder / "meta" / "episodes").glob("chunk-*/*.parquet"), key=_numbers)
        for table in tables:
            found = _read(table, ["episode_index", *names])
            for number, chunk, file, begin in zip(found["episode_index"], *(found[name] for name in names), strict=True):
                self.places[int(number)] = (int(chunk), int(file), float(begin))
        self.several = bool(tables)

    def frames(self, episode: int) -> Iterator[NDArray[np.uint8]]:
        """From an episode's beginning on."""
        values: dict[str, Any] = {"video_key": self.key, "episode_index": episode}
        values["episode_chunk"] = episode // int(self.info.get("chunks_size", 1000))
        begin = 0.0
        if self.several:
            if episode not in self.places:
                untold = f"{self.folder}/meta/episodes does not say where the video of episode {episode} is"
                raise UserError(f"{untold}. Copy the data set again.")
            values["chunk_index"], values["file_index"], begin = self.places[episode]
        try:
            file = self.folder / self.template.format(**values)
        except (KeyError, ValueError) as error:
            raise UserError(f"{self.folder / _INFO}: video_path {self.template!r} asks for {error}, not known here.") from error
        if not file.is_file():
            raise UserError(f"{file} is not there, the video of episode {episode}. Copy the data set again, with its videos.")
        return decoded_frames(file, begin)


def _picture(encoded: Any) -> NDArray[np.uint8]:
    """A picture of a row, `[height, width, 3]`."""
    data = encoded.get("bytes") if isinstance(encoded, dict) else encoded
    if not data:
        raise UserError("A picture of the table has no bytes, only a path. Save the data set again with its images embedded.")
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, ValueError) as error:
        raise UserError(f"A picture of the table cannot be decoded: {error}. Copy the data set again.") from error


def _stacked(frames: Iterator[NDArray[np.uint8]], steps: int, place: str) -> NDArray[np.uint8]:
    """As many frames as there are steps, `[steps, 3, height, width]`."""
    seen = list(islice(frames, steps))
    if len(seen) < steps:
        raise UserError(f"{place} has {len(seen)} frames, and the table {steps} steps. Copy the data set again.")
    return np.stack(seen).transpose(0, 3, 1, 2)


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
            if pyarrow.types.is_struct(column.type) or pyarrow.types.is_binary(column.type):  # pictures
                found[name] = np.empty(rows, dtype=object)
                found[name][:] = column.to_pylist()
            elif pyarrow.types.is_nested(column.type):
                while pyarrow.types.is_nested(column.type):
                    column = column.flatten()
                found[name] = column.to_numpy(zero_copy_only=False).reshape(rows, -1)
            else:
                found[name] = column.to_numpy(zero_copy_only=False)
        return found
    except (OSError, KeyError, ValueError, AttributeError, MemoryError, pyarrow.ArrowException) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{file} cannot be read: {reason[:500]}. Copy the data set again.") from error
