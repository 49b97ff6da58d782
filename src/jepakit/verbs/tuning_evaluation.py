"""What tuning gained: the tuned model's answers beside a linear probe of the encoder as it was, the same encoder trained from
random weights, and answering always the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepakit.core.batch import map_tensors
from jepakit.evaluation.intervals import interval_of, paired_difference
from jepakit.evaluation.labels import Targets, read_targets
from jepakit.evaluation.linear import linear_probe
from jepakit.evaluation.metrics import metrics_for
from jepakit.evaluation.rows import Row
from jepakit.evaluation.supervised import SupervisedConfig, train_supervised
from jepakit.interop.embedding import embed_samples
from jepakit.modalities.modality import Inputs
from jepakit.pages.tuning import EVALUATOR, NOTHING, PROBE, SCRATCH, TUNED_MODEL
from jepakit.randomness import derive_seed
from jepakit.training.finetuning import FineTuned

MOST_NUMBERS = 250_000_000  # in the inputs of a training from random weights, which lie in memory


def measure_answers(
    tuned: FineTuned,
    frozen: FineTuned,
    parts: tuple[Any, Any],
    scratch: Callable[[Any], Any] | None,
    seed: int,
    where: torch.device,
) -> list[Row]:
    """Rows of the tuned model and of what it stands beside, on the test part. Each later row holds in `detail["difference"]`
    the paired difference *tuned minus this one* with its bounds, where the answers are at hand.

    Args:
        frozen: the same system before it was tuned.
        parts: labelled training and test samples.
        scratch: prepares all inputs of a part, for a training from random weights; None: there is none.
    """
    train, test = parts
    targets = read_targets(train.labels, test.labels, tuned.answers.task)
    scores = {TUNED_MODEL: _in_order(predict(tuned, test, where), train.labels, targets)}
    known, asked = (embed_samples(frozen.encode, tuned.inputs, part, device=where) for part in parts)
    scores[PROBE] = linear_probe(known, asked, targets, seed)[0]
    scores[NOTHING] = always_the_same(targets)
    rows = [row for name in scores for row in _rows(name, scores[name], scores[TUNED_MODEL], targets, seed)]
    if scratch is not None:
        inputs = [scratch(part) for part in parts]
        encoder = fresh_encoder(tuned.encoder, seed).to(where)
        _, found = train_supervised(
            encoder, inputs[0], train.labels, inputs[1], test.labels, task=targets.task, seed=seed
        )
        rows += [dataclasses.replace(row, features=SCRATCH, evaluator=EVALUATOR) for row in found]
    return rows


def predict(tuned: FineTuned, part: Any, where: torch.device) -> np.ndarray:
    """The model's answers to a part, as `Answers.values`."""
    scores = embed_samples(lambda inputs: tuned.scores(inputs)[:, None], tuned.inputs, part, device=where)  # type: ignore[arg-type,return-value]
    return tuned.answers.values(scores).double().numpy()


def always_the_same(targets: Targets) -> np.ndarray:
    """Scores of an answer that does not look: the most frequent class, each label's share, or the mean."""
    if targets.task == "classification":
        shares = np.bincount(targets.train, minlength=len(targets.classes)) / len(targets.train)
    else:
        shares = targets.train.mean(axis=0)
    return np.broadcast_to(shares, (len(targets.test), *np.shape(shares))).copy()


def fresh_encoder(encoder: nn.Module, seed: int) -> nn.Module:
    """An encoder of the same shape at random weights."""
    torch.manual_seed(derive_seed(seed, "random baseline"))
    kind: Any = type(encoder)
    return kind(encoder.config)


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
        found = interval_of(metric, scores, targets.test, seed)
        detail: dict[str, Any] = {"train": len(targets.train), "test": len(targets.test)}
        if name != TUNED_MODEL:
            apart = paired_difference(metric, ours, scores, targets.test, seed=seed)
            detail["difference"] = {
                "of": f"{TUNED_MODEL} - {name}", "value": apart.value, "low": apart.low, "high": apart.high,
                "interval": apart.how,
            }  # fmt: skip
        rows.append(
            Row(
                features=name, evaluator=EVALUATOR, metric=metric.name, value=found.value, low=found.low, high=found.high,
                interval=found.how, detail=detail,
            )
        )  # fmt: skip
    return rows
