"""`evaluate`: what a run's frozen embeddings are worth, beside a random encoder, raw pixels and PCA."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from rich.console import Console

from jepakit.config import OBJECT, RunConfig
from jepakit.core.batch import concatenate
from jepakit.core.dynamics import Dynamics
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.evaluation.evaluate import evaluate_features
from jepakit.evaluation.features import Features, baseline_features
from jepakit.evaluation.pooling import Pooling
from jepakit.evaluation.rows import Row, table
from jepakit.evaluation.supervised import train_supervised
from jepakit.files import read_json, write_json
from jepakit.interop.embedding import embed_samples
from jepakit.interop.pretrained import Which, build_system, encoder_of, load_run_system, teacher_of
from jepakit.modalities.modality import Data
from jepakit.modalities.trajectories import TrajectoryData
from jepakit.randomness import derive_seed
from jepakit.registry import load_system
from jepakit.report.world_data import check_acting
from jepakit.training.device import choose_device
from jepakit.training.finetuning import FineTuned
from jepakit.training.run_folder import RunFolder
from jepakit.training.weight_files import write_weights
from jepakit.verbs.tuning_evaluation import fresh_encoder, is_cheap, measure_answers
from jepakit.verbs.world_evaluation import measure_world, world_table

FORMAT = 1
MOST_TRAIN, MOST_TEST = 20_000, 10_000  # labelled samples used at most, drawn with the seed
MOST_PICTURES = 2_000, 1_000  # the same for windows of pictures, whose labels are one number of a state


def evaluate(
    run: str | Path,
    *,
    data: Any = None,
    evaluators: Sequence[str] | None = None,
    which: Which = "target",
    pooling: Pooling = "mean",
    supervised: bool = False,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    opened: Data | None = None,
) -> list[Row]:
    """Evaluate a run on its data's held-out part (or on other labelled data); writes `evaluation.json`, prints a table.

    Of a world model also rollout error by horizon, states read off embeddings, and surprise at what cannot happen; they need no
    labels. The probe of the states is kept in `state_probe.safetensors`.

    Args:
        run: the run folder.
        data: other data than the run's, read with the run's options.
        evaluators: "linear", "low-shot-K", "knn-K", "attentive"; None: all that fit but the attentive probe. Of a tuned run the
            answers of its head are measured in any case.
        which: "target" or "encoder".
        pooling: how tokens become one vector.
        supervised: also train the same encoder with labels, from random weights.
        device: where to embed.
        opened: the data already open (as `pretrain` has it).

    Errors: no labels; an unknown evaluator, with the nearest one.
    """
    folder, where = RunFolder(run), choose_device(device)
    system, config = load_run_system(run, where)
    given = config.dataset.data == OBJECT
    modality, dataset = load_system(config.system).modality, config.dataset
    if not isinstance(system, FineTuned):
        dataset = dataclasses.replace(dataset, limit=None)
    if data is not None:
        other = {"labels": None} if hasattr(dataset, "labels") else {}  # a CSV is of the run's own data
        opened = modality.open(dataclasses.replace(dataset, data=str(data), **other), 0)
    elif opened is None and given:
        raise UserError(f"{folder.path} was trained on a data set object, which is not in the run folder: give --data.")
    elif opened is None or (config.dataset.limit != dataset.limit and not given):
        # `limit` is about what was trained on; probes take all labels, so that runs can be compared. Where labels were what was
        # trained on, no probe may have more of them.
        opened = modality.open(dataset, config.training.seed)
    world_model = isinstance(system, Dynamics)
    if opened.task is None and not (world_model and evaluators is None):
        how = "Put images into one sub-folder a class, give --labels a.csv," if modality.name == "images" else "Give labels"
        raise UserError(
            f"{opened.name} has no labels, so there is nothing to evaluate against. {how} or evaluate other data: --data."
        )
    if not len(opened.test):
        raise UserError(f"{opened.name} holds nothing out to evaluate on: test_fraction is 0. Give other data with --data.")
    seed = config.training.seed
    pictures = world_model and len(config.inputs.shape) == 3
    most = MOST_PICTURES if pictures else (MOST_TRAIN, MOST_TEST)
    train, test = (_some(part, number, seed) for part, number in zip((opened.train, opened.test), most, strict=True))
    torch.manual_seed(derive_seed(seed, "random baseline"))
    untrained = build_system(config, teacher_of(config, folder)).to(where).eval()
    rows: list[Row] = []
    if opened.task is not None:
        asked = (evaluators, which, pooling, supervised)
        if isinstance(system, FineTuned) and isinstance(untrained, FineTuned):
            seen = (config.training.steps or 0) * config.training.batch_size
            scratch = partial(_in_chunks, config.inputs.prepare) if supervised or is_cheap(system, train, seen) else None
            rows = measure_answers(system, untrained, (train, test), scratch, seed, where)
        if evaluators is None or evaluators:
            rows = _label_rows(config, (system, untrained), (train, test), opened.task, *asked, where) + rows
    found: dict[str, Any] = {
        "format": FORMAT,
        "command": _command(run, data, evaluators, which, pooling, supervised),
        "data": {"name": opened.name, "train": len(train), "test": len(test), "classes": opened.classes},
        "plain": config.inputs.plain_name,
        "which": which,
        "pooling": pooling,
        "rows": [row.to_dict() for row in rows],
    }
    console = Console(stderr=True)
    if rows:
        console.print(table(rows, title=f"{opened.name}: {len(train):,} train, {len(test):,} test"))
    if isinstance(system, Dynamics) and isinstance(untrained, Dynamics):
        measured, probe, reader = measure_world(system.eval(), untrained, cast(TrajectoryData, opened), seed, where)
        if measured is not None:
            found["world_model"] = {**measured, "planning": _planning(folder)}
            console.print(world_table(measured))
        if probe is not None:
            write_weights(folder.state_probe, {"weight": probe.linear.weight, "bias": probe.linear.bias})
        if reader is not None:
            write_weights(folder.state_reader, reader.state_dict())
    write_json(folder.evaluation, found)
    return rows


def _label_rows(
    config: RunConfig, systems: tuple[System, System], parts: tuple[Any, Any], task: str, evaluators: Sequence[str] | None,
    which: Which, pooling: Pooling, supervised: bool, where: torch.device,
) -> list[Row]:  # fmt: skip
    """Every evaluator on the embeddings of the trained and the untrained system, on the raw input and its PCA."""
    (system, untrained), (train, test), seed = systems, parts, config.training.seed
    tokens = evaluators is not None and "attentive" in evaluators
    encoders = {"encoder": encoder_of(system, which)[0], "random init": encoder_of(untrained, which)[0]}
    if isinstance(untrained, FineTuned):
        encoders["pretrained"] = encoders["random init"]
        encoders["random init"] = fresh_encoder(untrained.encoder, seed).to(where).eval()
    features = []
    for name, encoder in encoders.items():
        found = [embed_samples(encoder, config.inputs, part, device=where, pooling=pooling) for part in (train, test)]
        if tokens:
            found += [embed_samples(encoder, config.inputs, part, device=where, pooling=None) for part in (train, test)]
        features.append(Features(name, *found))
    plain = [_in_chunks(config.inputs.plain, part) for part in (train, test)]
    features += baseline_features(plain[0], plain[1], seed, name=config.inputs.plain_name)
    rows: list[Row] = []
    if supervised:
        prepared = [_in_chunks(config.inputs.prepare, part) for part in (train, test)]
        learned, rows = train_supervised(
            encoders["random init"], prepared[0], train.labels, prepared[1], test.labels, task=task, seed=seed
        )
        features.append(learned)
    return evaluate_features(features, train.labels, test.labels, task, evaluators, seed) + rows


def _planning(folder: RunFolder) -> dict[str, Any] | None:
    """What planning took when the run last acted, None where it never did."""
    if not folder.acting.exists():
        return None
    acted = read_json(folder.acting)
    check_acting(acted, str(folder.acting))
    return {key: acted.get(key) for key in ("env", "planner", "plan_s")}


def _some(dataset: Any, most: int, seed: int) -> Any:
    if len(dataset) <= most:
        return dataset
    return dataset.subset(np.sort(np.random.default_rng(derive_seed(seed, "evaluation")).permutation(len(dataset))[:most]))


def _in_chunks(function: Any, dataset: Any) -> Any:
    """`function(samples)` of a whole data set, 1,024 samples at a time: a tensor, or a dict of tensors."""
    return concatenate(
        [
            function([dataset[i] for i in range(start, min(start + 1024, len(dataset)))])
            for start in range(0, len(dataset), 1024)
        ]
    )


def _command(
    run: str | Path, data: Any, evaluators: Sequence[str] | None, which: str, pooling: str, supervised: bool
) -> str:
    words = ["jepakit", "evaluate", str(run)]
    words += ["--data", str(data)] if data is not None else []
    words += ["--evaluators", *evaluators] if evaluators is not None else []
    words += ["--which", which] if which != "target" else []
    words += ["--pooling", pooling] if pooling != "mean" else []
    words += ["--supervised"] if supervised else []
    return " ".join(map(shlex.quote, words))
