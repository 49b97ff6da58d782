"""A maze of four rooms, start and goal three doors apart: planning on two levels against planning on one, at equal arithmetic.

    python recipes/h_jepa_maze.py --threads 1 --seeds 0

One maze for all, observed as x and y, which say nothing of its walls: those are learned from what wanderers recorded. `pldm`
learns it in steps of four moves, `h-jepa` above it in steps of sixteen. The lower level alone is then planned in with several
horizons, each with as many candidates as make the multiply-adds of a move those of both levels together; counted are all
matrix products while a policy acts, of encoders too. Two changes show what subgoals are for: the goal itself in their place,
and the embeddings of places drawn from the recordings. Printed is success over the episodes of all seeds, with its Wilson
interval; episodes are drawn by seeds on which nothing was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeds import arguments
from torch.utils.flop_counter import FlopCounterMode

import jepakit
from jepakit.evaluation.intervals import wilson
from jepakit.modalities.trajectories.built_in.maze import MazeConfig
from jepakit.modalities.trajectories.built_in.maze_episodes import wander
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.planning import planning_policy
from jepakit.worlds.acting import OraclePolicy, PlanningConfig, PlanningPolicy, Policy, RandomPolicy, run_episodes
from jepakit.worlds.environments import make_environment
from jepakit.worlds.planners import make_planner
from jepakit.worlds.subgoals import HierarchicalPolicy

EPISODES = 50  # of each seed
MAZE: dict[str, Any] = {"rows": 2, "columns": 2, "layout": 0}
RECORDED, MOVES = 3000, 180  # episodes, and their length
SHARED: dict[str, Any] = {"batch_size": 256, "final_lr": 0.0, "test_fraction": 0.0, "workers": 0}
LOWER: dict[str, Any] = {
    "embedding": 128, "inverse": 1.0, "covariance": 0.1, "widths": (32,), "frame_skip": 4, "horizon": 4, "steps": 3000,
}  # fmt: skip
UPPER: dict[str, Any] = {"macro": 4, "frame_skip": 16, "horizon": 4, "steps": 1500}
ABOVE: dict[str, Any] = {"population": 128, "elites": 12, "iterations": 4, "std": 1.0}
BELOW: dict[str, Any] = {"population": 64, "elites": 8, "iterations": 3, "std": 1.0}
FAR, HORIZONS = 8, (4, 10, 20)  # upper steps; steps of the lower level when it plans alone
PLANNED: dict[str, Any] = {"replan": 1, "cost": "nearest", "deviations": 2.0}

make = partial(make_environment, "maze", pixels=False, **MAZE)


def recorded(seed: int, out: Path) -> Path:
    """Episodes of wanderers in the maze, as a file."""
    path = out / f"maze-of-numbers-seed{seed}.npz"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        _, places, actions = wander(MazeConfig(**MAZE), seed, RECORDED, MOVES + 1)
        flat, done = (part.reshape(-1, 2).astype(np.float32) for part in (places, actions))
        np.savez(path, observations=flat, states=flat, actions=done, episode=np.repeat(np.arange(RECORDED), MOVES + 1))
    return path


def trained(name: str, system: str, seed: int, out: Path, **options: Any) -> Path:
    """The run; what is there is not done again."""
    folder = out / f"{name}-seed{seed}"
    if not RunFolder(folder).model.exists():
        jepakit.pretrain(system, out=folder, seed=seed, **SHARED, **options)
    return folder


def searching(seed: int, **options: Any) -> Any:
    """An iCEM."""
    return make_planner("icem", seed=seed, **options)


def multiply_adds(policy: Policy, moves: int) -> float:
    """Of one move, on average over the first moves of an episode of one environment."""
    environment = make()
    observation, info = environment.reset(seed=0)
    policy.begin([environment], [0])
    with FlopCounterMode(display=False) as counter:
        for _ in range(moves):
            observation, _, _, _, info = environment.step(policy.act([observation], [info])[0])
    return counter.get_total_flops() / 2 / moves


def flat(lower: Path, horizon: int, asked: float) -> PlanningPolicy:
    """The lower level alone, with so many candidates that a move costs what was asked."""
    config = PlanningConfig(horizon=horizon, **PLANNED)
    tried = multiply_adds(planning_policy(lower, searching(0, **BELOW), config), 16)
    most = max(BELOW["elites"], round(BELOW["population"] * asked / tried))
    return planning_policy(lower, searching(0, **{**BELOW, "population": most}), config)


class GoalInstead(HierarchicalPolicy):
    """The goal in the place of every subgoal."""

    def subgoals(self, here: Any, path: Any, final: Any) -> Any:
        return final[:, None].expand_as(super().subgoals(here, path, final))


class AnyInstead(HierarchicalPolicy):
    """Recorded places, drawn at random, in the place of subgoals; the goal where the upper level asks for it."""

    places: torch.Tensor

    def subgoals(self, here: Any, path: Any, final: Any) -> Any:
        given = super().subgoals(here, path, final)
        streams = [torch.Generator().manual_seed(i + self.perception.clock) for i in self.ids]
        drawn = [self.places[torch.randint(len(self.places), given.shape[1:2], generator=stream)] for stream in streams]
        return torch.where((given == final[:, None]).all(2, keepdim=True), given, torch.stack(drawn))


def policies(seed: int, out: Path, threads: int | None) -> dict[str, Callable[[], Policy]]:
    """Each by what it is called."""
    data = recorded(seed, out)
    lower = trained("h-jepa-maze-lower", "pldm", seed, out, data=str(data), threads=threads, **LOWER)
    upper = trained("h-jepa-maze-upper", "h-jepa", seed, out, data=str(data), lower=str(lower), threads=threads, **UPPER)

    def both(kind: type[HierarchicalPolicy] = HierarchicalPolicy) -> HierarchicalPolicy:
        planned = planning_policy(
            upper, searching(0, **BELOW), PlanningConfig(horizon=FAR, **PLANNED), above=searching(1, **ABOVE)
        )
        planned.__class__ = kind
        return planned  # type: ignore[return-value]

    def anywhere() -> HierarchicalPolicy:
        policy: Any = both(AnyInstead)
        seen = policy.inputs.normalise(torch.from_numpy(np.load(data)["observations"][::97]))
        nothing = torch.zeros(len(seen), 0, policy.inputs.action)
        with torch.no_grad():
            policy.places = policy.model.embedding(policy.model.observe({"inputs": seen[:, None], "actions": nothing}))
        return policy

    asked = multiply_adds(both(), 16)
    return {
        f"two levels, {FAR} upper steps": both,
        **{f"flat, {horizon} steps": partial(flat, lower, horizon, asked) for horizon in HORIZONS},
        "goal instead of subgoals": partial(both, GoalInstead),
        "any place instead of subgoals": anywhere,
        "random": RandomPolicy,
        "oracle": OraclePolicy,
    }


if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    found: dict[str, list[list[bool]]] = {}
    costs: dict[str, float] = {}
    for seed in asked.seeds:
        for name, made in policies(seed, asked.out, asked.threads).items():
            policy = made()
            costs[name] = multiply_adds(policy, 16) if isinstance(policy, PlanningPolicy) else 0.0
            outcomes = run_episodes(make, policy, EPISODES, 100 + seed)
            found.setdefault(name, []).append([one.success for one in outcomes])
            print(f"seed {seed}, {name}: {np.mean(found[name][-1]):.2f}", flush=True)
    print("\n| maze of four rooms | success | 95 % | each seed | M multiply-adds a move |\n" + "|---" * 5 + "|")
    for name, each in found.items():
        pooled, seeds = wilson(sum(map(sum, each)), sum(map(len, each))), ", ".join(f"{np.mean(one):.2f}" for one in each)
        print(f"| {name} | {pooled.value:.2f} | {pooled.low:.3f} to {pooled.high:.3f} | {seeds} | {costs[name] / 1e6:.1f} |")
