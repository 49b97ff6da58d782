"""What a world model is worth on held-out recordings: rollouts, states read off embeddings, surprise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from jepakit.core.batch import map_tensors
from jepakit.core.dynamics import Dynamics
from jepakit.evaluation.evaluated_model import EvaluatedModel
from jepakit.evaluation.evaluators.evaluator import EvaluationOptions, Evaluator, Measured, When
from jepakit.evaluation.evaluators.windows import (
    HORIZON,
    MOST,
    EmbeddedWindows,
    anothers,
    embed_windows,
    imagine,
    observations_of,
)
from jepakit.evaluation.features import baseline_features
from jepakit.evaluation.intervals import Interval
from jepakit.evaluation.rollout_error import LinearDynamics, compare_rollouts
from jepakit.evaluation.rows import Row
from jepakit.evaluation.state_probe import StateProbe, probe_rows, varying
from jepakit.evaluation.surprise import QUANTILES, opposite, prediction_error, spread_of, surprise_auc
from jepakit.files import read_json
from jepakit.modalities.modality import Data, HasWindows
from jepakit.modalities.modality import Windows as DataWindows
from jepakit.pages.world_data import check_acting
from jepakit.randomness import derive_seed
from jepakit.training.run_folder import RunFolder
from jepakit.worlds.agent.network import NetworkConfig, Standardised, fitted

FORMAT = 1
FEWEST = 8  # held-out windows, below which nothing is measured
FRAMES = 2_048  # observations of each part whose states are probed
NETWORK = 1_024  # numbers of a feature at most for a network to read it: above, its PCA stands for it


class WorldEvaluator(Evaluator):
    """A world model on windows of its data, of any modality: rollout error by horizon, states read off embeddings, surprise.

    It has no rows but a section of `evaluation.json`, "world_model", and keeps the probe of the states and the network that
    agents read states with in the run folder.
    """

    when: ClassVar[When] = "always"

    def fits(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> str | None:
        if model.system is None or model.system.world_model is None:
            return "world: only a world model imagines what comes next (pldm, lewm, ...). Leave it out."
        if not isinstance(data, HasWindows):
            return (
                f"world: {data.name} gives no windows to imagine. Its modality's data needs windows(horizon, most, seed), see "
                "jepakit.modalities.modality.HasWindows."
            )
        return None

    def rows(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> list[Row]:
        return []

    def measure(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> Measured:
        """Return the section with a table, and the tensors to keep; nothing where there are too few held-out windows."""
        trained, untrained = (system.world_model for system in model.systems.values())
        assert isinstance(data, HasWindows)  # or it would not fit
        windows = data.windows(HORIZON, MOST, model.seed)
        if min(map(len, windows)) < FEWEST:
            return Measured()
        section, probe, reader = measure_world(trained, untrained, windows, model.seed, model.device)
        weights: dict[str, dict[str, Tensor]] = {}
        if probe is not None:
            weights["state_probe"] = {"weight": probe.linear.weight, "bias": probe.linear.bias}
        if reader is not None:
            weights["state_reader"] = reader.state_dict()
        section["planning"] = _planning(RunFolder(model.path))
        return Measured(sections={"world_model": section}, weights=weights, tables=[world_table(section)])


def _planning(folder: RunFolder) -> dict[str, Any] | None:
    """What planning took when the run last acted, None where it never did."""
    if not folder.acting.exists():
        return None
    acted = read_json(folder.acting)
    check_acting(acted, str(folder.acting))
    return {key: acted.get(key) for key in ("env", "planner", "plan_s")}


def measure_world(
    system: Dynamics, untrained: Dynamics, windows: tuple[DataWindows, DataWindows], seed: int, device: torch.device
) -> tuple[dict[str, Any], StateProbe | None, Standardised | None]:
    """Return what `evaluation.json` holds under "world_model", the probe of the states fitted on training windows, and the
    network that agents read states with; no probe and no network where there are no states.

    windows: of the training and of the held-out part.
    """
    train, test = (embed_windows(system, part, device) for part in windows)
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
    section = {
        "format": FORMAT,
        "windows": {"train": len(train), "test": len(test)},
        "episodes": {"train": len(np.unique(train.owners)), "test": len(np.unique(test.owners))},
        "history": test.history,
        "frame_skip": test.windows.frame_skip,
        "rollout": compare_rollouts(candidates, test.after, test.owners, seed),
        "state": None if probe is None else _states(probe, system, untrained, train, test, candidates, seed, device),
        "surprise": _surprise(system, test, imagined, other, seed, device),
    }
    return section, probe, None if probe is None else _reader(system, train, seed, device)


def _reader(system: Dynamics, train: EmbeddedWindows, seed: int, device: torch.device) -> Standardised:
    """Reads states off embeddings that were seen and off imagined ones alike: it is fitted on both, of training windows."""
    imagined = imagine(system, train, train.ahead, device)
    states = torch.from_numpy(train.flat_states).float().unflatten(0, train.embeddings.shape[:2])
    x = torch.cat([train.embeddings.flatten(0, 1), imagined.flatten(0, 1)]).float().cpu()
    y = torch.cat([states.flatten(0, 1), states[:, train.history :].flatten(0, 1)])
    return fitted(x, y, NetworkConfig(hidden=(128,), steps=1500), derive_seed(seed, "state reader"))


def _whose(other: Tensor) -> list[tuple[str, Tensor]]:
    return [("own", torch.arange(len(other))), ("another's", other)]


def _states(
    probe: StateProbe, system: Dynamics, untrained: Dynamics, train: EmbeddedWindows, test: EmbeddedWindows,
    candidates: dict[str, Tensor], seed: int, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Probes of the state from one embedding, and of imagined states by horizon."""
    known = varying(train.flat_states)
    parts = (train, test)
    picked = [_some(part, derive_seed(seed, "frames", name)) for part, name in zip(parts, ("train", "test"), strict=True)]
    taught, true_states = (part.flat_states[chosen] for part, chosen in zip(parts, picked, strict=True))
    episodes = np.repeat(test.owners, test.embeddings.shape[1])[picked[1]]
    ours = [part.embeddings.flatten(0, 1)[torch.from_numpy(chosen)] for part, chosen in zip(parts, picked, strict=True)]
    random, raw = [], []
    for part, chosen in zip(parts, picked, strict=True):
        embedded, plain = [], []
        for samples in observations_of(part, chosen):
            embedded.append(_newest(untrained, system.inputs.prepare(samples), device))
            plain.append(system.inputs.plain(samples))
        random.append(torch.cat(embedded))
        raw.append(torch.cat(plain))
    features: dict[str, Sequence[Tensor]] = {"encoder": ours, "random init": random, "observation": raw}
    if raw[0].shape[1] > 8:
        pca = baseline_features(raw[0], raw[1], seed)[1]
        features["pca"] = (pca.train, pca.test)
    rows = []
    for name, (first, second) in features.items():
        small = first.shape[1] <= NETWORK
        rows += probe_rows(name, first, taught, second, true_states, episodes, network=small, seed=seed)
    true = test.flat_states.reshape(*test.embeddings.shape[:2], -1)[:, test.history :]
    read = {name: probe(value) for name, value in candidates.items() if name in ("model", "nothing moves", "linear")}
    read["true embedding"] = probe(test.after)
    return {
        "variables": list(test.windows.state_names),
        "varies": known.tolist(),
        "spread": test.flat_states.std(0).tolist(),
        "interval": "95 % bootstrap over episodes",
        "rows": rows,
        "imagined": {
            "unit": "mean absolute error of a linear probe, in the state's units",
            "curves": {name: np.abs(value - true).mean(0).T.tolist() for name, value in read.items()},
        },
    }


