"""Opens episodes of what an agent saw and did, cut into windows: vectors or small pictures, with the actions between them.

A sample is a window of `history + horizon` observations, `frame_skip` steps apart, and the actions between them, those
that lie within one skip in a row (an action block, as LeWorldModel and DINO-WM use them). Whole episodes are held out:
windows overlap.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from jepakit.errors import UserError, check_range
from jepakit.modalities.maze import MazeConfig
from jepakit.modalities.maze_episodes import maze_episodes
from jepakit.modalities.modality import Companion, Inputs, Modality, check_scale
from jepakit.modalities.pendulum import pendulum_episodes
from jepakit.modalities.pixels import unit
from jepakit.modalities.splits import held_out, limited
from jepakit.modalities.trajectory_files import Episodes, join_episodes, read_episodes
from jepakit.modalities.trajectory_statistics import scales
from jepakit.modalities.two_rooms import TWO_ROOMS, two_rooms_episodes

MAZES = {"maze": MazeConfig(), "maze-fixed": MazeConfig(layout=0)}
BUILT_IN = ("pendulum", "pendulum-pixels", *TWO_ROOMS, *MAZES)


@dataclass(frozen=True, kw_only=True)
class TrajectoryDataConfig:
    """Where the episodes are and how they are cut into windows."""

    data: str
    """An episode store, an .npz file, a folder of them, an HDF5 file (D4RL, robomimic), a Minari or LeRobot data set, or a
    built-in name: pendulum, pendulum-pixels, two-rooms, two-rooms-fixed, two-rooms-flicker,
    two-rooms-stochastic, two-rooms-stochastic-pixels, two-rooms-two-doors, two-rooms-either-door, maze, maze-fixed."""
    test_fraction: float = 0.2
    """Share of the episodes that is held out."""
    limit: int | None = None
    """Train on that many windows only, drawn with the seed."""
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
        check_range("test_fraction", self.test_fraction, 0, 0.9)
        for name in ("history", "horizon", "frame_skip", "limit"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1)
        check_range("label_column", self.label_column, 0)


class WindowDataset(Dataset[dict[str, Any]]):
    """Windows of episodes: `{"observations" [time, ...], "actions" [time - 1, block], "state"? [k], "label"?, "id"}`.

    Observations are as they are stored; the state is that of the last observation, the label one of its numbers. `id` is
    the window's number among all windows of all episodes.
    """

    paths = None  # nothing is decoded on the way

    def __init__(self, episodes: Episodes, begins: NDArray[np.int64], ids: NDArray[np.int64], config: TrajectoryDataConfig):
        self.episodes, self.begins, self.ids, self.config = episodes, begins, ids, config

    @property
    def labels(self) -> NDArray[np.float32] | None:
        """One of the numbers of each window's last state: read when asked for."""
        if self.episodes.states is None:
            return None
        return self.episodes.states[self.begins + _span(self.config) - 1, self.config.label_column].astype(np.float32)

    def __len__(self) -> int:
        return len(self.begins)

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

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> WindowDataset:
        """The windows at these positions of this data set."""
        chosen = np.asarray(indices, dtype=np.int64)
        return WindowDataset(self.episodes, self.begins[chosen], self.ids[chosen], self.config)


