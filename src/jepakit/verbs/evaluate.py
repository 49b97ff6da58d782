"""`evaluate`: what a run's frozen embeddings are worth, beside a random encoder, raw pixels and PCA."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from rich.console import Console
from torch import nn

from jepakit.config import OBJECT, RunConfig
from jepakit.core.dynamics import Dynamics
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.evaluation.attentive import AttentiveConfig
from jepakit.evaluation.continuation import CONTINUATION, continuation_rows
from jepakit.evaluation.evaluate import evaluate_features
from jepakit.evaluation.pooling import Pooling
from jepakit.evaluation.rows import Row, table
from jepakit.evaluation.supervised import train_supervised
from jepakit.files import read_json
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
from jepakit.verbs.dense_evaluation import EVALUATORS as DENSE
from jepakit.verbs.dense_evaluation import dense_rows
from jepakit.verbs.probe_features import Reading, clips_of_a_file, frozen_features, in_chunks, labels_of, some
from jepakit.verbs.tuning_evaluation import fresh_encoder, is_cheap, measure_answers
from jepakit.verbs.world_evaluation import measure_world, world_table

FORMAT = 1
MOST_TRAIN, MOST_TEST = 20_000, 10_000  # labelled samples used at most, drawn with the seed
MOST_PICTURES = 2_000, 1_000  # the same for windows of pictures, whose labels are one number of a state


def evaluate(
    run: str | Path,
    *,
    data: Any = None,
    labels: str | None = None,
    evaluators: Sequence[str] | None = None,
    which: Which = "target",
    pooling: Pooling = "mean",
    levels: tuple[int, ...] | None = None,
    seen: int | None = None,
    ahead: int | None = None,
    supervised: bool = False,
    attentive: AttentiveConfig = AttentiveConfig(),  # noqa: B008  (frozen)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    opened: Data | None = None,
) -> list[Row]:
    """Evaluate a run on its data's held-out part (or on other labelled data); adds to `evaluation.json`, prints a table.

    Of a world model also rollout error by horizon, states read off embeddings, and surprise at what cannot happen; they need no
    labels. The probe of the states is kept in `state_probe.safetensors`.

    Args:
        run: the run folder.
        data: other data than the run's, read with the run's options.
        labels: other labels than the run's, as `pretrain` takes them. For segmentation and depth label maps: a .npy with one
            for each sample, in the data's order, a folder with one for each picture (.png, .npy), or of bouncing digits "mask".
        evaluators: "linear", "low-shot-K", "knn-K", "attentive", "attentive-N"; None: all that fit but the attentive probes.
            Or, of label maps, "segmentation" (whole numbers) or "depth" (floats). Of masked systems of clips also, without
            labels, "continuation": whether what came next has less energy than what did not. Of a tuned run the answers of its
            head are measured in any case, where the labels are its own.
        which: "target" or "encoder".
        pooling: how tokens become one vector.
        levels: blocks of the encoder (1-based, its depth the last) whose tokens are read side by side; None: the last.
        seen: frames of a clip that the encoder sees; the predictor is asked for those ahead, and every evaluator is given the
            encoder's tokens with and without the predictor's. None: all of them.
        ahead: frames after those seen that the predictor is asked for; None: the rest of the clip.
        supervised: also train the same encoder with labels, from random weights.
        attentive: how attentive probes are trained.
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
        dataset = dataclasses.replace(dataset, data=str(data), **other)
    dense = [name for name in evaluators or () if name in DENSE]
    if dense and (labels is None or len(dense) < len(evaluators or ())):
        other_names = [name for name in evaluators or () if name not in DENSE]
        asked_too = f" and not by {', '.join(other_names)}, which can be asked for by itself" if other_names else ""
        raise UserError(f"{dense[0]} is measured by label maps{asked_too}. Give them: --labels maps.npy.")
    if labels is not None and not dense:
        if not hasattr(dataset, "labels"):
            raise UserError(f"labels: those of {modality.name} are in the data. Leave --labels out.")
        dataset = dataclasses.replace(dataset, labels=labels)
    if data is not None:
        opened = modality.open(dataset, 0)
    elif opened is None and given:
        raise UserError(f"{folder.path} was trained on a data set object, which is not in the run folder: give --data.")
    elif opened is None or ((config.dataset.limit != dataset.limit or (labels is not None and not dense)) and not given):
        # `limit` is about what was trained on; probes take all labels, so that runs can be compared. Where labels were what was
        # trained on, no probe may have more of them.
        opened = modality.open(dataset, config.training.seed)
    world_model, asked_for = isinstance(system, Dynamics), evaluators
    if evaluators is not None:
        evaluators = [name for name in evaluators if name != CONTINUATION]
    continues = asked_for is not None and CONTINUATION in asked_for
    unlabelled = (world_model and evaluators is None) or (continues and not evaluators)
    if opened.task is None and not dense and not unlabelled:
        how = "Put images into one sub-folder a class, give --labels a.csv," if modality.name == "images" else "Give labels"
        raise UserError(
            f"{opened.name} has no labels, so there is nothing to evaluate against. {how} or evaluate other data: --data."
        )
    if not len(opened.test):
        raise UserError(f"{opened.name} holds nothing out to evaluate on: test_fraction is 0. Give other data with --data.")
    seed = config.training.seed
    pictures = world_model and len(config.inputs.shape) == 3
    most = MOST_PICTURES if pictures else (MOST_TRAIN, MOST_TEST)
    together = clips_of_a_file(opened.train, opened.config)
    together = together if clips_of_a_file(opened.test, opened.config) == together else 1
    train, test = (some(part, number, seed, together) for part, number in zip((opened.train, opened.test), most, strict=True))
    reading = Reading(
        pooling=pooling,
        tokens=any(name.startswith("attentive") for name in evaluators or ()),
        levels=levels,
        seen=seen,
        ahead=ahead,
        together=together,
    )
    counts = len(train) // together, len(test) // together
    torch.manual_seed(derive_seed(seed, "random baseline"))
    untrained = build_system(config, teacher_of(config, folder)).to(where).eval()
    rows: list[Row] = []
    if dense:
        if reading.anticipates:
            raise UserError(f"{dense[0]} is of what is seen. Leave seen and ahead out.")
        encoders = _encoders((system, untrained), which, where, seed)
        rows, counts = dense_rows(encoders, config.inputs, opened, dense, str(labels), levels, where, seed)
    elif opened.task is not None:
        if isinstance(system, FineTuned) and isinstance(untrained, FineTuned) and labels is None:
            shown = (config.training.steps or 0) * config.training.batch_size
            scratch = partial(in_chunks, config.inputs.prepare) if supervised or is_cheap(system.inputs, train, shown) else None
            rows = measure_answers(system, untrained, (train, test), scratch, seed, where)
        if evaluators is None or evaluators:
            asked = (evaluators, which, reading, supervised, attentive)
            rows = _label_rows(config, (system, untrained), (train, test), opened.task, *asked, where) + rows
    if continues:
        for name, one in (("encoder", system), ("random init", untrained)):
            rows += continuation_rows(one.eval(), test, name, where)
    found: dict[str, Any] = {
        "format": FORMAT,
        "command": _command(run, data, labels, asked_for, which, reading, supervised, attentive),
        "question": _command(".", data, labels, None, which, reading, supervised, attentive),
        "step": max((line.get("step", 0) for line in folder.read_metrics()), default=0),
        "data": {"name": opened.name, "train": counts[0], "test": counts[1], "classes": opened.classes},
        "plain": config.inputs.plain_name,
        "which": which,
        "pooling": pooling,
        "rows": [row.to_dict() for row in rows],
    }
    console = Console(stderr=True)
    if rows:
        console.print(table(rows, title=f"{opened.name}: {counts[0]:,} train, {counts[1]:,} test"))
    if not dense and isinstance(system, Dynamics) and isinstance(untrained, Dynamics):
        measured, probe, reader = measure_world(system.eval(), untrained, cast(TrajectoryData, opened), seed, where)
        if measured is not None:
            found["world_model"] = {**measured, "planning": _planning(folder)}
            console.print(world_table(measured))
        if probe is not None:
            write_weights(folder.state_probe, {"weight": probe.linear.weight, "bias": probe.linear.bias})
        if reader is not None:
            write_weights(folder.state_reader, reader.state_dict())
    folder.write_evaluation(found)
    return rows


