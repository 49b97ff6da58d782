"""Probes of frozen embeddings for labels: linear, of few labels a class, nearest neighbours, attention over tokens."""

from __future__ import annotations

from typing import ClassVar

from jepakit.errors import UserError
from jepakit.evaluation.evaluate import Probe, evaluate_features
from jepakit.evaluation.evaluated_model import EvaluatedModel
from jepakit.evaluation.evaluators.evaluator import EvaluationOptions, Evaluator
from jepakit.evaluation.frozen_features import Reading, choose_parts, frozen_features, in_chunks
from jepakit.evaluation.metrics import METRICS, Metric
from jepakit.evaluation.rows import Row
from jepakit.evaluation.supervised import train_supervised
from jepakit.modalities.modality import Data


class LabelProbes(Evaluator):
    """Every probe that was asked for on the embeddings of each encoder, on the raw input and its PCA."""

    metrics: ClassVar[tuple[Metric, ...]] = tuple(
        METRICS[name] for name in ("accuracy", "balanced_accuracy", "recall_at_5", "mean_average_precision", "r2", "mae")
    )

    def fits(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> str | None:
        if data.task is not None:
            return None
        files = data.train.paths is not None
        remedy = "Put the files into one sub-folder a class, give --labels a.csv," if files else "Give labels"
        return f"{data.name} has no labels, so there is nothing to evaluate against. {remedy} or evaluate other data: --data."

    def rows(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> list[Row]:
        parts = choose_parts(data, model.inputs, model.seed, options.limit)
        reading = Reading(
            pooling=options.pooling, tokens=any(Probe.parse(name).kind == "attentive" for name in self.names or ()),
            levels=options.levels, seen=options.seen, ahead=options.ahead, together=parts.together,
        )  # fmt: skip
        both = (parts.train, parts.test)
        features = frozen_features(
            model.encoders, model.predictor, model.inputs, both, reading, model.device, model.seed
        )
        rows: list[Row] = []
        if options.supervised:
            if options.anticipates or parts.together > 1:
                raise UserError("supervised is of whole samples, not of a part of a clip or of several. Leave it out.")
            train, test = (in_chunks(model.inputs.prepare, part) for part in both)
            learned, rows = train_supervised(
                model.encoders["random init"], train, parts.train.labels, test, parts.test.labels, task=data.task,
                seed=model.seed,
            )  # fmt: skip
            features.append(learned)
        probed = evaluate_features(
            features, *parts.labels, data.task, self.names, model.seed, attentive=options.attentive,
            ahead=options.anticipates,
        )  # fmt: skip
        return probed + rows

    @classmethod
    def heading(cls, evaluator: str) -> str:
        try:
            return Probe.parse(evaluator).heading
        except UserError:  # "direct": what training with labels itself scores
            return evaluator

    @classmethod
    def phrase(cls, evaluator: str) -> str:
        try:
            return Probe.parse(evaluator).phrase
        except UserError:
            return super().phrase(evaluator)
