"""Opens episodes of what an agent saw and did, cut into windows: vectors or small pictures, with the actions between them.

A sample is a window of `history + horizon` observations, `frame_skip` steps apart, and the actions between them, those
that lie within one skip in a row (an action block, as LeWorldModel and DINO-WM use them). Whole episodes are held out:
windows overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from jepakit.errors import UserError, check_range
from jepakit.modalities.data import DataConfig, SampleDataset, SplitData, fingerprint_of
from jepakit.modalities.splits import held_out, limited
from jepakit.modalities.trajectories.built_in.maze import MazeConfig
from jepakit.modalities.trajectories.built_in.maze_episodes import maze_episodes
from jepakit.modalities.trajectories.built_in.pendulum import pendulum_episodes
from jepakit.modalities.trajectories.built_in.two_rooms import TWO_ROOMS, two_rooms_episodes
from jepakit.modalities.trajectories.episodes import Episodes, join_episodes, read_episodes
from jepakit.randomness import derive_seed

MAZES = {"maze": MazeConfig(), "maze-fixed": MazeConfig(layout=0)}
BUILT_IN = ("pendulum", "pendulum-pixels", *TWO_ROOMS, *MAZES)


@dataclass(frozen=True, kw_only=True)
class TrajectoryDataConfig(DataConfig):
    """Where the episodes are and how they are cut into windows."""

    data: str
    """An episode store, an .npz file, a folder of them, an HDF5 file (D4RL, robomimic), a Minari or LeRobot data set, or a
    built-in name: pendulum, pendulum-pixels, two-rooms, two-rooms-fixed, two-rooms-flicker,
    two-rooms-stochastic, two-rooms-stochastic-pixels, two-rooms-two-doors, two-rooms-either-door, maze, maze-fixed."""
    test_fraction: float = 0.2
    """Share of the episodes that is held out."""
    history: int = 3
    """Observations that a prediction stands on."""
    horizon: int = 1
    """Observations after the history in a window; more than one for losses on rollouts."""
    frame_skip: int | None = None
    """Steps from one observation to the next; the actions of these steps become one block. Default: 4 for the built-in
    pendulum (0.2 s), else 1."""
    label_column: int = 0
    """Column of the physical states that evaluation predicts."""
    observation: str | None = None
    """Which observation, where an HDF5, Minari or LeRobot data set has several: NAME, or NAME,NAME for vectors side by
    side. Default: all vectors in order of name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("test_fraction", self.test_fraction, 0, 0.9)
        for name in ("history", "horizon", "frame_skip"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1)
        check_range("label_column", self.label_column, 0)

    @property
    def span(self) -> int:
        """Steps of an episode that a window covers, its last observation included."""
        return (self.history + self.horizon - 1) * (self.frame_skip or 1) + 1


