"""A door that may be locked and does not show it: what a latent variable is worth, in prediction and in planning.

    python recipes/stochastic_rooms.py --threads 1 --seeds 0

`pldm` on `two-rooms-stochastic` (x and y of a dot; the nearer of two doors is locked in half of the episodes) without a latent
and with a discrete one of two codes, which share a part of what they are taught, and share none; in fewer updates with a
continuous one of one number with its penalty, of one without, and of as many numbers as an embedding has without. Two tables:

Prediction, on walks of another seed in which the doubtful door is tried, done in both worlds by the simulator. Squared distance
of what is imagined (with a latent: its first guess) from the future with the door open, from that with it locked and from the
mean of the two, as a share of the squared distance of the two futures, over the steps at which they are 3 pixels apart: their
mean is .25 from both. Of each future the distance from the nearest of what is imagined under all z (codes, or 16 draws); the
share of windows in which both futures have one nearer than a quarter of their own distance (1/16 squared); and how often what a
walker saw next has a lower energy than what another one did.

Planning: success over episodes in which the door was open and locked, and the mean distance to the goal on the way, in pixels:
in these models, and in exact ones of x and y, with the simulator as the predictor: what planning over z is worth where nothing
but the door is unknown. Without a latent the exact one's next place is the mean of the two that may come.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeds import arguments
from torch import Tensor, nn

import jepakit
from jepakit.config import read_config
from jepakit.core.dynamics import Dynamics
from jepakit.core.latent import DiscreteLatent, FreeEnergy
from jepakit.core.state import State
from jepakit.core.system import shuffled
from jepakit.evaluation.intervals import wilson
from jepakit.files import read_json, write_json
from jepakit.interop.runs import Run
from jepakit.modalities.trajectories.built_in.two_rooms import TWO_ROOMS, draw_rooms, move, wander
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.nn.tokens import Tokens
from jepakit.randomness import Draws
from jepakit.worlds.acting import PlanningConfig, PlanningPolicy, run_episodes
from jepakit.worlds.environments import make_environment
from jepakit.worlds.planners import make_planner

WORLD = "two-rooms-stochastic"
SHARED: dict[str, Any] = {
    "data": WORLD, "embedding": 128, "horizon": 8, "batch_size": 64, "inverse_hidden": 64, "precision": "float32",
    "final_lr": 0.0, "test_fraction": 0.0,  # what is measured here is on other walks
}  # fmt: skip
STEPS, FEWER = 8_000, 300
CONTINUOUS: dict[str, Any] = {"latent": "continuous", "steps": FEWER}
RUNS: dict[str, dict[str, Any]] = {
    "none": {"steps": STEPS},
    "discrete": {"steps": STEPS, "latent": "discrete"},
    "discrete, none shared": {"steps": STEPS, "latent": "discrete", "latent_shared": 0.0},
    "continuous": {**CONTINUOUS},
    "continuous, no penalty": {**CONTINUOUS, "latent_weight": 0.0},
    "continuous, 128 numbers, no penalty": {**CONTINUOUS, "latent_weight": 0.0, "latent_dim": 128},
}
PLANNED: dict[str, Any] = {
    "planner": "icem", "horizon": 20, "replan": 1, "cost": "nearest", "deviations": 1.4, "std": 2.0,
    "population": 200, "elites": 20, "iterations": 4,
}  # fmt: skip
EPISODES, APART = 40, 3.0
PLANS: list[tuple[str, Any]] = [
    ("none", None), ("discrete", "mean"), ("discrete", "worst"), ("discrete", 0.25), ("discrete, none shared", "worst"),
]  # fmt: skip


def forks(horizon: int, skip: int, episodes: int = 3_000) -> tuple[Tensor, Tensor, Tensor]:
    """Windows that begin one to `horizon / 2` steps of the model before the two worlds part: places of the open and the locked
    door's world `[n, 2, horizon + 1, 2]`, actions `[n, horizon, block]`, and at which steps they lie apart `[n, horizon]`."""
    config, span = TWO_ROOMS[WORLD], horizon * skip
    rooms, places, actions = wander(config, 1, episodes, 91)
    worlds = [dataclasses.replace(rooms, locked=np.full(len(rooms), locked)) for locked in (False, True)]
    paths = [[places[:, 0]], [places[:, 0]]]
    for t in range(90):
        for world, path in zip(worlds, paths, strict=True):
            path.append(move(world, path[-1], actions[:, t], config.door))
    both = np.stack([np.stack(path, 1) for path in paths], 1)
    parted = np.abs(both[:, 0] - both[:, 1]).max(2) > 1e-6
    early = np.random.default_rng(0).integers(1, horizon // 2 + 1, len(both)) * skip
    begin = parted.argmax(1) - early
    fits = np.flatnonzero(parted.any(1) & (begin >= 0) & (begin + span <= 90))
    steps = begin[fits, None] + skip * np.arange(horizon + 1)
    found = both[fits[:, None], :, steps].swapaxes(1, 2)
    blocks = actions[fits[:, None], begin[fits, None] + np.arange(span)].reshape(len(fits), horizon, -1)
    apart = np.hypot(*np.moveaxis(found[:, 0, 1:] - found[:, 1, 1:], 2, 0)) > APART
    kept = apart.any(1)
    return torch.tensor(found[kept]).float(), torch.tensor(blocks[kept]).float(), torch.tensor(apart[kept])


@torch.no_grad()
def prediction(folder: Path) -> dict[str, float]:
    """The first table's row."""
    run = Run(folder)
    system, config = run.system, run.config
    places, blocks, apart = forks(config.dataset.horizon, config.dataset.frame_skip or 1)
    seen = torch.stack([system.encode(system.inputs.normalise(part)).values for part in places.unbind(1)], 1)
    begin, actions, (opened, locked) = seen[:, 0, 0], system.inputs.normalise_actions(blocks), seen[:, :, 1:].unbind(1)
    between = (opened - locked).square().sum(2)

    def distance(imagined: Tensor, future: Tensor) -> Tensor:
        """Of each window, over the steps at which the futures lie apart."""
        return ((imagined - future).square().sum(2) * apart).sum(1) / (between * apart).sum(1)

    guess = system.rollout(State(begin), actions).embeddings
    asked = {"to open": opened, "to locked": locked, "to mean": (opened + locked) / 2}
    row = {name: float(distance(guess, future).mean()) for name, future in asked.items()}
    futures = system.futures(16)
    every = [guess]
    if futures is not None:
        every = [system.rollout(State(begin), actions, z.expand(len(begin), -1)).embeddings for z in futures]
    nearest = torch.stack([torch.stack([distance(one, future) for one in every]).amin(0) for future in (opened, locked)])
    row |= {"nearest to open": float(nearest[0].mean()), "nearest to locked": float(nearest[1].mean())}
    row["both covered"] = float((nearest < 1 / 16).all(0).float().mean())
    row["pairs below"] = pairs_below(system, config.dataset.frame_skip or 1)
    return row


def pairs_below(system: Any, skip: int, count: int = 1_024) -> float:
    """How often what a walker saw next has a lower energy than what another one did."""
    _, places, actions = wander(TWO_ROOMS[WORLD], 1, count, 91)
    begin = np.random.default_rng(0).integers(0, 90 - skip, (count, 1))
    row = np.arange(count)[:, None]
    seen = torch.tensor(places[row, begin + np.array([0, skip])]).float()
    blocks = torch.tensor(actions[row, begin + np.arange(skip)]).float().reshape(count, 1, -1)
    batch = {"inputs": system.inputs.normalise(seen), "actions": system.inputs.normalise_actions(blocks)}
    own, other = (system.energy(batch, partners) for partners in (torch.arange(count), shuffled(count, torch.device("cpu"))))
    return float((own < other).float().mean())


def planning(folder: Path, risk: Any, seed: int) -> dict[str, Any]:
    """The last table's row: what `act` says, episodes with the door open and locked apart."""
    kept = folder / f"acting-{risk}.json"
    if not kept.exists():
        write_json(kept, jepakit.act(folder, env=WORLD, episodes=EPISODES, seed=100 + seed, risk=risk, record=0, **PLANNED))
    return read_json(kept)["rows"]


class Simulator(nn.Module):
    """The world's own moves as a predictor of x and y, `DynamicsPredictor`; z is one-hot: the doubtful door open, or locked."""

    def __init__(self, skip: int):
        super().__init__()
        self.skip, self.unused = skip, nn.Parameter(torch.zeros(1))
        rooms = draw_rooms(TWO_ROOMS[WORLD], Draws(0, "rooms", 0, [0]))
        self.worlds = [dataclasses.replace(rooms, locked=np.array([locked])) for locked in (False, True)]

    def begin(self, embeddings: Tensor, actions: Tensor, lengths: Tensor | None = None) -> Tensor:
        return embeddings[:, -1]

    def advance(self, state: Tensor, action: Tensor, condition: Tensor | None = None) -> Tensor:
        places, moves = state.double().numpy(), action.double().numpy().reshape(len(action), self.skip, 2)
        for step in range(self.skip):
            both = np.stack([move(world, places, moves[:, step]) for world in self.worlds], 1)
            weights = np.full((1, 2), 0.5) if condition is None else condition.double().numpy()
            places = (both * weights[..., None]).sum(1)
        return torch.tensor(places).to(state)

    def embedding(self, state: Tensor) -> Tensor:
        return state


class Itself(nn.Module):
    """Observations are embeddings."""

    def forward(self, inputs: Tensor) -> Tokens:
        return Tokens(inputs, torch.arange(inputs.shape[1])[None, :, None].expand(len(inputs), -1, -1))


def planning_exactly(name: str, risk: Any, seed: int, folder: Path) -> dict[str, Any]:
    """As `act`'s row, planned in the simulator with actions of up to 1.4 pixels each way, as the run's are; kept in its
    folder."""
    kept = folder / f"acting-exactly-{risk}.json"
    if kept.exists():
        return read_json(kept)
    skip = read_config(folder).dataset.frame_skip or 1
    inputs = TrajectoryInputs(
        shape=(2,), mean=(0.0,) * 2, std=(1.0,) * 2, action_mean=(0.0,) * 2 * skip, action_std=(1.0,) * 2 * skip,
        history=1, horizon=1,
    )  # fmt: skip
    free = FreeEnergy(DiscreteLatent(codes=2)) if name != "none" else FreeEnergy()
    model = Dynamics(Itself(), Simulator(skip), free).eval()
    searched = {key: PLANNED[key] for key in ("std", "population", "elites", "iterations")}
    looking = PlanningConfig(
        horizon=PLANNED["horizon"], replan=PLANNED["replan"], cost=PLANNED["cost"], deviations=1.4, risk=risk
    )
    planner = make_planner(PLANNED["planner"], seed=seed, **searched)
    policy = PlanningPolicy(model, inputs, planner, looking, frame_skip=skip)
    spent = time.process_time()
    outcomes = run_episodes(lambda: make_environment(WORLD), policy, EPISODES, 100 + seed, 50)
    steps = sum(one.steps for one in outcomes)
    row = {
        "outcomes": [{"seed": one.seed, "success": one.success, "steps": one.steps} for one in outcomes],
        "reward": float(np.mean([one.reward for one in outcomes])), "steps": steps,
        "cpu_seconds_a_step": (time.process_time() - spent) / steps,
    }  # fmt: skip
    write_json(kept, row)
    return row


def shares(row: dict[str, Any]) -> list[str]:
    """Success of all, with the door open and with it locked, and the mean distance on the way."""
    environment = make_environment(WORLD)
    locked = np.array([bool(environment.reset(seed=one["seed"])[1]["state"][-1]) for one in row["outcomes"]])
    success = np.array([one["success"] for one in row["outcomes"]])
    pooled = wilson(int(success.sum()), len(success))
    cells = [f"{pooled.value:.2f} ({pooled.low:.2f} to {pooled.high:.2f})"]
    cells += [f"{success[part].sum()} of {part.sum()}" for part in (~locked, locked)]
    return [*cells, f"{-row['reward'] * len(success) / row['steps']:.1f}", f"{1e3 * row['cpu_seconds_a_step']:.0f}"]


def trained(name: str, options: dict[str, Any], out: Path, seed: int, threads: int | None) -> Path:
    """The run of this name; what is there is not done again."""
    folder = out / f"stochastic-rooms-{name.replace(',', '').replace(' ', '-')}-seed{seed}"
    if not (folder / "model.safetensors").exists():
        jepakit.pretrain("pldm", out=folder, seed=seed, threads=threads, **SHARED, **options)
    return folder


def main() -> None:
    asked = arguments(__doc__ or "")
    for seed in asked.seeds:
        place = (asked.out, seed, asked.threads)
        folders = {name: trained(name, options, *place) for name, options in RUNS.items()}
        rows = {name: prediction(folder) for name, folder in folders.items()}
        columns = list(rows["none"])
        print(f"\nSeed {seed}\n\n| latent | {' | '.join(columns)} |\n" + "|---" * (1 + len(columns)) + "|")
        for name, row in rows.items():
            print(f"| {name} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")
        print("\n| latent | risk | success | door open | door locked | distance | CPU ms a step |\n" + "|---" * 7 + "|")
        for name, risk in PLANS:
            found = planning(folders[name], risk, seed)
            print(f"| {name} | {risk or ''} | " + " | ".join(shares(found[PLANNED["planner"]])) + " |", flush=True)
            if "none shared" in name:
                continue
            exact = planning_exactly(name, risk, seed, folders[name])
            print(f"| {name}, exact | {risk or ''} | " + " | ".join(shares(exact)) + " |", flush=True)
        for name in ("random", "oracle"):
            print(f"| {name} | | " + " | ".join(shares(found[name])) + " |")


if __name__ == "__main__":
    main()
