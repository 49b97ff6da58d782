"""Reads episodes: `.npz` files, folders of them, arrays from Python, and (through their own modules) what others write.

All but an episode store is checked, put one after the other and kept in memory. An `.npz` holds

- `observations [steps, ...]`: vectors `[steps, dim]` or pictures `[steps, h, w]`, `[steps, h, w, c]`, `[steps, c, h, w]`
  (c = 1, 2 or 3; `uint8` counts as 0 to 255);
- `actions [steps, action]` or `[steps]`: action t leads from observation t to t + 1, the last one of an episode is unused;
- `states [steps, k]` or `[steps]` (or `labels`), optional: the physical state, for probes. Never trained on;
- `episode [steps]`, optional: the number of the episode a step belongs to. Without it a file is one episode.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.files.arrays import open_npz
from jepakit.modalities.files.hdf5 import SUFFIXES, open_hdf5
from jepakit.modalities.trajectories.episode_store import EpisodeStore, is_store
from jepakit.modalities.trajectories.readers.d4rl import d4rl_episodes, is_d4rl
from jepakit.modalities.trajectories.readers.lerobot import is_lerobot, lerobot_episodes
from jepakit.modalities.trajectories.readers.minari import is_minari, minari_episodes, minari_file
from jepakit.modalities.trajectories.readers.robomimic import is_robomimic, robomimic_episodes

_KEYS = ("observations", "actions", "states", "labels", "episode")
CHANNELS = (1, 2, 3)
_PROBED = 64  # pictures of a store whose range is checked when it is opened


@runtime_checkable
class Frames(Protocol):
    """What observations are asked for: an array in memory or mapped from a file, or pictures drawn when they are looked at."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def ndim(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, steps: Any) -> Any: ...


@dataclass(frozen=True)
class Episodes:
    """Steps of all episodes one after the other, and where each begins.

    observations: `[steps, dim]` float32, or `[steps, channels, height, width]` uint8 or float32 in [0, 1]; actions, states:
    float32, states None where there are none; starts: the first step of each episode and, last, the number of steps.
    """

    observations: Frames
    actions: Shaped[np.ndarray, "steps action"]
    states: Shaped[np.ndarray, "steps k"] | None
    starts: NDArray[np.int64]
    store: EpisodeStore | None = None
    """What the arrays are mapped from, of any type of number then: `observed` and `single` convert what is read."""
    state_names: tuple[str, ...] = ()
    """Of the variables of a state, where the source names them."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode."""
        return np.diff(self.starts)

    def observed(self, steps: slice | NDArray[np.int64]) -> Shaped[np.ndarray, "n ..."]:
        """A copy of the observations of these steps: vectors float32, pictures uint8 or float32."""
        return self._read(self.observations, steps, keep=self.observations.ndim == 4)

    def single(self, key: str, steps: slice | NDArray[np.int64]) -> Float[np.ndarray, "n numbers"]:
        """A copy of the "actions" or "states" of these steps, float32."""
        return self._read(getattr(self, key), steps, keep=False)

    def _read(self, array: Frames, steps: slice | NDArray[np.int64], keep: bool) -> NDArray:
        piece = array[steps]
        if self.store is not None:
            self.store.touched(piece.nbytes, pieces=1 if isinstance(steps, slice) else len(steps))
        return piece.copy() if keep and piece.dtype == np.uint8 else piece.astype(np.float32, order="C")

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.store is not None:  # the arrays would pickle as what they are mapped from: all of it
            return store_episodes, (self.store,)
        return type(self), (self.observations, self.actions, self.states, self.starts, None, self.state_names)


def read_episodes(place: str, observation: str | None = None) -> tuple[Episodes, str]:
    """The episodes of a place, and what it is: an episode store ("store"), an .npz ("file") or a folder of them in order of
    name ("folder"), an HDF5 file as D4RL or robomimic write it, a Minari or a LeRobot data set (named so).

    `observation` chooses where a step has several (`chosen_observation`). Errors: see `join_episodes`; nothing that is known.
    """
    path = Path(place).expanduser()
    if is_store(path):
        return store_episodes(EpisodeStore(path)), "store"
    if holds_foreign(path):
        with foreign_episodes(path, observation) as (parts, kind):
            return _joined(parts, path), kind
    if not path.is_dir():
        if path.suffix != ".npz" or not path.is_file():
            raise UserError(
                f"{place} is no .npz file, no folder of them and no built-in trajectories (pendulum, pendulum-pixels); no "
                "episode store, no HDF5 file (.hdf5, .h5), no Minari and no LeRobot data set either. Check the path; an "
                "episode is a file with 'observations' and 'actions'."
            )
        return join_episodes([_read_file(path)], [str(path)]), "file"
    files = sorted(file for file in path.iterdir() if file.suffix == ".npz")
    if not files:
        found = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{path} holds no .npz files. Each episode is one, with 'observations' and 'actions'. There is {found}; "
            "understood are also an episode store (store.json), Minari's data/main_data.hdf5 and LeRobot's meta/info.json."
        )
    return join_episodes([_read_file(file) for file in files], [str(file) for file in files]), "folder"


