"""Pendulum and reacher from state vectors: random episodes, a world model, planning in it, behaviour cloning beside.

    python recipes/worlds_from_state.py --threads 1
    python recipes/worlds_from_state.py --threads 1 --seeds 0 --change "100 episodes"

For each task and seed episodes are collected without a goal, `lewm` learns from them, and iCEM plans in it, one model step at a
time, towards goals that are drawn for the test. Behaviour cloning copies the same episodes with hindsight goals. Printed is
success over the episodes of all seeds, with its Wilson interval. With a change the reacher alone is done, from so many episodes
instead of 300.

An embedding barely wider than the state is what makes its distances a cost: with 128 numbers (`pldm`) they are harmonics of the
angle, hanging down costs less than lying level, and nothing swings up. The pendulum's states are a surface, which SIGReg
crumples to fill the three numbers, the more the longer it trains: with its default weight of 12.8 the rod swings up and falls
over again. The reacher's cost is that of the last imagined step: its elbow, which cannot turn all the way, often has to move
away from its goal first; a longer horizon puts off arriving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seeds import arguments, run, successes

import jepakit
from jepakit.files import read_json

EPISODES = 40  # of each seed
SMALL: dict[str, Any] = {"history": 1, "horizon": 4, "rollout": 1.0}  # the state is seen at once; taught four steps ahead
TASKS: dict[str, dict[str, Any]] = {
    "pendulum": {
        "collect": {"episodes": 1000, "policy": "heuristic"},
        "pretrain": {"embedding": 3, "steps": 2000, "final_lr": 0.0, "sigreg": {"weight": 0.3}, "frame_skip": 4, **SMALL},
        "act": {"horizon": 12},
    },
    "reacher": {
        "collect": {"episodes": 300, "policy": "random"},
        "pretrain": {"embedding": 8, "steps": 1500, "frame_skip": 4, **SMALL},
        "act": {"horizon": 12, "cost": "last", "population": 128, "elites": 12, "iterations": 6},
    },
}
CHANGES = {"nothing": 300, "30 episodes": 30, "100 episodes": 100, "1000 episodes": 1000}


def act(name: str, task: dict[str, Any], seed: int, out: Path, threads: int | None) -> dict[str, Any]:
    """Rows of one seed: a policy's outcomes and what a step of it costs."""
    data, run_name = name, f"world-{name}"
    if "collect" in task:
        number = task["collect"]["episodes"]
        run_name += f"-{number}"
        data = str(jepakit.collect(env=name, out=out / f"episodes-{name}-{number}-seed{seed}", seed=seed, **task["collect"]))
    [folder] = run(run_name, "lewm", [seed], out, data=data, threads=threads, **task["pretrain"])
    if not (folder / "acting.json").exists():
        options = {"planner": "icem", "replan": 1, "behaviour_cloning": True, **task["act"]}
        jepakit.act(folder, env=name, episodes=EPISODES, seed=100 + seed, **options)
    return read_json(folder / "acting.json")["rows"]


if __name__ == "__main__":
    asked = arguments(__doc__ or "", list(CHANGES))
    TASKS["reacher"]["collect"]["episodes"] = CHANGES[asked.change]
    for name in TASKS if asked.change == "nothing" else ["reacher"]:
        found = [act(name, TASKS[name], seed, asked.out, asked.threads) for seed in asked.seeds]
        print("\n" + successes(name, found), flush=True)
