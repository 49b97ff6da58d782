"""What a world model is worth on held-out episodes: rollouts, states read off embeddings, surprise; for `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.evaluation.features import baseline_features
from jepakit.evaluation.intervals import Interval
from jepakit.evaluation.rollout_error import LinearDynamics, compare_rollouts
from jepakit.evaluation.state_probe import StateProbe, probe_rows, varying
from jepakit.evaluation.surprise import QUANTILES, opposite, prediction_error, spread_of, surprise_auc
from jepakit.modalities.trajectories.built_in import pendulum, two_rooms
from jepakit.modalities.trajectories.data import TrajectoryData
from jepakit.randomness import derive_seed
from jepakit.verbs.world_windows import Windows, anothers, choose_windows, embed_windows, frames_of, imagine
from jepakit.worlds.agent.network import NetworkConfig, Standardised, fitted

FORMAT = 1
FEWEST = 8  # held-out windows, below which nothing is measured
FRAMES = 2_048  # observations of each part whose states are probed
NETWORK = 1_024  # numbers of a feature at most for a network to read it: above, its PCA stands for it
_NAMES = {
    "pendulum": pendulum.STATE_NAMES,
    "two-rooms": two_rooms.STATE_NAMES,
    "two-rooms-stochastic": two_rooms.STOCHASTIC_NAMES,
    "two-rooms-two-doors": two_rooms.STOCHASTIC_NAMES,
    "two-rooms-either-door": two_rooms.STOCHASTIC_NAMES,
}


def measure_world(
    system: Dynamics, untrained: Dynamics, data: TrajectoryData, seed: int, device: torch.device
) -> tuple[dict[str, Any] | None, StateProbe | None, Standardised | None]:
    """What `evaluation.json` holds under "world_model", the probe of the states fitted on training episodes, and the network
    that agents read states with.

    None where there are too few held-out windows; no probe and no network where there are no states.
    """
    chosen = choose_windows(data, seed)
    if len(chosen[1]) < FEWEST or len(chosen[0]) < FEWEST:
        return None, None, None
    train, test = (embed_windows(system, part, device) for part in chosen)
    other = anothers(test, seed)
    imagined = {name: imagine(system, test, test.ahead[o], device) for name, o in _whose(other)}
    linear = LinearDynamics.fit(train.embeddings, train.actions, derive_seed(seed, "linear model"))
    plain = {name: linear.rollout(test.start, test.ahead[o]) for name, o in _whose(other)}
    candidates = {
        "model": imagined["own"],
        "model, another's actions": imagined["another's"],
        "nothing moves": test.start[:, None].expand_as(test.after),
        "linear": plain["own"],
        "linear, another's actions": plain["another's"],
    }
    probe = None if train.states is None else StateProbe.fit(train.embeddings.flatten(0, 1), train.flat_states)
    found = {
        "format": FORMAT,
        "windows": {"train": len(train), "test": len(test)},
        "episodes": {"train": len(np.unique(train.episodes)), "test": len(np.unique(test.episodes))},
        "history": test.history,
        "frame_skip": data.config.frame_skip or 1,
        "rollout": compare_rollouts(candidates, test.after, test.episodes, seed),
        "state": None if probe is None else _states(probe, system, untrained, data, train, test, candidates, seed, device),
        "surprise": _surprise(system, test, imagined, other, seed, device),
    }
    return found, probe, None if probe is None else _reader(system, train, seed, device)


def _reader(system: Dynamics, train: Windows, seed: int, device: torch.device) -> Standardised:
    """Reads states off embeddings that were seen and off imagined ones alike: it is fitted on both, of training windows."""
    imagined = imagine(system, train, train.ahead, device)
    states = torch.from_numpy(train.flat_states).float().unflatten(0, train.embeddings.shape[:2])
    x = torch.cat([train.embeddings.flatten(0, 1), imagined.flatten(0, 1)]).float().cpu()
    y = torch.cat([states.flatten(0, 1), states[:, train.history :].flatten(0, 1)])
    return fitted(x, y, NetworkConfig(hidden=(128,), steps=1500), derive_seed(seed, "state reader"))


def _whose(other: Tensor) -> list[tuple[str, Tensor]]:
    return [("own", torch.arange(len(other))), ("another's", other)]


def state_names(data: TrajectoryData) -> list[str]:
    """What the variables of a state are called, where the data says so."""
    states, store = data.train.episodes.states, data.train.episodes.store
    count = 0 if states is None else states.shape[1]
    said = _NAMES.get(data.kind.removesuffix("-fixed").removesuffix("-pixels"), ())
    if store is not None and isinstance(store.about.get("state_names"), list):
        said = tuple(str(name) for name in store.about["state_names"])
    return list(said) if len(said) == count else [f"state {number}" for number in range(count)]


def _states(
    probe: StateProbe, system: Dynamics, untrained: Dynamics, data: TrajectoryData, train: Windows, test: Windows,
    candidates: dict[str, Tensor], seed: int, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Probes of the state from one embedding, and of imagined states by horizon."""
    known = varying(train.flat_states)
    picked = [_some(part, derive_seed(seed, "frames", name)) for name, part in (("train", train), ("test", test))]
    wanted, asked = (part.flat_states[chosen] for part, chosen in zip((train, test), picked, strict=True))
    episodes = np.repeat(test.episodes, test.embeddings.shape[1])[picked[1]]
    ours = [part.embeddings.flatten(0, 1)[torch.from_numpy(chosen)] for part, chosen in zip((train, test), picked, strict=True)]
    inputs: Any = system.inputs
    random, raw = [], []
    for part, chosen in zip((train, test), picked, strict=True):
        with torch.no_grad():
            each = [
                (untrained.encode(inputs.prepare(some).to(device)).values.flatten(1).float().cpu(), inputs.plain(some))
                for some in frames_of(part, chosen)
            ]
        random.append(torch.cat([one for one, _ in each]))
        raw.append(torch.cat([one for _, one in each]))
    features: dict[str, Sequence[Tensor]] = {"encoder": ours, "random init": random, "observation": raw}
    if raw[0].shape[1] > 8:
        pca = baseline_features(raw[0], raw[1], seed)[1]
        features["pca"] = (pca.train, pca.test)
    rows = []
    for name, (first, second) in features.items():
        small = first.shape[1] <= NETWORK
        rows += probe_rows(name, first, wanted, second, asked, episodes, network=small, seed=seed)
    true = test.flat_states.reshape(*test.embeddings.shape[:2], -1)[:, test.history :]
    read = {name: probe(value) for name, value in candidates.items() if name in ("model", "nothing moves", "linear")}
    read["true embedding"] = probe(test.after)
    return {
        "variables": state_names(data),
        "varies": known.tolist(),
        "spread": test.flat_states.std(0).tolist(),
        "interval": "95 % bootstrap over episodes",
        "rows": rows,
        "imagined": {
            "unit": "mean absolute error of a linear probe, in the state's units",
            "curves": {name: np.abs(value - true).mean(0).T.tolist() for name, value in read.items()},
        },
    }


