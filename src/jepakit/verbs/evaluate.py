"""`evaluate`: what a run's frozen embeddings are worth, beside a random encoder, raw pixels and PCA."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from jepakit.device import choose_device
from jepakit.errors import UserError
from jepakit.evaluation.attentive import AttentiveConfig
from jepakit.evaluation.document import FORMAT, add_evaluation
from jepakit.evaluation.evaluated_model import EvaluatedModel
from jepakit.evaluation.evaluators.evaluator import EvaluationOptions, Evaluator
from jepakit.evaluation.frozen_features import choose_parts
from jepakit.evaluation.pooling import Pooling
from jepakit.evaluation.rows import Row, table
from jepakit.interop.encoder import Which
from jepakit.interop.runs import Run, is_run
from jepakit.modalities.modality import Data, remarks
from jepakit.registry import evaluators_of, load_named
from jepakit.training.weight_files import write_weights


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
            error, where the motion is known. Of a tuned run the answers of its head are measured in any case, where the labels
            are its own, and so is a world model. `jepakit list evaluators` names all, yours too.
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
    device_chosen = run.device if isinstance(run, Run) else choose_device(device)
    if out is not None and Path(out).suffix != ".json":
        raise UserError(f"out is the .json file to add to, got {out}. Call it {out}.json, for one.")
    if not isinstance(run, Run) and is_run(Path(run)):
        run = Run(run, device_chosen)
    path = run.path if isinstance(run, Run) else Path(run)
    chosen = choose_evaluators(evaluators)
    options = EvaluationOptions(
        labels=labels, pooling=pooling, levels=levels, seen=seen, ahead=ahead, limit=limit, supervised=supervised,
        attentive=attentive,
    )  # fmt: skip
    if isinstance(run, Run):
        model = EvaluatedModel.of_run(run, which)
    else:
        model = EvaluatedModel.of_weights(path, which, device_chosen, data)
    console = Console(stderr=True)
    opened = model.open_data(data, None if any(evaluator.label_kind for evaluator in chosen) else labels)
    for remark in remarks(opened) if data is not None else ():
        console.print(remark, markup=False, emoji=False, highlight=False, soft_wrap=True)
    fitting = _fitting(chosen, model, opened, options)
    if not len(opened.test):
        raise UserError(f"{opened.name} holds nothing out to evaluate on: test_fraction is 0. Give other data with --data.")
    counts = choose_parts(opened, model.inputs, model.seed, limit).counts
    rows: list[Row] = []
    sections: dict[str, Any] = {}
    for evaluator in fitting:
        measured = evaluator.measure(model, opened, options)
        rows += [
            dataclasses.replace(row, heading=evaluator.heading(row.evaluator), phrase=evaluator.phrase(row.evaluator))
            for row in measured.rows
        ]
        counts = measured.counts or counts
        sections |= measured.sections
        for name, weights in measured.weights.items():
            write_weights(path / f"{name}.safetensors", dict(weights))
        for shown in measured.tables:
            console.print(shown)
    if rows:
        console.print(table(rows, title=f"{opened.name}: {counts[0]:,} train, {counts[1]:,} test"))
    if out is not None or isinstance(run, Run):
        document = {
            "format": FORMAT,
            "command": _command(path, evaluators, data, which, options),
            "question": _command(".", None, data, which, options),
            "step": model.step,
            "data": {"name": opened.name, "train": counts[0], "test": counts[1], "classes": opened.classes},
            "plain": model.inputs.plain_name,
            "which": model.which,
            "pooling": pooling,
            "rows": [row.to_dict() for row in rows],
            **sections,
        }
        add_evaluation(path / "evaluation.json" if out is None else Path(out), document)
    return rows


def can_evaluate(run: Run, evaluators: Sequence[str] | None = None) -> bool:
    """Return whether anything can be measured of a run on the data that it has open."""
    model, data = EvaluatedModel.of_run(run), run.data
    chosen = choose_evaluators(evaluators)
    return len(data.test) > 0 and any(one.fits(model, data, EvaluationOptions()) is None for one in chosen)


def choose_evaluators(names: Sequence[str] | None) -> list[Evaluator]:
    """Return those that were named and those that are always measured; of None those of the default.

    Errors: an unknown name, with the nearest one; one that reads labels of its own kind beside others.
    """
    kinds = {load_named(place): typed for place, typed in evaluators_of(names).items()}
    alone = next((kind for kind, typed in kinds.items() if typed and kind.label_kind), None)
    if alone is not None:
        others = [name for kind, typed in kinds.items() if kind is not alone for name in typed]
        if others:
            raise UserError(
                f"{kinds[alone][0]} is measured by {alone.label_kind} and not by {', '.join(others)}, which can be asked for "
                "by itself."
            )
        return [alone(kinds[alone])]
    chosen = []
    for kind, typed in kinds.items():
        if typed:
            chosen.append(kind(typed))
        elif kind.when == "always" or (names is None and kind.when == "by default"):
            chosen.append(kind())
    return chosen


def _fitting(
    chosen: Sequence[Evaluator], model: EvaluatedModel, data: Data, options: EvaluationOptions
) -> list[Evaluator]:
    """The evaluators that fit. Errors: one that was named does not; none does."""
    fitting, reasons = [], []
    for evaluator in chosen:
        reason = evaluator.fits(model, data, options)
        if reason is None:
            fitting.append(evaluator)
        elif evaluator.names is not None:
            raise UserError(reason)
        else:
            reasons.append(reason)
    if not fitting:
        raise UserError(reasons[0])
    return fitting


def _command(
    run: str | Path, evaluators: Sequence[str] | None, data: Any, which: str | None, options: EvaluationOptions
) -> str:
    words = ["jepakit", "evaluate", str(run)]
    words += ["--data", str(data)] if data is not None else []
    words += ["--labels", options.labels] if options.labels is not None else []
    words += ["--evaluators", *evaluators] if evaluators is not None else []
    words += ["--which", which] if which not in (None, "target") else []
    words += ["--pooling", options.pooling] if options.pooling != "mean" else []
    words += ["--levels", *map(str, options.levels)] if options.levels is not None else []
    words += ["--seen", str(options.seen)] if options.seen is not None else []
    words += ["--ahead", str(options.ahead)] if options.ahead is not None else []
    words += ["--limit", str(options.limit)] if options.limit is not None else []
    words += ["--supervised"] if options.supervised else []
    for field in dataclasses.fields(options.attentive):
        value = getattr(options.attentive, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--attentive.{field.name.replace('_', '-')}", *map(str, values)]
    return " ".join(map(shlex.quote, words))