def _encoders(systems: tuple[System, System], which: Which, where: torch.device, seed: int) -> dict[str, nn.Module]:
    """Of the trained and of the untrained system; a tuned one begins with a pretrained encoder, which is compared, too."""
    system, untrained = systems
    encoders = {"encoder": encoder_of(system, which)[0], "random init": encoder_of(untrained, which)[0]}
    if isinstance(untrained, FineTuned):
        encoders["pretrained"] = encoders["random init"]
        encoders["random init"] = fresh_encoder(untrained.encoder, seed).to(where).eval()
    return encoders


def _label_rows(
    config: RunConfig, systems: tuple[System, System], parts: tuple[Any, Any], task: str, evaluators: Sequence[str] | None,
    which: Which, reading: Reading, supervised: bool, attentive: AttentiveConfig, where: torch.device,
) -> list[Row]:  # fmt: skip
    """Every evaluator on the embeddings of the trained and the untrained system, on the raw input and its PCA."""
    (train, test), seed = parts, config.training.seed
    encoders = _encoders(systems, which, where, seed)
    predictor = getattr(systems[0], "predictor", None)
    features = frozen_features(encoders, predictor, config.inputs, parts, reading, where, seed)
    rows: list[Row] = []
    if supervised:
        if reading.anticipates or reading.together > 1:
            raise UserError("supervised is of whole samples, not of a part of a clip or of several. Leave it out.")
        prepared = [in_chunks(config.inputs.prepare, part) for part in (train, test)]
        learned, rows = train_supervised(
            encoders["random init"], prepared[0], train.labels, prepared[1], test.labels, task=task, seed=seed
        )
        features.append(learned)
    labels = [labels_of(part, reading.together) for part in parts]
    ahead = reading.anticipates
    return evaluate_features(features, labels[0], labels[1], task, evaluators, seed, attentive=attentive, ahead=ahead) + rows


