"""Looks at trajectories before training: how many episodes, how long, what is done and earned; checks checksums."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.progress import track
from rich.table import Table
from rich.text import Text

from jepakit.errors import UserError
from jepakit.modalities.modality import Inspected
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, read_trajectories
from jepakit.modalities.trajectories.episodes import Episodes
from jepakit.modalities.trajectories.pictures import draw_episodes

_SHOWN = 16  # numbers of an action that get a line


@dataclass(frozen=True)
class TrajectoryInspection:
    """What `inspect_trajectories` found."""

    name: str
    kind: str
    episodes: int
    steps: int
    """Observations of all episodes."""
    shortest: int
    median: int
    longest: int
    shapes: dict[str, str]
    """Type and shape of a step of each array, by name."""
    observation_range: tuple[float, float]
    action_range: list[tuple[float, float, float]]
    """Smallest, mean and largest of each number of an action (those that lead to an observation)."""
    returns: tuple[float, float, float] | None
    """Smallest, mean and largest sum of rewards, where rewards are stored."""
    terminated: float | None
    """Share of the episodes that terminated (the others were truncated), where ends are stored."""
    checked: bool
    """Whether checksums were there and agreed."""
    about: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> RenderableType:
        """The same for a terminal (`rich.print`)."""
        return render_trajectories(self)


def inspect(config: TrajectoryDataConfig, seed: int, source: object | None, example: object) -> Inspected:
    """`inspect_trajectories`, and some of the episodes, a row each."""
    episodes, kind = read_trajectories(config, source)
    return Inspected(inspect_trajectories(episodes, config.data, kind), draw_episodes(episodes), "Episodes")


def inspect_trajectories(episodes: Episodes, name: str, kind: str) -> TrajectoryInspection:
    """Read every episode once, compare a store's with their checksums, and describe them. Errors: one that is damaged."""
    store, count = episodes.store, len(episodes.lengths)
    low, high, seen = np.full(episodes.actions.shape[1], np.inf), np.full(episodes.actions.shape[1], -np.inf), [np.inf, -np.inf]
    total, acted, returns, ends = np.zeros(len(low)), 0, [], []
    console = Console(stderr=True)
    for number in track(range(count), "Reading episodes", console=console, transient=True, disable=count < 1000):
        begin, end = episodes.starts[number : number + 2]
        arrays: dict[str, NDArray] = {} if store is None else store[number]
        observations = arrays.get("observations", episodes.observations[begin:end])
        actions = arrays.get("actions", episodes.actions[begin:end]).reshape(end - begin, -1)[:-1].astype(np.float64)
        seen = [min(seen[0], float(observations.min())), max(seen[1], float(observations.max()))]
        if len(actions):
            low, high = np.minimum(low, actions.min(0)), np.maximum(high, actions.max(0))
            total, acted = total + actions.sum(0), acted + len(actions)
        if "rewards" in arrays:
            returns.append(float(arrays["rewards"][:-1].sum(dtype=np.float64)))
        if "terminated" in arrays:
            ends.append(bool(arrays["terminated"].any()))
    if not acted:
        raise UserError(f"{name}: every episode has a single observation, so nothing is done in any. Collect longer ones.")
    named = {key: getattr(episodes, key) for key in ("observations", "actions", "states")}
    shapes = {key: f"{array.dtype.name} {list(array.shape[1:])}" for key, array in named.items() if array is not None}
    return TrajectoryInspection(
        name=name,
        kind=kind,
        episodes=count,
        steps=int(episodes.starts[-1]),
        shortest=int(episodes.lengths.min()),
        median=int(np.median(episodes.lengths)),
        longest=int(episodes.lengths.max()),
        shapes=shapes if store is None else {key: str(step) for key, step in store.arrays.items()},
        observation_range=(seen[0], seen[1]),
        action_range=[(float(a), float(b), float(c)) for a, b, c in zip(low, total / acted, high, strict=True)],
        returns=(min(returns), float(np.mean(returns)), max(returns)) if returns else None,
        terminated=float(np.mean(ends)) if ends else None,
        checked=store is not None,
        about={} if store is None else store.about,
    )


def render_trajectories(found: TrajectoryInspection) -> RenderableType:
    """The inspection as text and tables."""
    table = Table(show_header=False, box=None)
    table.add_row("data", Text(f"{found.name} ({found.kind})"))
    if found.about:
        made_with = ", ".join(f"{key} {value}" for key, value in found.about.items() if value is not None)
        table.add_row("made with", Text(made_with))
    lengths = f"{found.shortest:,} to {found.longest:,} observations (median {found.median:,})"
    table.add_row("episodes", f"{found.episodes:,} of {lengths}")
    table.add_row("observations", f"{found.steps:,}, from {found.observation_range[0]:.4g} to {found.observation_range[1]:.4g}")
    if found.returns is not None:
        table.add_row("returns", f"{found.returns[0]:.4g} to {found.returns[2]:.4g}, mean {found.returns[1]:.4g}")
    if found.terminated is not None:
        table.add_row("ends", f"{found.terminated:.0%} terminated, the others truncated")
    table.add_row("a step", Text(", ".join(f"{name} {what}" for name, what in found.shapes.items())))
    if found.checked:
        table.add_row("checksums", "all agree")
    actions = Table("action", "smallest", "mean", "largest", box=None)
    for number, row in enumerate(found.action_range[:_SHOWN]):
        actions.add_row(str(number), *(f"{value + 0.0:.4g}" for value in row))
    if len(found.action_range) > _SHOWN:
        actions.add_row(f"and {len(found.action_range) - _SHOWN:,} more")
    return Group(table, "", actions)
