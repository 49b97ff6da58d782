"""Held-out windows as a world model sees them: embeddings, actions, states, and what it imagines; a few at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.errors import UserError
from jepakit.evaluation.surprise import others_of
from jepakit.modalities.trajectories.data import TrajectoryData, WindowDataset
from jepakit.randomness import derive_seed

HORIZON = 16  # steps of the model that are imagined, where episodes are that long
MOST = 256  # windows of each part
NUMBERS = 2**25  # of all embeddings of a part at most: 128 MiB
TOGETHER = 32  # windows whose observations are in memory at once


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one part of the data; the first `history` observations are what a rollout stands on.

    embeddings `[window, time, dim]` and actions `[window, time - 1, action]` as the model has them (normalised), states
    `[window, time, variable]` None where there are none, episodes: the number of each window's; dataset: where they are from.
    """

    embeddings: Float[Tensor, "window time dim"]
    actions: Float[Tensor, "window steps action"]
    states: Float[np.ndarray, "window time variable"] | None
    episodes: Int[np.ndarray, "window"]
    dataset: WindowDataset
    history: int

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def flat_states(self) -> Float[np.ndarray, "n variable"]:
        """The state of every observation, window after window. Errors: the episodes have none."""
        if self.states is None:
            raise UserError("These episodes have no states: a probe has nothing to read.")
        return self.states.reshape(-1, self.states.shape[-1]).astype(np.float64)

    @property
    def start(self) -> Float[Tensor, "window dim"]:
        """The newest embedding that a rollout stands on."""
        return self.embeddings[:, self.history - 1]

    @property
    def after(self) -> Float[Tensor, "window horizon dim"]:
        """The true embeddings of what is imagined."""
        return self.embeddings[:, self.history :]

    @property
    def ahead(self) -> Float[Tensor, "window horizon action"]:
        """The actions that lead there."""
        return self.actions[:, self.history - 1 :]


def choose_windows(data: TrajectoryData, seed: int) -> tuple[WindowDataset, WindowDataset]:
    """Windows of the training and of the held-out episodes, longer than those trained on where the episodes allow it.

    At least half of the episodes of either part are long enough for them; as many episodes as possible are drawn from.
    """
    skip = data.config.frame_skip or 1
    room = min(int(np.median(_lengths(part)[np.unique(_owners(part))])) for part in (data.train, data.test))
    horizon = max(1, min(HORIZON, (room - 1) // skip + 1 - data.config.history))
    train, test = (_spread(part, horizon, derive_seed(seed, "world", name)) for name, part in _parts(data))
    return train, test


def _parts(data: TrajectoryData) -> list[tuple[str, WindowDataset]]:
    return [("train", data.train), ("test", data.test)]


def _owners(dataset: WindowDataset) -> Int[np.ndarray, "window"]:
    """The episode that each window lies in."""
    return np.searchsorted(dataset.episodes.starts, dataset.begins, side="right") - 1


def _lengths(dataset: WindowDataset) -> Int[np.ndarray, "episode"]:
    return dataset.episodes.lengths


def _spread(dataset: WindowDataset, horizon: int, seed: int) -> WindowDataset:
    """Longer windows that begin where this data set's do, at most `MOST`: one of each episode before a second of any."""
    config = dataclasses.replace(dataset.config, horizon=horizon)
    span = (config.history + horizon - 1) * (config.frame_skip or 1) + 1
    owners = _owners(dataset)
    fits = np.flatnonzero(dataset.begins + span <= dataset.episodes.starts[owners + 1])
    order = np.random.default_rng(seed).permutation(fits)
    grouped = order[np.argsort(owners[order], kind="stable")]
    firsts = np.flatnonzero(np.diff(owners[grouped], prepend=-1))
    turn = np.arange(len(grouped)) - np.repeat(firsts, np.diff(firsts, append=len(grouped)))
    place = np.empty(len(dataset.begins), dtype=np.int64)
    place[grouped] = turn
    chosen = np.sort(order[np.argsort(place[order], kind="stable")][:MOST])
    return WindowDataset(dataset.episodes, dataset.begins[chosen], dataset.ids[chosen], config)


def embed_windows(system: Dynamics, dataset: WindowDataset, device: torch.device) -> Windows:
    """Embed whole windows; of wide embeddings fewer windows.

    Errors: embeddings that are not finite.
    """
    history, skip = dataset.config.history, dataset.config.frame_skip or 1
    embeddings: list[Tensor] = []
    actions: list[Tensor] = []
    count = 0
    for samples in _batches(dataset):
        batch = system.inputs.windows(samples)  # type: ignore[union-attr]
        with torch.no_grad():
            embeddings.append(system.encode(batch["inputs"].to(device)).values.flatten(2).float().cpu())
        actions.append(batch["actions"])
        count += len(samples)
        if count * embeddings[0][0].numel() >= NUMBERS and count >= 16:
            break
    kept = dataset.subset(np.arange(count))
    found = torch.cat(embeddings)
    if not bool(found.isfinite().all()):
        raise UserError("The model's embeddings hold NaN or infinite numbers: it diverged in training. Train it again.")
    times = kept.begins[:, None] + skip * np.arange(found.shape[1])
    states = kept.episodes
    known = None if states.states is None else states.single("states", times.reshape(-1)).reshape(*times.shape, -1)
    return Windows(found, torch.cat(actions), known, _owners(kept), kept, history)


def imagine(
    system: Dynamics, windows: Windows, actions: Float[Tensor, "window horizon action"], device: torch.device
) -> Float[Tensor, "window horizon dim"]:
    """What the model imagines from each window's first observations, with these actions instead of the window's own."""
    found, done = [], 0
    for samples in _batches(windows.dataset):
        batch = system.inputs.windows(samples)  # type: ignore[union-attr]
        seen = {
            "inputs": batch["inputs"][:, : windows.history].to(device),
            "actions": batch["actions"][:, : windows.history - 1].to(device),
        }
        with torch.no_grad():
            given = actions[done : done + len(samples)].to(device)
            found.append(system.imagined(seen, given).flatten(2).float().cpu())
        done += len(samples)
    return torch.cat(found)


def _batches(dataset: WindowDataset) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(dataset), TOGETHER):
        yield [dataset[i] for i in range(start, min(start + TOGETHER, len(dataset)))]


def frames_of(windows: Windows, chosen: Int[np.ndarray, "n"]) -> Iterator[list[dict[str, Any]]]:
    """Single observations as samples, some at a time: number `i` is time `i % time` of window `i // time`."""
    time, skip = windows.embeddings.shape[1], windows.dataset.config.frame_skip or 1
    steps = windows.dataset.begins[chosen // time] + skip * (chosen % time)
    for start in range(0, len(steps), TOGETHER * 8):
        seen = windows.dataset.episodes.observed(steps[start : start + TOGETHER * 8])
        yield [{"observations": torch.from_numpy(frame[None])} for frame in seen]


def anothers(windows: Windows, seed: int) -> Int[Tensor, "window"]:
    """For each window one of another episode."""
    return torch.from_numpy(others_of(windows.episodes, derive_seed(seed, "another window") % 2**32))