def _planning(folder: RunFolder) -> dict[str, Any] | None:
    """What planning took when the run last acted, None where it never did."""
    if not folder.acting.exists():
        return None
    acted = read_json(folder.acting)
    check_acting(acted, str(folder.acting))
    return {key: acted.get(key) for key in ("env", "planner", "plan_s")}


def _command(
    run: str | Path, data: Any, labels: str | None, evaluators: Sequence[str] | None, which: str, reading: Reading,
    supervised: bool, attentive: AttentiveConfig,
) -> str:  # fmt: skip
    words = ["jepakit", "evaluate", str(run)]
    words += ["--data", str(data)] if data is not None else []
    words += ["--labels", labels] if labels is not None else []
    words += ["--evaluators", *evaluators] if evaluators is not None else []
    words += ["--which", which] if which != "target" else []
    words += ["--pooling", reading.pooling] if reading.pooling != "mean" else []
    words += ["--levels", *map(str, reading.levels)] if reading.levels is not None else []
    words += ["--seen", str(reading.seen)] if reading.seen is not None else []
    words += ["--ahead", str(reading.ahead)] if reading.ahead is not None else []
    words += ["--supervised"] if supervised else []
    for field in dataclasses.fields(attentive):
        value = getattr(attentive, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--attentive.{field.name.replace('_', '-')}", *map(str, values)]
    return " ".join(map(shlex.quote, words))
