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

from jepakit.core.dynamics import Dynamics
from jepakit.device import choose_device
from jepakit.errors import UserError, check_range
from jepakit.evaluation.attentive import AttentiveConfig
from jepakit.evaluation.continuation import CONTINUATION, continuation_rows
from jepakit.evaluation.document import add_evaluation
from jepakit.evaluation.evaluate import OTHERS, Evaluator, evaluate_features
from jepakit.evaluation.flow_error import FLOW, flow_rows
from jepakit.evaluation.pooling import Pooling
from jepakit.evaluation.rows import Row, table
from jepakit.evaluation.supervised import train_supervised
from jepakit.files import read_json
from jepakit.interop.encoder import Which
from jepakit.interop.runs import Run, is_run
from jepakit.modalities.modality import remarks
from jepakit.modalities.trajectories.data import TrajectoryData
from jepakit.pages.world_data import check_acting
from jepakit.training.finetuning import FineTuned
from jepakit.training.run_folder import RunFolder
from jepakit.training.weight_files import write_weights
from jepakit.verbs.dense_evaluation import EVALUATORS as DENSE
from jepakit.verbs.dense_evaluation import dense_rows
from jepakit.verbs.probe_features import Reading, clips_of_a_file, frozen_features, in_chunks, labels_of, some
from jepakit.verbs.subjects import Subject, finds_flow, flows_of, of_run, of_weights, open_data
from jepakit.verbs.tuning_evaluation import is_cheap, measure_answers
from jepakit.verbs.world_evaluation import measure_world, world_table

FORMAT = 1
MOST_TRAIN, MOST_TEST = 20_000, 10_000  # labelled samples used at most, drawn with the seed
MOST_PICTURES = 2_000, 1_000  # the same for windows of pictures, whose labels are one number of a state


