"""What an agent learns from its own memory in Two Rooms: to react without planning, and to see past a short horizon.

    python recipes/agent_two_rooms.py runs/recipes/two-rooms-nothing-far-seed0 --threads 1

The run is one of `recipes/two_rooms.py`. It plans in 100 episodes, and from what it then remembers a reactive actor (mode 1)
and critics are taught, each in seconds; nothing of the world model is trained. Printed are, over the same 50 other episodes:
success, with its Wilson interval, and CPU seconds a step of planning, of the reactive actor, and of planning with a horizon too
short to see past the wall, without a critic and with each; and R2 of the critics on episodes that they were not taught from.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from two_rooms import PLANNED

from jepakit.device import keep_freed_memory
from jepakit.evaluation.intervals import wilson
from jepakit.verbs.agent import agent
from jepakit.worlds.acting import PlanningConfig, run_episodes
from jepakit.worlds.agent.actor import distil
from jepakit.worlds.agent.agent import Agent
from jepakit.worlds.agent.configurator import TaskConfig
from jepakit.worlds.agent.critic import CriticConfig, train_critic
from jepakit.worlds.environments import make_environment

TAUGHT, EPISODES = 100, 50
SHORT = 4  # steps of the model: 16 of the environment
DELAYS, WEIGHTS = (5, 10), (0.3, 1.0)
SEARCH = ("population", "elites", "iterations", "std")
TASK = TaskConfig(
    planner=PLANNED["planner"],
    search={name: PLANNED[name] for name in SEARCH},
    plan=PlanningConfig(**{name: value for name, value in PLANNED.items() if name not in ("planner", *SEARCH)}),
)


def row(name: str, made: Agent, make: Any) -> str:
    """A line of the table."""
    begun = time.process_time()
    outcomes = run_episodes(make, made, EPISODES, seed=400)
    spent = (time.process_time() - begun) / sum(outcome.steps for outcome in outcomes)
    found = wilson(sum(outcome.success for outcome in outcomes), EPISODES)
    return f"| {name} | {found.value:.2f} ({found.low:.2f} to {found.high:.2f}) | {spent:.5f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    keep_freed_memory()
    make = partial(make_environment, "two-rooms")
    planning = agent(asked.run, TASK)
    outcomes = run_episodes(make, planning, TAUGHT, seed=300)
    print(f"taught from {TAUGHT} episodes, of which {sum(outcome.success for outcome in outcomes)} succeeded", flush=True)
    made = partial(Agent, planning.model, planning.inputs, frame_skip=planning.frame_skip)
    print("\n| | success | CPU s a step |\n|---|---|---|", flush=True)
    print(row("mode 2: planning", made(TASK), make), flush=True)
    print(row("mode 1: reacting", made(replace(TASK, mode=1), actor=distil(planning.memory)), make), flush=True)
    short = replace(TASK, plan=replace(TASK.plan, horizon=SHORT))
    print(row(f"planning {SHORT} steps ahead", made(short), make), flush=True)
    for delay in DELAYS:
        critic, r2 = train_critic(planning.memory, CriticConfig(delay=delay))
        for weight in WEIGHTS:
            name = f"the same, with {weight:g} of a critic of {delay} steps (R2 {r2:.2f})"
            print(row(name, made(replace(short, critic=weight), critic=critic), make), flush=True)


if __name__ == "__main__":
    main()