def holds_foreign(path: Path) -> bool:
    """Whether a path is an HDF5 file, a Minari or a LeRobot data set."""
    if path.is_dir():
        return is_lerobot(path) or minari_file(path) is not None
    return path.suffix.lower() in SUFFIXES and path.is_file()


@contextmanager
def foreign_episodes(path: Path, observation: str | None) -> Iterator[tuple[Iterator[dict[str, NDArray]], str]]:
    """The episodes of what other projects write, one after the other as they are read, and whose they are.

    Errors: as the readers' own; an HDF5 file of no layout that is known.
    """
    if is_lerobot(path):
        yield lerobot_episodes(path, observation), "lerobot"
        return
    with open_hdf5(minari_file(path) or path) as file:
        if is_robomimic(file):
            yield robomimic_episodes(file, observation), "robomimic"
            return
        if is_minari(file):
            yield minari_episodes(file, observation), "minari"
            return
        if is_d4rl(file):
            yield d4rl_episodes(file), "d4rl"
            return
        raise UserError(
            f"{path} holds {', '.join(file.names[:8]) or 'nothing'}. Understood are the layouts of D4RL (observations, "
            "actions, terminals, timeouts), robomimic (data/demo_0/...) and Minari (episode_0/...)."
        )


def _joined(episodes: Iterator[dict[str, NDArray]], path: Path) -> Episodes:
    parts = list(episodes)
    if not parts:
        raise UserError(f"{path} holds no episodes. Check the path, or make the data set again.")
    return join_episodes(parts, [f"{path}, episode {number:,}" for number in range(len(parts))])


def store_episodes(store: EpisodeStore) -> Episodes:
    """The episodes of a store, mapped: nothing is read but some steps of pictures, whose range is checked.

    Raises:
        UserError: no episodes; observations that are neither vectors nor pictures.
    """
    name = str(store.path)
    observations = store.array("observations")
    if observations.ndim < 3:
        observations = observations.reshape(len(observations), -1)
    else:
        observations = _channels_first(observations, name)
        if observations.dtype != np.uint8:
            for step in np.linspace(0, len(observations) - 1, _PROBED).astype(int):
                _check_pictures(observations[step].astype(np.float32), name)
    flat = {key: store.array(key).reshape(len(observations), -1) for key in ("actions", "states") if key in store.arrays}
    names = store.about.get("state_names")
    names = tuple(str(name) for name in names) if isinstance(names, list) else ()
    return Episodes(observations, flat["actions"], flat.get("states"), store.starts, store, names)


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
            "pictures [steps, h, w], [steps, h, w, c] or [steps, c, h, w] with c of 1, 2 or 3."
        )
    if array.ndim == 2:
        return _finite(array, "observations", name)
    array = np.ascontiguousarray(_channels_first(array, name))
    if array.dtype == np.uint8:
        return array
    pictures = _finite(array, "observations", name)
    _check_pictures(pictures, name)
    return pictures


def _channels_first(array: NDArray, name: str) -> NDArray:
    """Pictures as a view `[steps, c, h, w]`."""
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise UserError(f"{name}: observations of shape {list(array.shape[1:])} are neither vectors nor pictures.")
    if array.shape[1] in CHANNELS:
        return array
    if array.shape[3] not in CHANNELS:
        raise UserError(f"{name}: pictures of shape {list(array.shape[1:])} have no 1, 2 or 3 channels (drop alpha).")
    return array.transpose(0, 3, 1, 2)


def _check_pictures(pictures: NDArray, name: str) -> None:
    if pictures.min() < 0 or pictures.max() > 1:
        raise UserError(
            f"{name}: pictures are uint8 or real numbers from 0 to 1, these go from {pictures.min():g} to {pictures.max():g}. "
            "Rescale them."
        )


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


def holds_trajectories(place: str) -> bool:
    """Whether a path is one that can only be trajectories."""
    path = Path(place).expanduser()
    if path.is_dir():
        return is_store(path) or holds_foreign(path)
    if path.suffix == ".npz" and path.is_file():
        try:
            with zipfile.ZipFile(path) as file:
                return {"observations.npy", "actions.npy"} <= set(file.namelist())
        except (zipfile.BadZipFile, OSError, NotImplementedError):
            return False  # whoever reads it will say what is wrong with it
    return holds_foreign(path)
