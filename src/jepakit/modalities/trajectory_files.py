"""Reads episodes: `.npz` files, folders of them, arrays from Python, checked and put one after the other.

A file holds

- `observations [steps, ...]`: vectors `[steps, dim]` or pictures `[steps, h, w]`, `[steps, h, w, c]`, `[steps, c, h, w]`
  (c = 1 or 3; `uint8` counts as 0 to 255);
- `actions [steps, action]` or `[steps]`: action t leads from observation t to t + 1, the last one of an episode is unused;
- `states [steps, k]` or `[steps]` (or `labels`), optional: the physical state, for probes. Never trained on;
- `episode [steps]`, optional: the number of the episode a step belongs to. Without it a file is one episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.array_files import open_npz

_KEYS = ("observations", "actions", "states", "labels", "episode")


@runtime_checkable
class Frames(Protocol):
    """What observations are asked for: an array in memory or mapped from a file, or pictures drawn when they are looked at."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, steps: Any) -> Any: ...


@dataclass(frozen=True)
class Episodes:
    """Steps of all episodes one after the other, and where each begins.

    observations: `[steps, dim]` float32, or `[steps, channels, height, width]` uint8 or float32 in [0, 1]; actions, states:
    float32, states None where there are none; starts: the first step of each episode and, last, the number of steps.
    """

    observations: Frames
    actions: Float[np.ndarray, "steps action"]
    states: Float[np.ndarray, "steps k"] | None
    starts: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode."""
        return np.diff(self.starts)


def read_episodes(place: str) -> tuple[Episodes, str]:
    """The episodes of a file or of a folder's files in order of name, and which it is. Errors: see `join_episodes`."""
    path = Path(place).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix == ".npz")
        if not files:
            raise UserError(f"{path} holds no .npz files. Each episode is one, with 'observations' and 'actions'.")
        return join_episodes([_read_file(file) for file in files], [str(file) for file in files]), "folder"
    if path.suffix != ".npz" or not path.is_file():
        raise UserError(
            f"{place} is no .npz file, no folder of them and no built-in trajectories (pendulum, pendulum-pixels). "
            "Check the path; an episode is a file with 'observations' and 'actions'."
        )
    return join_episodes([_read_file(path)], [str(path)]), "file"


def join_episodes(parts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Episodes:
    """Episodes from arrays named as in a file.

    Raises:
        UserError: arrays missing, of another length than the observations, not numbers, NaN; parts that differ in shape.
    """
    read = [_checked(part, name) for part, name in zip(parts, names, strict=True)]
    first = read[0]
    for one, name in zip(read, names, strict=True):
        for key in ("observations", "actions", "states"):
            shapes = [None if part[key] is None else (part[key].shape[1:], part[key].dtype) for part in (first, one)]
            if shapes[0] != shapes[1]:
                raise UserError(f"{key} of {names[0]} and {name} differ: {shapes[0]} and {shapes[1]}. Make them alike.")
    observations, actions, lengths = (
        np.concatenate([one[key] for one in read]) for key in ("observations", "actions", "lengths")
    )
    states = None if first["states"] is None else np.concatenate([one["states"] for one in read])
    return Episodes(observations, actions, states, np.concatenate([[0], np.cumsum(lengths)]))


def _read_file(path: Path) -> dict[str, NDArray]:
    with open_npz(path) as (keys, read):
        return {key: read(key) if key in _KEYS else np.empty(0) for key in keys}


def _checked(part: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One file's arrays in the layout of `Episodes`, and the lengths of its episodes."""
    for key in ("observations", "actions"):
        if key not in part:
            found = ", ".join(map(repr, part)) or "nothing"
            raise UserError(f"{name} holds {found}; expected 'observations' and 'actions' (optional: 'states', 'episode').")
    observations = _observations(np.asarray(part["observations"]), name)
    steps = len(observations)
    actions = _matrix(part["actions"], "actions", steps, name)
    states = part.get("states", part.get("labels"))
    return {
        "observations": observations,
        "actions": actions,
        "states": None if states is None else _matrix(states, "states", steps, name),
        "lengths": _lengths(part.get("episode"), steps, name),
    }


def _observations(array: NDArray, name: str) -> NDArray:
    if array.dtype.kind not in "fiub" or array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise UserError(
            f"{name}: observations of type {array.dtype} and shape {list(array.shape)}; expected vectors [steps, dim] or "
            "pictures [steps, h, w], [steps, h, w, c] or [steps, c, h, w] with c of 1 or 3."
        )
    if array.ndim == 2:
        return _finite(array, "observations", name)
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3):
        if array.shape[3] not in (1, 3):
            raise UserError(f"{name}: pictures of shape {list(array.shape[1:])} have neither 1 nor 3 channels (drop alpha).")
        array = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    if array.dtype == np.uint8:
        return array
    pictures = _finite(array, "observations", name)
    if pictures.min() < 0 or pictures.max() > 1:
        raise UserError(
            f"{name}: pictures are uint8 or real numbers from 0 to 1, these go from {pictures.min():g} to {pictures.max():g}. "
            "Rescale them."
        )
    return pictures


def _matrix(values: Any, key: str, steps: int, name: str) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2) or len(array) != steps or 0 in array.shape:
        raise UserError(
            f"{name}: {key} of type {array.dtype} and shape {list(array.shape)}; expected numbers, one row for each of the "
            f"{steps} observations" + (" (repeat the last action: it is not used)." if key == "actions" else ".")
        )
    return _finite(array.reshape(steps, -1), key, name)


def _lengths(episode: Any, steps: int, name: str) -> NDArray[np.int64]:
    """Steps of each episode, from the number of the episode of each step."""
    if episode is None:
        return np.array([steps])
    numbers = np.asarray(episode)
    if numbers.shape != (steps,):
        raise UserError(f"{name}: episode of shape {list(numbers.shape)}; expected one number for each of the {steps} steps.")
    begins = np.concatenate([[0], np.flatnonzero(numbers[1:] != numbers[:-1]) + 1, [steps]])
    if len(np.unique(numbers[begins[:-1]])) < len(begins) - 1:
        raise UserError(f"{name}: steps of an episode stand together, but a number in 'episode' comes back. Sort the steps.")
    return np.diff(begins)


def _finite(array: NDArray, key: str, name: str) -> NDArray[np.float32]:
    """As float32, in which large numbers overflow."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    finite = np.isfinite(single).reshape(len(single), -1).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{name}: {key} hold NaN, infinity or what is too large for float32, first at step {int(np.argmin(finite))}. "
            "Cut the episode before."
        )
    return single