def evaluate(
    run: str | Path | Run,
    *,
    data: Any = None,
    labels: str | None = None,
    evaluators: Sequence[str] | None = None,
    which: Which | None = None,
    pooling: Pooling = "mean",
    levels: tuple[int, ...] | None = None,
    seen: int | None = None,
    ahead: int | None = None,
    limit: int | None = None,
    supervised: bool = False,
    attentive: AttentiveConfig = AttentiveConfig(),  # noqa: B008  (frozen)
    out: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> list[Row]:
    """Evaluate a run on its data's held-out part, or any encoder on labelled data; adds to `evaluation.json`, prints a table.

    Of a world model also rollout error by horizon, states read off embeddings, and surprise at what cannot happen; they need no
    labels. The probe of the states is kept in `state_probe.safetensors`.

    Args:
        run: the run folder, or that run, opened; with data also a folder that `export` wrote, or released weights (see
            `jepakit.load`).
        data: other data than the run's, read with the run's options.
        labels: other labels than the run's, as `pretrain` takes them. For segmentation and depth label maps: a .npy with one
            for each sample, in the data's order, a folder with one for each picture (.png, .npy), or of bouncing digits "mask".
        evaluators: "linear", "low-shot-K", "knn-K", "attentive", "attentive-N"; None: all that fit but the attentive probes.
            Or, of label maps, "segmentation" (whole numbers) or "depth" (floats). Of masked systems of clips also, without
            labels, "continuation": whether what came next has less energy than what did not; of mc-jepa "flow": the end-point
            error, where the motion is known. Of a tuned run the answers of its
            head are measured in any case, where the labels are its own.
        which: "target" or "encoder"; None: the target, or what a file holds.
        pooling: how tokens become one vector.
        levels: blocks of the encoder (1-based, its depth the last) whose tokens are read side by side; None: the last.
        seen: frames of a clip that the encoder sees; the predictor is asked for those ahead, and every evaluator is given the
            encoder's tokens with and without the predictor's. None: all of them.
        ahead: frames after those seen that the predictor is asked for; None: the rest of the clip.
        limit: labelled samples that probes learn from, drawn with the seed; None: all (at most 20,000).
        supervised: also train the same encoder with labels, from random weights.
        attentive: how attentive probes are trained.
        out: a .json file to add to; None: the run's evaluation.json, and of weights that are no run the table alone.
        device: where to embed.

    Errors: no labels; an unknown evaluator, with the nearest one.
    """
    where = run.device if isinstance(run, Run) else choose_device(device)
    if out is not None and Path(out).suffix != ".json":
        raise UserError(f"out is the .json file to add to, got {out}. Call it {out}.json, for one.")
    if not isinstance(run, Run) and is_run(Path(run)):
        run = Run(run, where)
    of_a_run, path = isinstance(run, Run), run.path if isinstance(run, Run) else Path(run)
    subject = of_run(run, which) if isinstance(run, Run) else of_weights(path, which, where, data)
    for name in evaluators or ():
        if name not in OTHERS:
            Evaluator.parse(name)
    dense = [name for name in evaluators or () if name in DENSE]
    if dense and (labels is None or len(dense) < len(evaluators or ())):
        other_names = [name for name in evaluators or () if name not in DENSE]
        asked_too = f" and not by {', '.join(other_names)}, which can be asked for by itself" if other_names else ""
        raise UserError(f"{dense[0]} is measured by label maps{asked_too}. Give them: --labels maps.npy.")
    console = Console(stderr=True)
    opened = open_data(subject, data, None if dense else labels, run.opened_data if isinstance(run, Run) else None)
    for remark in remarks(opened) if data is not None else ():
        console.print(remark, markup=False, emoji=False, highlight=False, soft_wrap=True)
    world_model, asked_for = isinstance(subject.system, Dynamics), evaluators
    if evaluators is not None:
        evaluators = [name for name in evaluators if name not in (CONTINUATION, FLOW)]
    continues = asked_for is not None and CONTINUATION in asked_for
    flows = finds_flow(subject.system, opened) if asked_for is None else FLOW in asked_for
    unlabelled = (world_model and evaluators is None) or ((continues or flows) and not evaluators)
    if opened.task is None and not dense and not unlabelled:
        images = subject.modality.name == "images"
        how = "Put images into one sub-folder a class, give --labels a.csv," if images else "Give labels"
        raise UserError(
            f"{opened.name} has no labels, so there is nothing to evaluate against. {how} or evaluate other data: --data."
        )
    if not len(opened.test):
        raise UserError(f"{opened.name} holds nothing out to evaluate on: test_fraction is 0. Give other data with --data.")
    if continues and subject.system is None:
        raise UserError(f"{CONTINUATION} needs a run, whose masks and energy it asks with; {path} is an encoder. Leave it out.")
    moving = flows_of(subject, opened) if flows else {}
    seed, inputs = subject.seed, subject.inputs
    pictures = world_model and len(inputs.shape) == 3
    most = MOST_PICTURES if pictures else (MOST_TRAIN, MOST_TEST)
    together = clips_of_a_file(opened.train, opened.config)
    together = together if clips_of_a_file(opened.test, opened.config) == together else 1
    if limit is not None:
        check_range("limit", limit, 1)
        most = min(limit * together, most[0]), most[1]
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
    rows: list[Row] = []
    if dense:
        if reading.anticipates:
            raise UserError(f"{dense[0]} is of what is seen. Leave seen and ahead out.")
        rows, counts = dense_rows(subject.encoders, inputs, opened, dense, str(labels), levels, where, seed, limit)
    elif opened.task is not None:
        system, untrained = subject.system, subject.untrained
        if isinstance(system, FineTuned) and isinstance(untrained, FineTuned) and labels is None:
            cheap = supervised or is_cheap(system.inputs, train, subject.shown)
            scratch = partial(in_chunks, inputs.prepare) if cheap else None
            rows = measure_answers(system, untrained, (train, test), scratch, seed, where)
        if evaluators is None or evaluators:
            rows = _label_rows(subject, (train, test), opened.task, evaluators, reading, supervised, attentive, where) + rows
    if continues:
        for name, one in (("encoder", subject.system), ("random init", subject.untrained)):
            rows += continuation_rows(one.eval(), test, name, where)  # type: ignore[union-attr]
    if flows:
        rows += flow_rows(moving, inputs, opened.test, seed)
    asked = (data, labels), which, reading, limit, supervised, attentive
    found: dict[str, Any] = {
        "format": FORMAT,
        "command": _command(path, asked_for, *asked),
        "question": _command(".", None, *asked),
        "step": subject.step,
        "data": {"name": opened.name, "train": counts[0], "test": counts[1], "classes": opened.classes},
        "plain": inputs.plain_name,
        "which": subject.which,
        "pooling": pooling,
        "rows": [row.to_dict() for row in rows],
    }
    folder = RunFolder(path)
    if rows:
        console.print(table(rows, title=f"{opened.name}: {counts[0]:,} train, {counts[1]:,} test"))
    if not dense and isinstance(subject.system, Dynamics) and isinstance(subject.untrained, Dynamics):
        worlds = subject.system.eval(), subject.untrained
        measured, probe, reader = measure_world(*worlds, cast(TrajectoryData, opened), seed, where)
        if measured is not None:
            found["world_model"] = {**measured, "planning": _planning(folder)}
            console.print(world_table(measured))
        if probe is not None:
            write_weights(folder.state_probe, {"weight": probe.linear.weight, "bias": probe.linear.bias})
        if reader is not None:
            write_weights(folder.state_reader, reader.state_dict())
    if out is not None or of_a_run:
        add_evaluation(folder.evaluation if out is None else Path(out), found)
    return rows


def _label_rows(
    subject: Subject, parts: tuple[Any, Any], task: str, evaluators: Sequence[str] | None, reading: Reading, supervised: bool,
    attentive: AttentiveConfig, where: torch.device,
) -> list[Row]:  # fmt: skip
    """Every evaluator on the embeddings of the encoders, on the raw input and its PCA."""
    (train, test), seed, inputs = parts, subject.seed, subject.inputs
    features = frozen_features(subject.encoders, subject.predictor, inputs, parts, reading, where, seed)
    rows: list[Row] = []
    if supervised:
        if reading.anticipates or reading.together > 1:
            raise UserError("supervised is of whole samples, not of a part of a clip or of several. Leave it out.")
        prepared = [in_chunks(inputs.prepare, part) for part in (train, test)]
        learned, rows = train_supervised(
            subject.encoders["random init"], prepared[0], train.labels, prepared[1], test.labels, task=task, seed=seed
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
    run: str | Path, evaluators: Sequence[str] | None, given: tuple[Any, str | None], which: str | None, reading: Reading,
    limit: int | None, supervised: bool, attentive: AttentiveConfig,
) -> str:  # fmt: skip
    data, labels = given
    words = ["jepakit", "evaluate", str(run)]
    words += ["--data", str(data)] if data is not None else []
    words += ["--labels", labels] if labels is not None else []
    words += ["--evaluators", *evaluators] if evaluators is not None else []
    words += ["--which", which] if which not in (None, "target") else []
    words += ["--pooling", reading.pooling] if reading.pooling != "mean" else []
    words += ["--levels", *map(str, reading.levels)] if reading.levels is not None else []
    words += ["--seen", str(reading.seen)] if reading.seen is not None else []
    words += ["--ahead", str(reading.ahead)] if reading.ahead is not None else []
    words += ["--limit", str(limit)] if limit is not None else []
    words += ["--supervised"] if supervised else []
    for field in dataclasses.fields(attentive):
        value = getattr(attentive, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--attentive.{field.name.replace('_', '-')}", *map(str, values)]
    return " ".join(map(shlex.quote, words))
