"""What an evaluator is: whether it fits a model and its data, the rows that it measures, its metrics and its words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rich.table import Table
from torch import Tensor

from jepakit.evaluation.attentive import AttentiveConfig
from jepakit.evaluation.evaluated_model import EvaluatedModel
from jepakit.evaluation.metrics import Metric
from jepakit.evaluation.pooling import Pooling
from jepakit.evaluation.rows import Row
from jepakit.modalities.modality import Data

When = Literal["always", "by default", "asked for"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """The options of `evaluate` that evaluators read; it documents them.

    labels: other labels than the run's, None: its own.
    """

    labels: str | None = None
    pooling: Pooling = "mean"
    levels: tuple[int, ...] | None = None
    seen: int | None = None
    ahead: int | None = None
    limit: int | None = None
    supervised: bool = False
    attentive: AttentiveConfig = field(default_factory=AttentiveConfig)

    @property
    def anticipates(self) -> bool:
        """Whether the encoder is shown a part of each clip."""
        return self.seen is not None or self.ahead is not None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluator found.

    rows: one for each kind of features and metric. counts: samples that taught and that were measured, where those are not the
    data's labelled ones. sections: further parts of `evaluation.json`, by name. weights: files of tensors that the run folder
    keeps, by name without ending. tables: shown on the terminal besides the rows.
    """

    rows: Sequence[Row] = ()
    counts: tuple[int, int] | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    tables: Sequence[Table] = ()


class Evaluator(ABC):
    """One kind of measurement. A subclass implements `fits` and `rows`, and is added by one line of `registry.EVALUATORS` or
    by `jepakit.registry.register(name, Class, about, kind="evaluator")`.

    names: those under which a user asked for it, as they were typed; None: nobody did, and it is one of the default. A
        registered name that ends in "-K" or "-N" stands for any whole number ("knn-20").
    """

    when: ClassVar[When] = "by default"
    """"by default": where the user names no evaluators; "always": also beside those named; "asked for": only by name."""
    label_kind: ClassVar[str] = ""
    """What `--labels` is for this evaluator, if not labels of the data ("label maps"). Nothing else is then measured beside."""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """What its rows are measured in."""

    def __init__(self, names: tuple[str, ...] | None = None):
        self.names = names

    @abstractmethod
    def fits(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> str | None:
        """Return None where this can be measured, else the reason why not and the remedy, in words for the user."""

    @abstractmethod
    def rows(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> list[Row]:
        """Measure the model, and what it is compared with, on the data's held-out part."""

    def measure(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> Measured:
        """Return the rows with whatever else there is: an evaluator that has more than rows overrides this."""
        return Measured(rows=self.rows(model, data, options))

    @classmethod
    def heading(cls, evaluator: str) -> str:
        """Return what a row's evaluator is called above a column."""
        return evaluator

    @classmethod
    def phrase(cls, evaluator: str) -> str:
        """Return the same inside a sentence: "with a linear probe"."""
        return f"with {cls.heading(evaluator)}"