class WindowDataset(SampleDataset):
    """Windows of episodes: `{"observations" [time, ...], "actions" [time - 1, block], "state"? [k], "label"?, "id"}`.

    Observations are as they are stored; the state is that of the last observation, the label one of its numbers. `id` is
    the window's number among all windows of all episodes.
    """

    aligned = ("ids", "begins")
    paths = None  # nothing is decoded on the way

    def __init__(self, episodes: Episodes, begins: NDArray[np.int64], ids: NDArray[np.int64], config: TrajectoryDataConfig):
        self.episodes, self.begins, self.ids, self.config = episodes, begins, ids, config

    @property
    def labels(self) -> NDArray[np.float32] | None:  # type: ignore[override]
        """One of the numbers of each window's last state: read when asked for."""
        if self.episodes.states is None:
            return None
        return self.episodes.states[self.begins + self.config.span - 1, self.config.label_column].astype(np.float32)

    def __getitem__(self, index: int) -> dict[str, Any]:
        begin, skip = int(self.begins[index]), self.config.frame_skip or 1
        intervals = self.config.history + self.config.horizon - 1
        end = begin + intervals * skip
        actions = self.episodes.single("actions", slice(begin, end)).reshape(intervals, -1)
        sample: dict[str, Any] = {
            "observations": torch.from_numpy(self.episodes.observed(slice(begin, end + 1, skip))),
            "actions": torch.from_numpy(actions),
            "id": int(self.ids[index]),
        }
        if self.episodes.states is not None:
            state = self.episodes.single("states", slice(end, end + 1))[0]
            sample["state"] = torch.from_numpy(state)
            sample["label"] = state[self.config.label_column]
        return sample


    @property
    def history(self) -> int:
        """Observations that a prediction stands on."""
        return self.config.history

    @property
    def frame_skip(self) -> int:
        """Steps from one observation to the next."""
        return self.config.frame_skip or 1

    @property
    def owners(self) -> NDArray[np.int64]:
        """The episode that each window lies in."""
        return np.searchsorted(self.episodes.starts, self.begins, side="right") - 1

    @property
    def state_names(self) -> list[str]:
        """The names of the variables of a state: the source's, or numbers."""
        count = 0 if self.episodes.states is None else self.episodes.states.shape[1]
        names = self.episodes.state_names
        return list(names) if len(names) == count else [f"state {number}" for number in range(count)]

    def known_states(self) -> Float[np.ndarray, "window time variable"] | None:
        """Return the state at each observation; None: the episodes have none."""
        if self.episodes.states is None:
            return None
        times = self.begins[:, None] + self.frame_skip * np.arange(self.config.history + self.config.horizon)
        return self.episodes.single("states", times.reshape(-1)).reshape(*times.shape, -1)

    def observations(self, windows: NDArray[np.int64], times: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return single observations of these windows as samples."""
        frames = self.episodes.observed(self.begins[windows] + self.frame_skip * times)
        return [{"observations": torch.from_numpy(frame[None])} for frame in frames]

    def longer(self, horizon: int, most: int, seed: int) -> WindowDataset:
        """Return windows that begin where these do and go on to another horizon, at most `most`: one of each episode before a
        second of any."""
        config = replace(self.config, horizon=horizon)
        owners = self.owners
        fits = np.flatnonzero(self.begins + config.span <= self.episodes.starts[owners + 1])
        order = np.random.default_rng(seed).permutation(fits)
        grouped = order[np.argsort(owners[order], kind="stable")]
        firsts = np.flatnonzero(np.diff(owners[grouped], prepend=-1))
        turn = np.arange(len(grouped)) - np.repeat(firsts, np.diff(firsts, append=len(grouped)))
        place = np.empty(len(self.begins), dtype=np.int64)
        place[grouped] = turn
        chosen = np.sort(order[np.argsort(place[order], kind="stable")][:most])
        return WindowDataset(self.episodes, self.begins[chosen], self.ids[chosen], config)


@dataclass(kw_only=True)
class TrajectoryData(SplitData):
    """Windows, split by episode. Of `config`, `frame_skip` is filled in. `kind` is "pendulum", "pendulum-pixels", "store",
    "file", "folder", "d4rl", "robomimic", "minari", "lerobot" or "object"."""

    noun: str = "windows"

    def windows(self, horizon: int, most: int, seed: int) -> tuple[WindowDataset, WindowDataset]:
        """Return windows of the training and of the held-out episodes, longer than those trained on where the episodes allow
        it: at least half of the episodes of either part are long enough for them."""
        parts: dict[str, WindowDataset] = {"train": self.train, "test": self.test}
        room = min(int(np.median(part.episodes.lengths[np.unique(part.owners)])) for part in parts.values())
        possible = (room - 1) // (self.config.frame_skip or 1) + 1 - self.config.history
        train, test = (
            part.longer(max(1, min(horizon, possible)), most, derive_seed(seed, "world", name)) for name, part in parts.items()
        )
        return train, test


def open_trajectories(config: TrajectoryDataConfig, seed: int, source: object | None = None) -> TrajectoryData:
    """Read the episodes of `config.data`, split them and cut them into windows.

    Args:
        seed: draws the `limit` training windows; not the split, which depends on the data alone.
        source: episodes from Python instead of `config.data`: a list of dicts of arrays, named as in a file.

    Raises:
        UserError: nothing there, arrays that do not fit together, windows longer than every episode; with the remedy.
    """
    pendulum = source is None and config.data in ("pendulum", "pendulum-pixels")
    config = replace(config, frame_skip=config.frame_skip or (4 if pendulum else 1))
    episodes, kind = read_trajectories(config, source)
    if episodes.states is not None:
        check_range("label_column", config.label_column, 0, episodes.states.shape[1] - 1)
    count = len(episodes.starts) - 1
    if count < 2 and config.test_fraction > 0:
        raise UserError(
            f"{config.data} holds a single episode, and whole episodes are held out. Give several (an array 'episode' numbers "
            "them within a file), or test_fraction 0."
        )
    test = held_out(count, config.test_fraction)
    begins, owner = _windows(episodes, config)
    ids = np.arange(len(begins))
    train_ids, test_ids = ids[~test[owner]], ids[test[owner]]
    if not len(train_ids) or (config.test_fraction > 0 and not len(test_ids)):
        longest = int(episodes.lengths.max())
        raise UserError(
            f"{config.data}: a window takes {config.span} steps (history {config.history}, horizon {config.horizon}, "
            f"frame_skip {config.frame_skip}), and the episodes of one side of the split are all shorter (the longest of all "
            f"has {longest}). Lower one of these."
        )
    train_ids = limited(train_ids, config.limit, seed)
    short = int((episodes.lengths < config.span).sum())
    return TrajectoryData(
        train=WindowDataset(episodes, begins[train_ids], train_ids, config),
        test=WindowDataset(episodes, begins[test_ids], test_ids, config),
        config=config,
        name=config.data if source is None else "object",
        kind=kind,
        task=None if episodes.states is None else "regression",
        fingerprint=_fingerprint(episodes, train_ids, test_ids),
        notes=[f"{short} of {count} episodes are shorter than a window of {config.span} steps and unused."] if short else [],
    )


def read_trajectories(config: TrajectoryDataConfig, source: object | None = None) -> tuple[Episodes, str]:
    """The episodes of `config.data`, or those from Python, and what they are. Errors: as `open_trajectories`."""
    if isinstance(source, list | tuple) and source and all(isinstance(part, Mapping) for part in source):
        return join_episodes(source, [f"episode {number}" for number in range(len(source))]), "object"
    if source is not None:
        raise UserError(f"Trajectories from Python must be a list of dicts of arrays; got {type(source).__name__}.")
    if config.data in TWO_ROOMS:
        return two_rooms_episodes(TWO_ROOMS[config.data]), config.data
    if config.data in MAZES:
        return maze_episodes(MAZES[config.data]), config.data
    if config.data in BUILT_IN:
        return pendulum_episodes(pixels=config.data == "pendulum-pixels"), config.data
    return read_episodes(config.data, config.observation)


def _windows(episodes: Episodes, config: TrajectoryDataConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first step of every window, and the episode it lies in."""
    lengths = episodes.lengths
    room = np.maximum(lengths - config.span + 1, 0)
    owner = np.repeat(np.arange(len(lengths)), room)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(room) - room, room)
    return episodes.starts[owner] + within, owner


def _fingerprint(episodes: Episodes, train: NDArray[np.int64], test: NDArray[np.int64]) -> str:
    shape, seen = str(episodes.observations.shape), np.linspace(0, len(episodes.observations) - 1, 256).astype(int)
    if episodes.store is not None:  # the checksums in its rows say it all
        return fingerprint_of(shape, episodes.starts, episodes.store.rows, train, test)
    observations = (episodes.observations[index] for index in seen)
    return fingerprint_of(shape, episodes.starts, episodes.actions, train, test, *observations)
