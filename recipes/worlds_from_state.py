"""Pendulum and reacher from state vectors: random episodes, a world model, planning in it, behaviour cloning beside.

    python recipes/worlds_from_state.py --threads 1

For each task and seed episodes are collected (reacher) or generated (pendulum) without a goal, `lewm` learns from them, and
iCEM plans in it, one model step at a time, towards goals that are drawn for the test. Behaviour cloning copies the same
episodes with hindsight goals. Printed is success over the episodes of all seeds, with its Wilson interval.

An embedding barely wider than the state is what makes its distances a cost: with 128 numbers (`pldm`) they are harmonics of the
angle, hanging down costs less than lying level, and nothing swings up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seeds import arguments, run, successes

import jepakit

EPISODES = 20  # of each seed
SMALL: dict[str, Any] = {"history": 1, "horizon": 4, "rollout": 1.0}  # the state is seen at once; taught four steps ahead
TASKS: dict[str, dict[str, Any]] = {
    "pendulum": {"pretrain": {"embedding": 3, "steps": 600, **SMALL}, "act": {"horizon": 12}},
    "reacher": {
        "collect": {"episodes": 300, "policy": "random"},
        "pretrain": {"embedding": 6, "steps": 1200, "frame_skip": 2, **SMALL},
        "act": {"horizon": 10},
    },
}


def act(name: str, task: dict[str, Any], seed: int, out: Path, threads: int | None) -> dict[str, Any]:
    """Rows of one seed: a policy's outcomes and what a step of it costs."""
    data = name
    if "collect" in task:
        data = str(jepakit.collect(env=name, out=out / f"episodes-{name}-seed{seed}", seed=seed, **task["collect"]))
    [folder] = run(f"world-{name}", "lewm", [seed], out, data=data, threads=threads, **task["pretrain"])
    options = {"planner": "icem", "replan": 1, "behaviour_cloning": True, **task["act"]}
    return jepakit.act(folder, env=name, episodes=EPISODES, seed=seed, **options)["rows"]


if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    for name, task in TASKS.items():
        found = [act(name, task, seed, asked.out, asked.threads) for seed in asked.seeds]
        print("\n" + successes(name, found))
