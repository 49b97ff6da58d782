"""Planning with a predictor of LeWorldModel's size on Push-T: the paper's search, and ever fewer evaluations.

    python recipes/lewm_planning.py --threads 2 --seeds 0

The predictor is the paper's (6 layers, 16 heads of 64, MLPs of 2048), taught as in `recipes/push_t.py` on its episodes. The
paper's search is CEM with 300 candidates, 30 rounds, 30 elites, first draws of deviation 1, five blocks of five actions ahead
of which all are done before it plans again (arXiv 2603.19312). What the model computes is bfloat16 where the machine multiplies
that in hardware. Printed for each search: success over the same episodes with its Wilson interval, how many rollouts a plan
evaluates, and the seconds of one plan for one environment. Nothing else should run on the machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from push_t import LEWM, RECORDED, SHARED
from seeds import arguments, run

import jepakit
from jepakit.files import read_json

EPISODES, SEED = 40, 300
SIZE: dict[str, Any] = {"size": "tiny", "predictor_heads": 16, "predictor_head_dim": 64, "predictor_mlp": 2048}
SEARCHES: dict[str, dict[str, Any]] = {
    "CEM, 300 candidates, 30 rounds (paper)": {"planner": "cem", "population": 300, "elites": 30, "iterations": 30, "std": 1.0},
    "CEM, 300 candidates, 5 rounds": {"planner": "cem", "population": 300, "elites": 30, "iterations": 5, "std": 1.0},
    "CEM, 100 candidates, 5 rounds": {"planner": "cem", "population": 100, "elites": 10, "iterations": 5, "std": 1.0},
    "iCEM, 100 candidates, 5 rounds": {"planner": "icem", "population": 100, "elites": 10, "iterations": 5},
    "iCEM, 64 candidates, 3 rounds": {"planner": "icem", "population": 64, "elites": 8, "iterations": 3},
    "random shooting, 300 candidates": {"planner": "random", "population": 300, "iterations": 1},
    "iCEM, 100 candidates, 5 rounds, anew after each block": {
        "planner": "icem", "population": 100, "elites": 10, "iterations": 5, "replan": 1,
    },
    "iCEM, 64 candidates, 3 rounds, anew after each block": {
        "planner": "icem", "population": 64, "elites": 8, "iterations": 3, "replan": 1,
    },
    "CEM, 300 candidates, 5 rounds, anew after each block": {
        "planner": "cem", "population": 300, "elites": 30, "iterations": 5, "std": 1.0, "replan": 1,
    },
}


def rows(folder: Path) -> list[str]:
    """Lines of the table; each search is asked of the same starts and goals, one environment at a time."""
    found = []
    for name, search in SEARCHES.items():
        jepakit.act(
            folder, env="push-t", episodes=EPISODES, seed=SEED, horizon=5, cost="last", together=1, record=0,
            precision="auto", **{"replan": 5, **search},
        )  # fmt: skip
        acted = read_json(folder / "acting.json")
        row = next(iter(acted["rows"].values()))
        evaluated = search["population"] * search["iterations"]
        found.append(
            f"| {name} | {row['success']:.2f} ({row['low']:.2f} to {row['high']:.2f}) | {evaluated:,} | "
            f"{acted['plan_s']['mean']:.2f} |"
        )
        print(found[-1], flush=True)
    return found


def main() -> None:
    asked = arguments(__doc__ or "")
    data = str(jepakit.collect(out=asked.out / "episodes-push-t", **RECORDED))
    options = {"data": data, "threads": asked.threads, **SHARED, **LEWM, **SIZE}
    folders = run("lewm-size-push-t", "lewm", asked.seeds, asked.out, **options)
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    for seed, folder in zip(asked.seeds, folders, strict=True):
        lines = rows(folder)
        print("\n".join([f"\n| seed {seed} | success | rollouts | s a plan |", "|---" * 4 + "|", *lines]))


if __name__ == "__main__":
    main()