@torch.no_grad()
def _newest(system: Dynamics, inputs: Any, device: torch.device) -> Float[Tensor, "n dim"]:
    """Embeddings of the newest observations of some samples, on the CPU."""
    values = system.encode(map_tensors(lambda tensor: tensor.to(device), inputs)).values
    return values[:, -1].flatten(1).float().cpu()


def _some(windows: EmbeddedWindows, seed: int) -> np.ndarray:
    """Some observations of all windows."""
    count = windows.embeddings.shape[0] * windows.embeddings.shape[1]
    return np.sort(np.random.default_rng(seed).permutation(count)[:FRAMES])


def _surprise(
    system: Dynamics, test: EmbeddedWindows, imagined: dict[str, Tensor], other: Tensor, seed: int, device: torch.device
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
    everyone = torch.ones(len(test), dtype=torch.bool)
    scale, far = system.inputs.action_scale, everyone
    if scale is not None and float((test.ahead * scale[1] + scale[0]).amin()) < 0:  # a code of ones has no opposite
        turned, far = opposite(test.ahead[:, 0], *scale)
        if int(far.sum()) >= FEWEST:
            events["reversed action"] = (imagine(system, test, turned[:, None], device)[:, 0], seen)
    ordinary, change = prediction_error(expected, seen), prediction_error(before, seen)
    middle = float(np.median(ordinary))
    measured: dict[str, Any] = {}
    for name, (predicted, shown) in events.items():
        rows = (far if name == "reversed action" else everyone).numpy()
        errors, moved = prediction_error(predicted, shown), prediction_error(before, shown)
        episodes = test.owners[rows]
        measured[name] = {
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
        "events": measured,
    }


def _auc(interval: Interval) -> dict[str, float]:
    return {"auc": interval.value, "low": interval.low, "high": interval.high}


def world_table(section: dict[str, Any]) -> Table:
    """Rollout error at some horizons, and surprise, for the terminal."""
    rollout = section["rollout"]
    shown = [h for h in rollout["horizons"] if h & (h - 1) == 0]
    counts = f"{section['windows']['test']} windows of {section['episodes']['test']} held-out episodes"
    events = "; ".join(f"{name} {event['auc']:.2f}" for name, event in section["surprise"]["events"].items())
    table = Table(title=f"Rollout error after n actions: {counts}", caption=f"Surprise, area under ROC: {events}")
    table.add_column("")
    for horizon in shown:
        table.add_column(str(horizon), justify="right")
    for name, curve in rollout["curves"].items():
        table.add_row(name, *(f"{curve['error'][h - 1]:.3f}" for h in shown))
    return table
