"""Two Rooms with random walls (EB-JEPA's protocol): PLDM at each seed, iCEM in it, or PLDM with something left out.

    python recipes/two_rooms.py --threads 1
    python recipes/two_rooms.py --threads 1 --seeds 0 --change "no inverse"

Two trainings a seed: `pldm` with its defaults, and then its predictor alone, on the encoder as it is, over windows nearly as
long as plans are. What is changed is compared with "shorter", where both trainings are as short as all the changed ones. The
episodes that are planned in are drawn by seeds of their own (100 and up), on which nothing was chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seeds import arguments, run, successes

import jepakit
from jepakit.files import read_json
from jepakit.systems.pldm import PUBLISHED

EPISODES = 100  # of each seed
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "shorter": {},
    "no variance": {"variance": 0.0},
    "no covariance": {"covariance": 0.0},
    "no inverse": {"inverse": 0.0},
    "similarity": {"similarity": 0.2},
    "no ramp": {"ramp": (0.0, 0.0)},
    "recurrent": {"predictor": "recurrent"},
    "published weights": PUBLISHED,
}
FURTHER: dict[str, Any] = {
    "frozen": True, "horizon": 16, "batch_size": 32, "ramp": (0.0, 0.0), "lr": 5e-4,
}  # fmt: skip
STEPS, SHORTER = (5000, 3000), (1500, 500)  # of the two trainings
PLANNED: dict[str, Any] = {
    "planner": "icem", "horizon": 20, "replan": 1, "cost": "nearest", "deviations": 1.3, "std": 2.0,
    "population": 64, "elites": 8, "iterations": 3,
}  # fmt: skip
"""Wide draws within the actions that the model has often seen: beyond them it imagines that walls let through."""


def trained(change: str, seed: int, out: Path, threads: int | None) -> Path:
    """The run to plan in; what is there is not done again."""
    name, steps = f"two-rooms-{change.replace(' ', '-')}", STEPS if change == "nothing" else SHORTER
    shared = {"data": "two-rooms", "threads": threads, **CHANGES[change]}
    [first] = run(name, "pldm", [seed], out, **shared, steps=steps[0])
    [second] = run(f"{name}-far", "pldm", [seed], out, init=first, **{**shared, **FURTHER}, steps=steps[1])
    return second


def rows(change: str, seed: int, out: Path, threads: int | None) -> dict[str, Any]:
    """What `act` says of one seed."""
    folder = trained(change, seed, out, threads)
    if not (folder / "acting.json").exists():
        jepakit.act(folder, env="two-rooms", episodes=EPISODES, seed=100 + seed, **PLANNED)
    return read_json(folder / "acting.json")["rows"]


if __name__ == "__main__":
    asked = arguments(__doc__ or "", list(CHANGES))
    found = [rows(asked.change, seed, asked.out, asked.threads) for seed in asked.seeds]
    print(successes(f"PLDM, changed: {asked.change}", found))
