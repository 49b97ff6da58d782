"""Push-T from state vectors: recorded pushes without a goal, a world model, planning in it; or another model in its place.

    python recipes/push_t.py --threads 1
    python recipes/push_t.py --threads 1 --seeds 0 --change "pldm, no inverse"

2,000 episodes of the environment's heuristic, which pushes at random, serve all seeds. Blocks of five actions, goals 25 steps
away, iCEM five blocks ahead and anew at each block. Printed is success with its Wilson interval, beside behaviour cloning on
the same episodes, random actions and the oracle; and r of agent, block and angle as probes read them off one embedding.
Episodes that are planned in have seeds of their own (100 and up).
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from seeds import arguments, run, successes

import jepakit
from jepakit.files import read_json

EPISODES = 40  # of each seed
RECORDED: dict[str, Any] = {"env": "push-t", "policy": "heuristic", "episodes": 2000, "seed": 50}
SHARED: dict[str, Any] = {"frame_skip": 5, "history": 1, "horizon": 4}
LEWM: dict[str, Any] = {"embedding": 16, "steps": 4000, "rollout": 1.0}
PLDM: dict[str, Any] = {"batch_size": 128, "steps": 4000}
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("lewm", LEWM),
    "pldm": ("pldm", PLDM),
    "pldm, no variance": ("pldm", {**PLDM, "variance": 0.0}),
    "pldm, no covariance": ("pldm", {**PLDM, "covariance": 0.0}),
    "pldm, no inverse": ("pldm", {**PLDM, "inverse": 0.0}),
    "pldm, similarity": ("pldm", {**PLDM, "similarity": 0.1}),
}
PLANNED: dict[str, Any] = {"planner": "icem", "horizon": 5, "replan": 1, "cost": "last"}
PARTS = {"agent": (0, 1), "block": (2, 3), "angle": (4, 5)}


def acted(change: str, seed: int, out: Path, threads: int | None) -> Path:
    """The run of one seed, which has acted; what is there is not done again."""
    data = str(jepakit.collect(out=out / "episodes-push-t", **RECORDED))
    system, options = CHANGES[change]
    name = f"push-t-{change.replace(', ', '-').replace(' ', '-')}"
    [folder] = run(name, system, [seed], out, data=data, threads=threads, **SHARED, **options)
    if not (folder / "acting.json").exists():
        jepakit.act(folder, env="push-t", episodes=EPISODES, seed=100 + seed, behaviour_cloning=True, **PLANNED)
    return folder


def probes(folder: Path) -> list[str]:
    """Lines of a table: r of each part of the state, the mean over its variables."""
    rows = read_json(folder / "evaluation.json")["world_model"]["state"]["rows"]
    return [
        f"| {row['features']}, {row['probe']} | "
        + " | ".join(f"{statistics.mean(row['r'][number] for number in numbers):.3f}" for numbers in PARTS.values())
        + " |"
        for row in rows
    ]


if __name__ == "__main__":
    asked = arguments(__doc__ or "", list(CHANGES))
    folders = [acted(asked.change, seed, asked.out, asked.threads) for seed in asked.seeds]
    print(successes(f"push-t, changed: {asked.change}", [read_json(folder / "acting.json")["rows"] for folder in folders]))
    for seed, folder in zip(asked.seeds, folders, strict=True):
        print("\n".join([f"\n| r, seed {seed} | " + " | ".join(PARTS) + " |", "|---" * 4 + "|", *probes(folder)]))
