"""Two Rooms with random walls (EB-JEPA's protocol): PLDM at each seed, iCEM in it, or PLDM with something left out.

    python recipes/two_rooms.py --threads 1
    python recipes/two_rooms.py --threads 1 --seeds 0 --change "no inverse"

Everything is `pldm`'s default; why that is not the published mixture is in docs/worlds.md, "Two Rooms". The episodes that are
planned in are drawn by seeds of their own (100 and up), on which nothing was chosen.
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
    "no variance": {"variance": 0.0},
    "no covariance": {"covariance": 0.0},
    "no inverse": {"inverse": 0.0},
    "similarity": {"similarity": 0.1},
    "no ramp": {"ramp": (0.0, 0.0)},
    "recurrent": {"predictor": "recurrent"},
    "published weights": PUBLISHED,
}
PLANNED: dict[str, Any] = {
    "planner": "icem", "horizon": 20, "replan": 1, "cost": "last", "population": 64, "elites": 8, "iterations": 3,
}  # fmt: skip


def rows(change: str, seed: int, out: Path, threads: int | None) -> dict[str, Any]:
    """What `act` says of one seed; what is there is not done again."""
    name = f"two-rooms-{change.replace(' ', '-')}"
    [folder] = run(name, "pldm", [seed], out, data="two-rooms", threads=threads, **CHANGES[change])
    if not (folder / "acting.json").exists():
        jepakit.act(folder, env="two-rooms", episodes=EPISODES, seed=100 + seed, **PLANNED)
    return read_json(folder / "acting.json")["rows"]


if __name__ == "__main__":
    asked = arguments(__doc__ or "", list(CHANGES))
    found = [rows(asked.change, seed, asked.out, asked.threads) for seed in asked.seeds]
    print(successes(f"PLDM, changed: {asked.change}", found))