def _some(windows: Windows, seed: int) -> np.ndarray:
    """Some observations of all windows."""
    count = windows.embeddings.shape[0] * windows.embeddings.shape[1]
    return np.sort(np.random.default_rng(seed).permutation(count)[:FRAMES])


def _surprise(
    system: Dynamics, test: Windows, imagined: dict[str, Tensor], other: Tensor, seed: int, device: torch.device
) -> dict[str, Any]:
    """Error of one predicted step where what follows cannot, against what did; beside how much the embedding changes."""
    expected, seen, before = imagined["own"][:, 0], test.after[:, 0], test.start
    events: dict[str, tuple[Tensor, Tensor]] = {
        "another scene": (expected, seen[other]),
        "frozen": (expected, before),
        "another's action": (imagined["another's"][:, 0], seen),
    }
    if test.after.shape[1] > 1:
        events = {"skips ahead": (expected, test.after[:, -1]), **events}
    inputs: Any = system.inputs
    scale = (torch.tensor(inputs.action_mean), torch.tensor(inputs.action_std))
    turned, far = opposite(test.ahead[:, 0], *scale)
    everyone = torch.ones(len(test), dtype=torch.bool)
    if float((test.ahead * scale[1] + scale[0]).amin()) < 0 and int(far.sum()) >= FEWEST:  # a code of ones has no opposite
        events["reversed action"] = (imagine(system, test, turned[:, None], device)[:, 0], seen)
    ordinary, change = prediction_error(expected, seen), prediction_error(before, seen)
    middle = float(np.median(ordinary))
    found: dict[str, Any] = {}
    for name, (predicted, shown) in events.items():
        rows = (far if name == "reversed action" else everyone).numpy()
        errors, moved = prediction_error(predicted, shown), prediction_error(before, shown)
        episodes = test.episodes[rows]
        found[name] = {
            "windows": int(rows.sum()),
            **_auc(surprise_auc(ordinary[rows], errors[rows], episodes, seed)),
            "errors": spread_of(errors[rows], middle),
            "change": _auc(surprise_auc(change[rows], moved[rows], episodes, seed)),
        }
    return {
        "interval": "95 % bootstrap over episodes",
        "unit": "the median error of ordinary steps",
        "quantiles": list(QUANTILES),
        "ordinary": spread_of(ordinary, middle),
        "events": found,
    }


def _auc(found: Interval) -> dict[str, float]:
    return {"auc": found.value, "low": found.low, "high": found.high}


def world_table(found: dict[str, Any]) -> Table:
    """Rollout error at some horizons, and surprise, for the terminal."""
    rollout = found["rollout"]
    shown = [h for h in rollout["horizons"] if h & (h - 1) == 0]
    counts = f"{found['windows']['test']} windows of {found['episodes']['test']} held-out episodes"
    events = "; ".join(f"{name} {event['auc']:.2f}" for name, event in found["surprise"]["events"].items())
    table = Table(title=f"Rollout error after n actions: {counts}", caption=f"Surprise, area under ROC: {events}")
    table.add_column("")
    for horizon in shown:
        table.add_column(str(horizon), justify="right")
    for name, curve in rollout["curves"].items():
        table.add_row(name, *(f"{curve['error'][h - 1]:.3f}" for h in shown))
    return table
