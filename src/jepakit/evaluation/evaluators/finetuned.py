"""What tuning gained: a tuned model's answers beside a linear probe of the encoder as it was, the same encoder trained from
random weights, and answering always the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from jepakit.core.batch import map_tensors
from jepakit.evaluation.evaluated_model import EvaluatedModel, fresh_encoder
from jepakit.evaluation.evaluators.evaluator import EvaluationOptions, Evaluator, When
from jepakit.evaluation.frozen_features import choose_parts, in_chunks
from jepakit.evaluation.intervals import interval_of, paired_difference
from jepakit.evaluation.labels import Targets, read_targets
from jepakit.evaluation.linear import linear_probe
from jepakit.evaluation.metrics import METRICS, Metric, metrics_for
from jepakit.evaluation.rows import Row, difference_detail
from jepakit.evaluation.supervised import SupervisedConfig, train_supervised
from jepakit.interop.embedding import embed_samples
from jepakit.modalities.modality import Data, Inputs
from jepakit.pages.tuning import EVALUATOR, NOTHING, PROBE, SCRATCH, TUNED_MODEL

MOST_NUMBERS = 250_000_000  # in the inputs of a training from random weights, which lie in memory


class TunedAnswers(Evaluator):
    """A tuned system's own answers, where the labels are those that it was tuned on."""

    when: ClassVar[When] = "always"
    metrics: ClassVar[tuple[Metric, ...]] = tuple(
        METRICS[name] for name in ("accuracy", "balanced_accuracy", "mean_average_precision", "r2", "mae")
    )

    def fits(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> str | None:
        if model.system is None or model.system.answers is None:
            return f"{EVALUATOR} are of runs that were tuned on labels: jepakit finetune. Leave {EVALUATOR} out."
        if options.labels is not None:
            return f"{EVALUATOR} are to the labels that the run was tuned on. Leave --labels out."
        return None if data.task is not None else f"{data.name} has no labels. Evaluate other data: --data."

    def rows(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> list[Row]:
        parts = choose_parts(data, model.inputs, model.seed, options.limit)
        tuned, frozen = model.systems.values()
        cheap = options.supervised or is_cheap(model.inputs, parts.train, model.samples_seen)
        scratch = partial(in_chunks, model.inputs.prepare) if cheap else None
        return measure_answers(tuned, frozen, (parts.train, parts.test), scratch, model.seed, model.device)


def measure_answers(
    tuned: Any,
    frozen: Any,
    parts: tuple[Any, Any],
    scratch: Callable[[Any], Any] | None,
    seed: int,
    device: torch.device,
) -> list[Row]:
    """Rows of the tuned system and of what it stands beside, on the test part. Each later row holds in `detail["difference"]`
    the paired difference *tuned minus this one* with its bounds, where the answers are at hand.

    Args:
        tuned: a system that has `answers`, `scores` and the `encoder` that was tuned.
        frozen: the same before it was tuned.
        parts: labelled training and test samples.
        scratch: prepares all inputs of a part, for a training from random weights; None: there is none.
    """
    train, test = parts
    targets = read_targets(train.labels, test.labels, tuned.answers.task)
    scores = {TUNED_MODEL: _in_order(predict(tuned, test, device), train.labels, targets)}
    taught, measured = (embed_samples(frozen.encode, tuned.inputs, part, device=device) for part in parts)
    scores[PROBE] = linear_probe(taught, measured, targets, seed)[0]
    scores[NOTHING] = always_the_same(targets)
    rows = [row for name in scores for row in _rows(name, scores[name], scores[TUNED_MODEL], targets, seed)]
    if scratch is not None:
        inputs = [scratch(part) for part in parts]
        encoder = fresh_encoder(tuned.encoder, seed).to(device)
        _, learned = train_supervised(
            encoder, inputs[0], train.labels, inputs[1], test.labels, task=targets.task, seed=seed
        )
        rows += [dataclasses.replace(row, features=SCRATCH, evaluator=EVALUATOR) for row in learned]
    return rows


def predict(tuned: Any, part: Any, device: torch.device) -> np.ndarray:
    """The model's answers to a part, as `Answers.values`."""
    scores = embed_samples(lambda inputs: tuned.scores(inputs)[:, None], tuned.inputs, part, device=device)
    return tuned.answers.values(scores).double().numpy()


def always_the_same(targets: Targets) -> np.ndarray:
    """Scores of an answer that does not look: the most frequent class, each label's share, or the mean."""
    if targets.task == "classification":
        shares = np.bincount(targets.train, minlength=len(targets.classes)) / len(targets.train)
    else:
        shares = targets.train.mean(axis=0)
    return np.broadcast_to(shares, (len(targets.test), *np.shape(shares))).copy()


def is_cheap(inputs: Inputs, train: Any, seen: int) -> bool:
    """Whether a training from random weights looks at no more samples than the tuning did (`seen`), and fits into memory."""
    sizes: list[int] = []

    def count(tensor: Tensor) -> None:
        sizes.append(tensor.numel())

    map_tensors(count, inputs.prepare([train[0]]))
    return SupervisedConfig().epochs * len(train) <= seen and sum(sizes) * len(train) <= MOST_NUMBERS


def _in_order(values: np.ndarray, labels: np.ndarray, targets: Targets) -> np.ndarray:
    """The outputs of the classes that the training part has, in the order of `targets.classes`."""
    return values[:, np.unique(labels)] if targets.task == "classification" else values


def _rows(name: str, scores: np.ndarray, ours: np.ndarray, targets: Targets, seed: int) -> list[Row]:
    rows = []
    for metric in metrics_for(targets):
        interval = interval_of(metric, scores, targets.test, seed)
        detail: dict[str, Any] = {"train": len(targets.train), "test": len(targets.test)}
        if name != TUNED_MODEL:
            apart = paired_difference(metric, ours, scores, targets.test, seed=seed)
            detail["difference"] = difference_detail(TUNED_MODEL, name, apart)
        rows.append(Row.of(name, EVALUATOR, metric, interval, detail))
    return rows
