"""One agent, one world model of a wall with two doors: tasks that change, what is learned from memory, and what memory solves.

    python recipes/agent_two_doors.py --threads 1 --seeds 0

1. `two-rooms-two-doors` (both doors open, observations x and y), a `pldm` of it, and three tasks one after the other, given to
   the same agent by `configure`: reach the goal; reach it without entering a zone in its way; reach it by the other door, that
   is, with the first one in a zone. Zones are hard limits. An episode counts as entered if the true state was in the zone,
   whose margin is the model's alone; episodes that begin or are to end in it are left out.
2. The same agent's memory of 200 episodes teaches a reactive actor (mode 1) and critics; success and time of deciding of
   planning, of reacting, and of planning with a horizon too short to see through the door, without and with a critic.
3. What `recall` is worth, in models with a discrete latent and in exact ones: in `two-rooms-stochastic` (the nearer door may be
   locked), of bold plans, which go by the better future and try that door first; in `two-rooms-either-door` (one of the doors
   is locked, and nothing says which), of plans of the mean.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeds import arguments
from stochastic_rooms import RUNS as STOCHASTIC
from stochastic_rooms import WORLD, Itself, Simulator
from stochastic_rooms import trained as trained_stochastic

import jepakit
from jepakit.core.dynamics import Dynamics
from jepakit.core.latent import DiscreteLatent, FreeEnergy
from jepakit.device import keep_freed_memory
from jepakit.evaluation.intervals import wilson
from jepakit.modalities.trajectories.built_in.two_rooms import TWO_ROOMS, draw_rooms
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.randomness import Draws
from jepakit.verbs.agent import agent
from jepakit.worlds.acting import Outcome, PlanningConfig, run_episodes
from jepakit.worlds.agent.actor import distil
from jepakit.worlds.agent.agent import Agent
from jepakit.worlds.agent.configurator import TaskConfig
from jepakit.worlds.agent.critic import CriticConfig, train_critic
from jepakit.worlds.agent.intrinsic_cost import CostConfig
from jepakit.worlds.environments import make_environment

BOTH, EITHER = "two-rooms-two-doors", "two-rooms-either-door"
SHARED: dict[str, Any] = {
    "embedding": 128, "horizon": 12, "batch_size": 64, "inverse_hidden": 64, "precision": "float32", "final_lr": 0.0,
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {BOTH: {"steps": 4_000}, EITHER: {"steps": 8_000, "latent": "discrete"}}
SEARCH = {"population": 200, "elites": 20, "iterations": 4, "std": 2.0}
TASK = TaskConfig(search=SEARCH, plan=PlanningConfig(horizon=20, replan=1, cost="nearest", deviations=1.4))
GOAL = CostConfig()
ISLAND = {"x": [42.0, 47.0], "y": [17.0, 27.0]}
DOOR = {"x": [30.6, 33.4], "y": [18.0, 26.0]}
MARGIN = 2.5  # a step of the model is up to 5.6 pixels: a zone is to be too wide to be stepped across
EPISODES, TAUGHT, SHORT, DELAYS = 50, 200, 3, (2, 3, 5)


def zone(name: str, where: dict[str, list[float]]) -> CostConfig:
    """A limit beside the goal."""
    return CostConfig(kind="zone", name=name, where=where, hard=True, margin=MARGIN)


TASKS = {
    "reach": TASK,
    "reach, and avoid the island": replace(TASK, costs=(GOAL, zone("island", ISLAND))),
    "reach by the other door": replace(TASK, costs=(GOAL, zone("door", DOOR))),
}


def trained(data: str, seed: int, out: Path, threads: int | None) -> Path:
    """The run; what is there is not done again."""
    folder = out / f"agent-{data}-seed{seed}"
    if not (folder / "evaluation.json").exists():
        jepakit.pretrain("pldm", data=data, out=folder, seed=seed, threads=threads, **SHARED, **RUNS[data])
    return folder


def share(successes: list[bool]) -> str:
    """With its interval."""
    found = wilson(sum(successes), len(successes))
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def inside(outcome: Outcome, where: dict[str, list[float]]) -> bool:
    """Whether the dot was in a box."""
    (left, right), (low, high) = where.values()
    x, y = np.stack(outcome.states)[:, :2].T
    return bool(((x > left) & (x < right) & (y > low) & (y < high)).any())


def begins_or_ends_there(outcome: Outcome, goal: Any) -> bool:
    """Whether start or goal lies in a zone with its margin, where the agent may do nothing."""
    for (left, right), (low, high) in (zone.values() for zone in (ISLAND, DOOR)):
        for x, y in (outcome.states[0][:2], goal[:2]):
            if left - MARGIN <= x <= right + MARGIN and low - MARGIN <= y <= high + MARGIN:
                return True
    return False


def tasks(made: Agent, seed: int) -> None:
    """The first table: the same agent is told one task after the other."""
    print("\n| task | success | through the first door | on the island |\n|---|---|---|---|", flush=True)
    environment = make_environment(BOTH)
    for name, task in TASKS.items():
        made.configure(task)
        outcomes = run_episodes(partial(make_environment, BOTH), made, EPISODES, 100 + seed)
        goals = [environment.reset(seed=one.seed)[1]["goal_state"] for one in outcomes]
        apart = [one for one, goal in zip(outcomes, goals, strict=True) if not begins_or_ends_there(one, goal)]
        doors = sum(inside(one, DOOR) for one in apart)
        island = sum(inside(one, ISLAND) for one in apart)
        cells = f"{doors} of {len(apart)} | {island} of {len(apart)}"
        print(f"| {name} | {share([one.success for one in apart])} | {cells} |", flush=True)


def learned(made: Agent, seed: int) -> None:
    """The second table."""
    make = partial(make_environment, BOTH)
    made.configure(TASK)
    run_episodes(make, made, TAUGHT, 300 + seed)
    alike = partial(Agent, made.model, made.inputs, frame_skip=made.frame_skip)
    print("\n| | success | microseconds of deciding a step |\n|---|---|---|", flush=True)

    def row(name: str, acting: Agent) -> None:
        outcomes = run_episodes(make, acting, EPISODES, 400 + seed)
        spent = 1e6 * sum(acting.seconds) / sum(one.steps for one in outcomes)
        print(f"| {name} | {share([one.success for one in outcomes])} | {spent:.0f} |", flush=True)

    row("mode 2: planning", alike(TASK))
    row("mode 1: reacting", alike(replace(TASK, mode=1), actor=distil(made.memory, seed=seed)))
    short = replace(TASK, plan=replace(TASK.plan, horizon=SHORT, cost="last"))
    row(f"planning {SHORT} steps ahead", alike(short))
    for delay in DELAYS:
        critic, r2 = train_critic(made.memory, CriticConfig(delay=delay), seed=seed)
        row(f"the same, with a critic of {delay} steps (R2 {r2:.2f})", alike(replace(short, critic=1.0), critic=critic))


class EitherDoor(Simulator):
    """The moves of the world of which one door is locked; z is one-hot: the first door locked, or the second."""

    def __init__(self, skip: int):
        super().__init__(skip)
        rooms = draw_rooms(TWO_ROOMS[EITHER], Draws(0, "rooms", 0, [0]))
        self.worlds = [
            dataclasses.replace(rooms, locked=np.array([locked]), barred=np.array([not locked])) for locked in (False, True)
        ]


def exact(moves: Simulator, task: TaskConfig) -> Agent:
    """An agent whose model is the simulator."""
    inputs = TrajectoryInputs(
        shape=(2,), mean=(0.0,) * 2, std=(1.0,) * 2, action_mean=(0.0,) * 2 * moves.skip, action_std=(1.0,) * 2 * moves.skip,
        history=1, horizon=1,
    )  # fmt: skip
    model = Dynamics(Itself(), moves, FreeEnergy(DiscreteLatent(codes=2))).eval()
    return Agent(model, inputs, task, frame_skip=moves.skip)


def recalled(world: str, run: Path, moves: Simulator, risk: Any, seed: int) -> None:
    """The third tables. What an episode's state ends with is whether a door is locked."""
    print(f"\n| {world}, risk {risk} | nearer or second door open | locked | together |\n|---|---|---|---|", flush=True)
    for recall in (False, True):
        task = replace(TASK, recall=recall, plan=replace(TASK.plan, risk=risk))
        for kind, made in (("exact", exact(moves, task)), ("learned", agent(run, task, seed=seed))):
            outcomes = run_episodes(partial(make_environment, world), made, EPISODES, 100 + seed)
            parts = [[one.success for one in outcomes if bool(one.states[0][5]) == locked] for locked in (False, True)]
            name = f"{kind}, {'with' if recall else 'without'} memory"
            cells = " | ".join(f"{sum(part)} of {len(part)}" for part in parts)
            print(f"| {name} | {cells} | {share([*parts[0], *parts[1]])} |", flush=True)


if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    keep_freed_memory()
    for seed in asked.seeds:
        print(f"\nSeed {seed}")
        made = agent(trained(BOTH, seed, asked.out, asked.threads), TASK, seed=seed)
        tasks(made, seed)
        learned(made, seed)
        run = trained_stochastic("discrete", STOCHASTIC["discrete"], asked.out, seed, asked.threads)
        recalled(WORLD, run, Simulator(skip=4), 0.25, seed)
        recalled(EITHER, trained(EITHER, seed, asked.out, asked.threads), EitherDoor(skip=4), "mean", seed)
