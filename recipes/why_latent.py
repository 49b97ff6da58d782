"""Why latent: `pldm` against `pixel-world` and an encoder that learns by reconstruction, before an unpredictable background.

    python recipes/why_latent.py --threads 1 --seeds 0

Each of the three has the same encoder and predictor and trains for the same number of steps on the same episodes of
`two-rooms-flicker`; all then plan in the environment of that name with the same planner, that of `recipes/two_rooms.py`. The
table: success with its Wilson interval, beside a policy that acts at random and an oracle; r of the dot's x and y as a ridge
regression reads them off the embeddings of held-out observations, beside the same encoder at random weights and the pixels;
CPU milliseconds of a step and seconds of a plan (for 25 environments at once). `--change "no flicker"` is the same without it.

PLDM's inverse dynamics weigh ten times as much as by default, and the prediction comes later: by default nothing of the dot is
learned before this background (the inverse error stays at 1.01 of the actions' variance; 1 of 50 goals).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from seeds import arguments, run, spread
from sklearn.linear_model import Ridge
from two_rooms import PLANNED

import jepakit
from jepakit.files import read_json
from jepakit.interop.runs import Run, build_system
from jepakit.modalities.trajectories.data import open_trajectories
from jepakit.randomness import derive_seed

SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "pldm": ("pldm", {"inverse": 1.0, "ramp": (0.5, 0.8)}),
    "pixel-world": ("pixel-world", {}),
    "reconstruction": ("pixel-world", {"perception": "reconstruction"}),
}
DATA = {"flicker": "two-rooms-flicker", "no flicker": "two-rooms"}  # and the environment of that name
STEPS, EPISODES = 2000, 20
PROBED = 2_000  # observations that a probe learns from, and as many held out


@torch.no_grad()
def features(system: Any, dataset: Any, chosen: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
    """Embeddings of the last observations of some windows, their numbers, and where the dot is."""
    found, plain, states = [], [], []
    for part in np.array_split(chosen, max(1, len(chosen) // 256)):
        samples = [dataset[int(index)] for index in part]
        found.append(system.encode(system.inputs.prepare(samples)).values[:, -1].float().numpy())
        plain.append(system.inputs.plain(samples).numpy())
        states.append(np.stack([sample["state"].numpy()[:2] for sample in samples]))
    return np.concatenate(found), np.concatenate(plain), np.concatenate(states)


def correlation(train: NDArray, known: NDArray, test: NDArray, asked: NDArray) -> float:
    """r of what a ridge regression reads off with what is so: the mean of x and y."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    read = Ridge(alpha=len(train) * 1e-2).fit((train - mean) / std, known).predict((test - mean) / std)
    return float(np.mean([np.corrcoef(read[:, axis], asked[:, axis])[0, 1] for axis in range(2)]))


def probe(folder: Path) -> dict[str, float]:
    """r of the dot's place: from the run's embeddings, those of its encoder at random weights, and the pixels."""
    run = Run(folder)
    system, config = run.system, run.config
    data = open_trajectories(config.dataset, config.training.seed)
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(len(part))[:PROBED] for part in (data.train, data.test)]
    torch.manual_seed(derive_seed(config.training.seed, "random baseline"))
    scores = {}
    for name, one in {"embedding": system, "random init": build_system(config).eval()}.items():
        (train, plain, known), (test, plain_test, asked) = (
            features(one, part, rows) for part, rows in zip((data.train, data.test), chosen, strict=True)
        )
        scores[name] = correlation(train, known, test, asked)
        scores.setdefault("pixels", correlation(plain, known, plain_test, asked))
    return scores


def interval(row: dict[str, Any]) -> str:
    return f"{row['success']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def main() -> None:
    asked = arguments(__doc__ or "", list(DATA))
    data = DATA[asked.change]
    lines = ["| | success | r of x, y | r, random init | r, pixels | CPU ms a step | plan s |", "|---" * 7 + "|"]
    beside: dict[str, list[dict[str, Any]]] = {}
    for name, (system, options) in SYSTEMS.items():
        shared = {"data": data, "steps": STEPS, "threads": asked.threads}
        folders = run(f"why-latent-{data}-{name}", system, asked.seeds, asked.out, **shared, **options)
        for seed, folder in zip(asked.seeds, folders, strict=True):
            if not (folder / "acting.json").exists():
                jepakit.act(folder, env=data, episodes=EPISODES, seed=100 + seed, **PLANNED)
        acted = [read_json(folder / "acting.json") for folder in folders]
        scores = [probe(folder) for folder in folders]
        rows = [one["rows"][PLANNED["planner"]] for one in acted]
        cells = [spread([one[kind] for one in scores]) for kind in ("embedding", "random init", "pixels")]
        cells.append(spread([1e3 * row["cpu_seconds_a_step"] for row in rows], 1))
        cells.append(spread([one["plan_s"]["mean"] for one in acted], 2))
        lines.append(f"| {name} | {'; '.join(map(interval, rows))} | {' | '.join(cells)} |")
        for other in ("random", "oracle"):
            beside[other] = [one["rows"][other] for one in acted]  # the same episodes for every system
    for name, rows in beside.items():
        lines.append(f"| {name} | {'; '.join(map(interval, rows))} | | | | | |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