@dataclass(frozen=True, kw_only=True)
class TrajectoryInputs(Inputs):
    """What a trained world model expects: the shape of an observation (`[dim]` or `[channels, height, width]`), mean and
    deviation of its numbers (of each dim, or of each channel with pixels in [0, 1]), those of the numbers of an action
    block, and how many observations a window has: `history` to predict from, `horizon` after them."""

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    history: int
    horizon: int

    plain_name: ClassVar[str] = "last observation"

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 3) or len(self.mean) != self.shape[0] or len(self.std) != self.shape[0]:
            raise UserError(
                f"inputs: an observation of shape {list(self.shape)} needs {self.shape[0] if self.shape else 1} means and "
                f"deviations and 1 or 3 axes; got {len(self.mean)} and {len(self.std)}."
            )
        check_scale(self.shape, (*self.std, *self.action_std))

    @classmethod
    def of(cls, data: TrajectoryData) -> TrajectoryInputs:
        """What a world model trained on this data expects."""
        episodes, skip = data.train.episodes, data.config.frame_skip or 1
        (mean, std), (action_mean, action_std) = scales(episodes, data.train.begins, _span(data.config))
        return cls(
            shape=tuple(episodes.observations.shape[1:]),
            mean=mean,
            std=std,
            action_mean=action_mean * skip,
            action_std=action_std * skip,
            history=data.config.history,
            horizon=data.config.horizon,
        )

    @property
    def action(self) -> int:
        """Numbers of an action block."""
        return len(self.action_mean)

    def normalise(self, observations: Shaped[Tensor, "*leading"]) -> Float[Tensor, "*leading"]:
        """Stored observations `[..., *shape]` to zero mean and unit deviation."""
        mean, std = (torch.tensor(v).reshape(-1, *[1] * (len(self.shape) - 1)) for v in (self.mean, self.std))
        return (unit(observations) - mean) / std

    def normalise_actions(self, actions: Float[Tensor, "*leading block"]) -> Float[Tensor, "*leading block"]:
        """Action blocks to zero mean and unit deviation."""
        return (actions.float() - torch.tensor(self.action_mean)) / torch.tensor(self.action_std)

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch 1 ..."]:
        """The last observation of each window, as a window of one: `[batch, 1, *shape]`."""
        return self.normalise(torch.stack([sample["observations"][-1:] for sample in samples]))

    def windows(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`inputs [batch, time, *shape]` and `actions [batch, time - 1, block]`, normalised."""
        return {
            "inputs": self.normalise(torch.stack([sample["observations"] for sample in samples])),
            "actions": self.normalise_actions(torch.stack([sample["actions"] for sample in samples])),
        }

    def plain(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch features"]:
        """The numbers of the last observation; pictures above 32 pixels are averaged down to that."""
        last = self.prepare(samples)[:, 0]
        cell = 1 if last.dim() == 2 else math.ceil(max(last.shape[2:]) / 32)
        return (F.avg_pool2d(last, cell, ceil_mode=True) if cell > 1 else last).flatten(1)

    def describe(self) -> str:
        """The input's size in words."""
        size = f"{self.shape[0]} numbers" if len(self.shape) == 1 else f"{self.shape[1]} x {self.shape[2]} pixels"
        return f"{self.history} + {self.horizon} observations of {size}"


@dataclass
class TrajectoryData:
    """Windows, split by episode: `test` is held out and never trained on."""

    train: WindowDataset
    test: WindowDataset
    config: TrajectoryDataConfig
    """As given, with `frame_skip` filled in."""
    name: str
    kind: str
    """"pendulum", "pendulum-pixels", "store", "file", "folder", "d4rl", "robomimic", "minari", "lerobot", "object"."""
    task: str | None
    fingerprint: str
    """Changes with the numbers or the split: a resumed run checks that it is the same data."""
    notes: list[str] = field(default_factory=list)
    classes: list[str] | None = None
    noun: str = "windows"
    companions: dict[str, Companion] = field(default_factory=dict)


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
            f"{config.data}: a window takes {_span(config)} steps (history {config.history}, horizon {config.horizon}, "
            f"frame_skip {config.frame_skip}), and the episodes of one side of the split are all shorter (the longest of all "
            f"has {longest}). Lower one of these."
        )
    train_ids = limited(train_ids, config.limit, seed)
    short = int((episodes.lengths < _span(config)).sum())
    return TrajectoryData(
        train=WindowDataset(episodes, begins[train_ids], train_ids, config),
        test=WindowDataset(episodes, begins[test_ids], test_ids, config),
        config=config,
        name=config.data if source is None else "object",
        kind=kind,
        task=None if episodes.states is None else "regression",
        fingerprint=_fingerprint(episodes, train_ids, test_ids),
        notes=[f"{short} of {count} episodes are shorter than a window of {_span(config)} steps and unused."] if short else [],
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


def _span(config: TrajectoryDataConfig) -> int:
    return (config.history + config.horizon - 1) * (config.frame_skip or 1) + 1


def _windows(episodes: Episodes, config: TrajectoryDataConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first step of every window, and the episode it lies in."""
    lengths = episodes.lengths
    room = np.maximum(lengths - _span(config) + 1, 0)
    owner = np.repeat(np.arange(len(lengths)), room)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(room) - room, room)
    return episodes.starts[owner] + within, owner


def _fingerprint(episodes: Episodes, train: NDArray[np.int64], test: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(str(episodes.observations.shape).encode())
    actions = episodes.actions if episodes.store is None else episodes.store.rows
    for array in (episodes.starts, actions, train, test):
        digest.update(np.ascontiguousarray(array).tobytes())
    if episodes.store is not None:  # the checksums in its rows say it all
        return digest.hexdigest()[:16]
    for index in np.linspace(0, len(episodes.observations) - 1, 256).astype(int):
        digest.update(np.ascontiguousarray(episodes.observations[index]).tobytes())
    return digest.hexdigest()[:16]


TRAJECTORIES = Modality(
    "trajectories", TrajectoryDataConfig, TrajectoryInputs, open_trajectories, TrajectoryInputs.of
)
