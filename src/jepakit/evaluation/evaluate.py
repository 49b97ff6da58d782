"""Evaluate frozen embeddings of any origin: features in, result rows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from jepakit.errors import UserError
from jepakit.evaluation.attentive import AttentiveConfig, attentive_probe
from jepakit.evaluation.features import Array, Features, as_features
from jepakit.evaluation.intervals import Interval, interval_of, over_draws, paired_difference
from jepakit.evaluation.knn import KNNConfig, knn_scores
from jepakit.evaluation.labels import Targets, as_array, check_lengths, held_out, infer_task, read_targets
from jepakit.evaluation.linear import linear_probe, low_shot_probe
from jepakit.evaluation.metrics import Metric, metrics_for
from jepakit.evaluation.pooling import pool
from jepakit.evaluation.rows import Row, difference_detail
from jepakit.randomness import derive_seed
from jepakit.registry import find_evaluator

BY_DEFAULT = ("linear", "low-shot-5", "low-shot-10", "knn-20", "attentive")


@dataclass(frozen=True)
class Probe:
    """A probe of features for labels. `number`: labels a class (low-shot), neighbours (knn), blocks (attentive)."""

    kind: Literal["linear", "low-shot", "knn", "attentive"]
    number: int = 0

    @classmethod
    def parse(cls, name: str) -> Probe:
        """Read "linear", "attentive", "attentive-N", "low-shot-K" or "knn-K"; a typo is answered with the nearest name."""
        registered, number = find_evaluator(name)
        kind = registered.removesuffix("-K").removesuffix("-N")
        if kind not in ("linear", "low-shot", "knn", "attentive"):
            raise UserError(f"evaluators: {name} reads more than features and labels. Ask for it by jepakit evaluate.")
        return cls(kind, number)  # type: ignore[arg-type]

    @property
    def heading(self) -> str:
        """The probe's name above a column: "5 labels a class"."""
        number, plural = self.number, "s" * (self.number != 1)
        if self.kind == "attentive" and number:
            return f"Attentive probe of {number} block{plural}"
        return {
            "linear": "Linear probe",
            "low-shot": f"{number} label{plural} a class",
            "knn": f"{number} nearest neighbour{plural}",
            "attentive": "Attentive probe",
        }[self.kind]

    @property
    def phrase(self) -> str:
        """The same inside a sentence: "at 5 labels a class", "with a linear probe"."""
        words = {"linear": f"with a {self.heading.lower()}", "attentive": f"with an {self.heading.lower()}"}
        return words.get(self.kind, f"{'at' if self.kind == 'low-shot' else 'with'} {self.heading}")

    def obstacle(self, targets: Targets, features: Sequence[Features]) -> str | None:
        """Why this evaluator cannot run here, with the remedy; None when it can."""
        if self.kind == "low-shot":
            if targets.task != "classification":
                return f"low-shot counts labels a class, but the task is {targets.task}: leave it out."
            least = int(np.bincount(targets.train).min())
            if least < self.number:
                return f"the smallest training class has {least} labels: ask for low-shot-{least} or drop that class."
        if self.kind == "knn" and len(targets.train) < self.number:
            return f"there are only {len(targets.train)} training samples: ask for knn-{len(targets.train)} or fewer."
        if self.kind == "attentive" and all(f.train_tokens is None for f in features):
            return "no features come with tokens (train_tokens, test_tokens): give them, or leave it out."
        return None

    def scores(
        self, features: Features, targets: Targets, seed: int, attentive: AttentiveConfig | None = None
    ) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Scores of the test samples (for each draw, where there are draws), and what was chosen on the way."""
        if self.kind == "low-shot":
            return low_shot_probe(features.train, features.test, targets, self.number, seed=seed)
        if self.kind == "knn":
            config = KNNConfig(k=self.number)
            return [knn_scores(features.train, targets.train, features.test, targets.task, config)], {}
        if self.kind == "linear":
            scores, detail = linear_probe(features.train, features.test, targets, seed)
        elif features.train_tokens is None or features.test_tokens is None:
            raise UserError(f"attentive: features {features.name!r} have no tokens.")
        else:
            parts = features.train_tokens, features.test_tokens
            scores, detail = attentive_probe(*parts, targets, attentive, seed, blocks=self.number)
        return [scores], detail


def evaluate_features(
    features: Sequence[Features],
    train_labels: ArrayLike | torch.Tensor,
    test_labels: ArrayLike | torch.Tensor,
    task: str | None = None,
    evaluators: Sequence[str] | None = None,
    seed: int = 0,
    *,
    attentive: AttentiveConfig | None = None,
    ahead: bool = False,
) -> list[Row]:
    """Every evaluator on every kind of features, on the same labels, the same draws and the same resamples.

    Args:
        features: the features under test first, then what they are compared with (baselines). Each later row holds
            in `detail["difference"]` the paired difference *first minus this one* with its bounds.
        task: "classification", "multilabel" or "regression"; None reads it from the labels.
        evaluators: names of probes, as "linear"; None takes those of `BY_DEFAULT` that these labels and features allow.
        attentive: how attentive probes are trained.
        ahead: the labels are of what comes after what was seen: class-mean recall@5 is measured, too.

    Raises:
        UserError: unknown evaluators, labels that do not fit, classes with too few labels for what was asked.
    """
    if not features:
        raise UserError("evaluate_features needs at least one kind of features.")
    names = [one.name for one in features]
    if len(set(names)) < len(names):
        raise UserError(f"features need different names, got {names}.")
    for one in features:
        check_lengths(f"features {one.name!r}", (one.train, one.test), (train_labels, test_labels))
    targets = read_targets(train_labels, test_labels, task)
    rows: list[Row] = []
    for name in dict.fromkeys(BY_DEFAULT if evaluators is None else evaluators):
        evaluator = Probe.parse(name)
        obstacle = evaluator.obstacle(targets, features)
        if obstacle is not None:
            if evaluators is not None:
                raise UserError(f"{name}: {obstacle}")
            continue
        rows += _rows(name, evaluator, features, targets, seed, attentive, ahead)
    return rows


def _rows(
    name: str,
    evaluator: Probe,
    features: Sequence[Features],
    targets: Targets,
    seed: int,
    attentive: AttentiveConfig | None,
    ahead: bool,
) -> list[Row]:
    rows: list[Row] = []
    first: list[np.ndarray] | None = None
    for one in features:
        if evaluator.kind == "attentive" and one.train_tokens is None:
            continue
        scores, chosen = evaluator.scores(one, targets, seed, attentive)
        for metric in metrics_for(targets, ahead=ahead):
            interval = _interval(metric, scores, targets, seed)
            detail = {"train": len(targets.train), "test": len(targets.test), **chosen}
            if len(scores) > 1:
                detail["train"] = evaluator.number * len(targets.classes)
                detail["draws"] = [metric(draw, targets.test) for draw in scores]
            if first is not None:
                difference = _difference(metric, first, scores, targets, seed)
                detail["difference"] = difference_detail(features[0].name, one.name, difference)
            rows.append(Row.of(one.name, name, metric, interval, detail))
        if one is features[0]:
            first = scores
    return rows


def _interval(metric: Metric, scores: list[np.ndarray], targets: Targets, seed: int) -> Interval:
    if len(scores) > 1:
        found = over_draws(np.array([metric(draw, targets.test) for draw in scores]))
        return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))  # low-shot: shares of what is right
    return interval_of(metric, scores[0], targets.test, seed)


def _difference(
    metric: Metric, first: list[np.ndarray], second: list[np.ndarray], targets: Targets, seed: int
) -> Interval:
    if len(first) == 1:
        return paired_difference(metric, first[0], second[0], targets.test, seed=seed)
    pairs = zip(first, second, strict=True)
    return over_draws(np.array([metric(a, targets.test) - metric(b, targets.test) for a, b in pairs]))


def evaluate_arrays(
    embeddings: Array,
    labels: ArrayLike | torch.Tensor,
    *,
    test_embeddings: Array | None = None,
    test_labels: ArrayLike | torch.Tensor | None = None,
    task: str | None = None,
    evaluators: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    name: str = "embeddings",
    seed: int = 0,
) -> list[Row]:
    """Evaluate one array of embeddings, `[n, dim]` or tokens `[n, tokens, dim]`, from any encoder.

    Without a test part, `test_fraction` of the samples is held out at random, classes in proportion. Samples that
    belong together (frames of a video, slices of a patient) must not straddle the split: give your own test part.
    Tokens are mean-pooled for the evaluators that want one vector, and go to "attentive" as they are.

    Of a memory map (what `jepakit.embed` returns) nothing is copied where you give the test part; holding one out copies both
    parts into memory.
    """
    if (test_embeddings is None) != (test_labels is None):
        raise UserError("give test_embeddings and test_labels together, or neither (then a part is held out).")
    values = as_features(embeddings, "embeddings")
    if test_embeddings is None or test_labels is None:
        array = as_array(labels)
        if len(array) != len(values):
            raise UserError(f"{len(values)} embeddings but {len(array)} labels.")
        if not 0 < test_fraction < 1:
            raise UserError(f"test_fraction must lie between 0 and 1, got {test_fraction}.")
        is_class = (task or infer_task(array)) == "classification"
        strata = np.unique(array, return_inverse=True)[1].reshape(-1) if is_class else np.zeros(len(array), np.int64)
        held = held_out(strata, test_fraction, derive_seed(seed, "test split"))
        chosen = torch.from_numpy(held).to(values.device)
        values, test_values, train_labels, test_labels = values[~chosen], values[chosen], array[~held], array[held]
    else:
        test_values, train_labels = as_features(test_embeddings, "test_embeddings"), as_array(labels)
    if values.dim() == 3 and test_values.dim() == 3:
        features = Features(name, pool(values), pool(test_values), values, test_values)
    else:
        features = Features(name, values, test_values)
    return evaluate_features([features], train_labels, test_labels, task, evaluators, seed)
