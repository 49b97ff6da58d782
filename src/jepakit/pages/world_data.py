"""What a page shows of a world model's episodes: plain arrays, every one of them optional."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jepakit.errors import UserError

FORMAT = 1
_NEEDED = {
    "windows": {"train", "test"},
    "episodes": {"train", "test"},
    "rollout": {"horizons", "curves", "interval"},
    "surprise": {"events", "interval"},
}


@dataclass(frozen=True, eq=False)
class Episode:
    """A recorded episode.

    animation: a GIF, None where the environment draws nothing. states `[step + 1, variable]`, goal `[variable]`: None where it
    does not tell. plan_steps `[plan]`: when each plan was made; decoded `[plan, horizon, variable]`: the states read off the
    embeddings that it expected, `frame_skip` steps apart.
    """

    policy: str
    success: bool
    steps: int
    frame_skip: int = 1
    animation: bytes | None = None
    states: Float[np.ndarray, "time variable"] | None = None
    goal: Float[np.ndarray, "variable"] | None = None
    plan_steps: Int[np.ndarray, "plan"] | None = None
    decoded: Float[np.ndarray, "plan horizon variable"] | None = None


def check_world(found: Any, place: str) -> None:
    """Raise `UserError` unless this is what `evaluate` writes of a world model."""
    whole = isinstance(found, Mapping) and found.get("format") == FORMAT
    if whole:
        whole = all(isinstance(found.get(key), Mapping) and names <= set(found[key]) for key, names in _NEEDED.items())
    if not whole:
        raise UserError(f"{place} does not hold what jepakit writes there of a world model. Evaluate the run again.")


def check_acting(found: Any, place: str) -> None:
    """Raise `UserError` unless this is what `act` writes."""
    rows = found.get("rows") if isinstance(found, Mapping) else None
    needed = {"episodes", "success", "low", "high", "steps"}
    if not isinstance(rows, Mapping) or not all(isinstance(row, Mapping) and needed <= set(row) for row in rows.values()):
        raise UserError(f"{place} does not hold what jepakit writes there. Let the run act again: jepakit act.")
