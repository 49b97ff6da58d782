"""What a run of Two Rooms does in worlds that it never saw, and with other planners at equal time.

    python recipes/two_rooms_shifted.py runs/recipes/two-rooms-nothing-far-seed0 --threads 1

One factor at a time is shifted: how the dot looks, an unpredictable background, the door's width, where episodes begin. The
planner is that of `recipes/two_rooms.py`; the others imagine as many steps as it (a gradient counts as three of them). Each row
has the same 50 starts and goals, drawn by a seed of their own (200), but for what is shifted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from two_rooms import PLANNED

from jepakit.device import keep_freed_memory
from jepakit.evaluation.intervals import wilson
from jepakit.verbs.planning import planning_policy
from jepakit.worlds.acting import PlanningConfig, run_episodes
from jepakit.worlds.environments import make_environment
from jepakit.worlds.planners import make_planner

EPISODES, SEED = 50, 200
SHIFTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a smaller dot (1 pixel instead of 1.3)": {"dot": 1.0},
    "a larger dot (1.8)": {"dot": 1.8},
    "a dot of 3/4 brightness": {"brightness": 0.75},
    "a dot of half brightness": {"brightness": 0.5},
    "a background that flickers, up to .1": {"flicker": 0.1},
    "a background that flickers, up to .5": {"flicker": 0.5},
    "a narrower door (3 instead of 4)": {"door": 3.0},
    "starts pressed to the wall": {"pressed": True},
}
EQUAL = {
    "icem": {"population": 64, "elites": 8, "iterations": 3, "std": 2.0},
    "cem": {"population": 64, "elites": 8, "iterations": 3, "std": 2.0},
    "mppi": {"population": 64, "elites": 8, "iterations": 3, "std": 2.0},
    "random": {"population": 64, "iterations": 3},
    "gradient": {"starts": 4, "iterations": 16},
}


class Pressed(gymnasium.Wrapper):
    """Begins at the wall, anywhere beside the door, instead of anywhere in the room."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        world = self.unwrapped
        wall, (x, y) = float(world.rooms.wall[0]), world.place[0]
        return super().reset(seed=seed, options={"start": (wall + 2.0 * np.sign(x - wall), y)})


def make(pressed: bool = False, **shift: Any) -> gymnasium.Env:
    environment = make_environment("two-rooms", **shift)
    return Pressed(environment) if pressed else environment


def row(run: Path, name: str, planner: str, search: dict[str, Any], shift: dict[str, Any]) -> str:
    config = PlanningConfig(**{option: PLANNED[option] for option in ("horizon", "replan", "cost", "deviations")})
    policy = planning_policy(run, make_planner(planner, seed=0, **search), config)
    outcomes = run_episodes(lambda: make(**shift), policy, EPISODES, SEED)
    found = wilson(sum(one.success for one in outcomes), EPISODES)
    plans = sum(policy.seconds) / (sum(one.steps for one in outcomes) / policy.frame_skip)
    return f"| {name} | {found.value:.2f} | {found.low:.2f} to {found.high:.2f} | {1e3 * plans:.0f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", choices=("shifts", "planners"), default=None)
    asked = parser.parse_args()
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    keep_freed_memory()
    head = "success | 95 % | ms a plan |\n|---|---|---|---|"
    if asked.only != "planners":
        print(f"| shifted: | {head}")
        search = {option: PLANNED[option] for option in ("population", "elites", "iterations", "std")}
        for name, shift in SHIFTS.items():
            print(row(asked.run, name, PLANNED["planner"], search, shift), flush=True)
    if asked.only != "shifts":
        print(f"| planner | {head}")
        for name, search in EQUAL.items():
            print(row(asked.run, name, name, search, {}), flush=True)
