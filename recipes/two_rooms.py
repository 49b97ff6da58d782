"""Two Rooms with random walls (EB-JEPA's protocol): PLDM at each seed, iCEM in it, or PLDM with something left out.

    python recipes/two_rooms.py --threads 1
    python recipes/two_rooms.py --threads 1 --seeds 0 --change "no inverse"

A model step is four actions. What is taught, and why it is not the published mixture, is in docs/worlds.md, "Two Rooms". The
episodes that are planned in are drawn by seeds of their own (100 and up), on which nothing was chosen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seeds import successes

import jepakit
from jepakit.files import read_json

EPISODES = 100  # of each seed
TAUGHT: dict[str, Any] = {
    "frame_skip": 4, "horizon": 4, "batch_size": 64, "steps": 3000, "predictor": "residual", "ramp": (0.0, 0.33),
    "variance": 0.32, "covariance": 1.0, "similarity": 0.0, "inverse": 0.1,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no variance": {"variance": 0.0},
    "no covariance": {"covariance": 0.0},
    "no inverse": {"inverse": 0.0},
    "similarity": {"similarity": 0.1},
    "no ramp": {"ramp": (0.0, 0.0)},
    "recurrent": {"predictor": "recurrent"},
    "published weights": {"variance": 16.0, "covariance": 8.0, "similarity": 12.0, "inverse": 1.0, "ramp": (0.0, 0.0)},
}
PLANNED: dict[str, Any] = {
    "planner": "icem", "horizon": 20, "replan": 1, "cost": "last", "population": 64, "elites": 8, "iterations": 3,
}  # fmt: skip


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/two-rooms"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--change", choices=list(CHANGES), default="nothing")
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def rows(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What `act` says of one seed; nothing is done twice."""
    folder = options.out / f"{options.change.replace(' ', '-')}-seed{seed}"
    if not (folder / "model.safetensors").exists():
        if (folder / "config.yaml").exists():
            jepakit.resume(folder)
        else:
            taught = {**TAUGHT, **CHANGES[options.change]}
            jepakit.pretrain("pldm", data="two-rooms", out=folder, seed=seed, threads=options.threads, **taught)
    if not (folder / "acting.json").exists():
        jepakit.act(folder, env="two-rooms", episodes=options.episodes, seed=100 + seed, **PLANNED)
    return read_json(folder / "acting.json")["rows"]


if __name__ == "__main__":
    options = asked()
    print(successes(f"PLDM, changed: {options.change}", [rows(options, seed) for seed in options.seeds]))
