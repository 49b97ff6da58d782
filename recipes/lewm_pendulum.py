"""LeWorldModel on a pendulum, as numbers (and without SIGReg, the negative control) and as pixels.

    python recipes/lewm_pendulum.py --threads 1

For each run: linear R2 of angle (cos and sin, their mean) and velocity on held-out episodes, from the embedding of one
observation and from those of three in a row (no picture shows a velocity), beside a random encoder and the raw numbers; and
imagined futures: error after 1 to 8 actions as a share of the embeddings' variance (1: no better than their mean), with the
actions that were taken, with those of another window, and for standing still, and the angle a probe reads off in degrees.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeds import arguments
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

import jepakit
from jepakit.interop.runs import Run, build_system
from jepakit.modalities.trajectories.data import open_trajectories
from jepakit.randomness import derive_seed

HORIZON = 8
RUNS: dict[str, dict[str, Any]] = {
    "numbers": {"data": "pendulum", "steps": 300},
    "numbers without SIGReg": {"data": "pendulum", "steps": 300, "anti_collapse": "none"},
    # A picture shows one number, the angle: a wide embedding fills with harmonics of it that are hard to predict.
    "pixels": {"data": "pendulum-pixels", "steps": 300, "batch_size": 64, "embedding": 4},
    "pixels, 16 wide": {"data": "pendulum-pixels", "steps": 300},
}


def embed(system: Any, dataset: Any) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings `[n, time, dim]` of windows, and the state at their ends."""
    parts = [[dataset[i] for i in range(start, min(start + 512, len(dataset)))] for start in range(0, len(dataset), 512)]
    embedded = torch.cat([system.encode(system.inputs.windows(part)["inputs"]).values for part in parts])
    return embedded, np.stack([sample["state"].numpy() for part in parts for sample in part])


def raw(dataset: Any) -> torch.Tensor:
    """Observations as numbers, `[n, time, dim]`."""
    return torch.stack([dataset[i]["observations"].float().flatten(1) for i in range(len(dataset))])


def probe(train: torch.Tensor, test: torch.Tensor, known: np.ndarray, asked: np.ndarray) -> str:
    """R2 of angle and velocity by ridge regression from the last, and from the last three."""
    cells = []
    for count in (1, 3):
        x, y = train[:, -count:].flatten(1).numpy(), test[:, -count:].flatten(1).numpy()
        scale = x.std() + 1e-12
        found = Ridge(1.0).fit(x / scale, known).predict(y / scale)
        scores = [float(r2_score(asked[:, column], found[:, column])) for column in range(3)]
        cells.append(f"{count} obs.: angle {(scores[0] + scores[1]) / 2:.3f}, velocity {scores[2]:.3f}")
    return "; ".join(cells)


def futures(system: Any, dataset: Any, read: Ridge) -> None:
    """Print the errors of imagined futures."""
    samples = [dataset[i] for i in range(0, len(dataset), 3)]
    batch = system.inputs.windows(samples)
    z, history = system.encode(batch["inputs"]).values, system.inputs.history
    state = system.observe({"inputs": batch["inputs"][:, :history], "actions": batch["actions"][:, : history - 1]})
    ahead, after = batch["actions"][:, history - 1 :], z[:, history:]
    other = torch.from_numpy(np.random.default_rng(0).permutation(len(samples)))
    imagined = {
        "true actions": system.rollout(state, ahead).embeddings,
        "another's actions": system.rollout(state, ahead[other]).embeddings,
        "standing still": z[:, history - 1 : history].expand_as(after),
    }
    spread = (after - after.mean((0, 1))).square().mean()
    true_angle = np.arctan2(*np.moveaxis(read.predict(after.flatten(0, 1).numpy())[:, 1::-1], 1, 0))
    for name, found in imagined.items():
        errors = (found - after).square().mean((0, 2)) / spread
        angle = np.arctan2(*np.moveaxis(read.predict(found.flatten(0, 1).numpy())[:, 1::-1], 1, 0))
        turn = np.degrees(np.abs((angle - true_angle + np.pi) % (2 * np.pi) - np.pi)).reshape(after.shape[:2])
        shown = " ".join(f"{float(errors[k]):.3f} ({turn[:, k].mean():.0f}°)" for k in (0, 1, 3, 7))
        print(f"  after 1, 2, 4, 8 actions, {name}: {shown}")


@torch.no_grad()
def measure(folder: Path) -> None:
    """Print what a finished run is worth."""
    run = Run(folder)
    system, config = run.system, run.config
    torch.manual_seed(derive_seed(config.training.seed, "random baseline"))
    data = open_trajectories(config.dataset, config.training.seed)
    for name, one in {"encoder": system, "random init": build_system(config).eval()}.items():
        (train, known), (test, asked) = embed(one, data.train), embed(one, data.test)
        print(f"  {name}: {probe(train, test, known, asked)}")
        if name == "encoder":
            read = Ridge(1e-3).fit(train[:, -1].numpy(), known)
    print(f"  raw: {probe(raw(data.train), raw(data.test), known, asked)}")
    longer = open_trajectories(dataclasses.replace(config.dataset, horizon=HORIZON), config.training.seed)
    futures(system, longer.test, read)


if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    for name, options in RUNS.items():
        for seed in asked.seeds:
            folder = asked.out / f"lewm-{name.replace(',', '').replace(' ', '-')}-seed{seed}"
            if not (folder / "model.safetensors").exists():
                jepakit.pretrain("lewm", out=folder, seed=seed, threads=asked.threads, **options)
            print(f"\n## {name}, seed {seed}")
            measure(folder)
