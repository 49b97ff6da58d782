"""One line of a result table, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from jepakit.evaluation.intervals import Interval
from jepakit.evaluation.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one evaluator measured on one kind of features.

    features: "encoder", "random init", "pixels", "pca", "supervised", or the user's own name.
    interval: what `low` and `high` are, in words.
    detail: numbers of interest (regularisation chosen, sample counts, each draw, difference to the first features).
    metric_heading, higher_is_better: the metric's words and direction.
    heading, phrase: the evaluator's words, as a heading ("Linear probe") and inside a sentence ("with a linear probe").
    """

    features: str
    evaluator: str
    metric: str
    value: float
    low: float
    high: float
    interval: str
    detail: dict[str, Any] = field(default_factory=dict)
    metric_heading: str = ""
    higher_is_better: bool = True
    heading: str = ""
    phrase: str = ""

    @classmethod
    def of(
        cls, features: str, evaluator: str, metric: Metric, interval: Interval, detail: dict[str, Any] | None = None
    ) -> Row:
        """A row of a metric and its interval."""
        return cls(
            features=features, evaluator=evaluator, metric=metric.name, value=interval.value, low=interval.low,
            high=interval.high, interval=interval.how, detail=detail or {}, metric_heading=metric.heading,
            higher_is_better=metric.higher_is_better,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def difference_detail(first: str, other: str, difference: Interval) -> dict[str, Any]:
    """What `detail["difference"]` of a row says: how much more the features `first` have than these."""
    return {
        "of": f"{first} - {other}",
        "value": difference.value,
        "low": difference.low,
        "high": difference.high,
        "interval": difference.how,
    }


def best_rows(rows: Sequence[Row]) -> set[int]:
    """Positions of the rows that are best for their evaluator and metric (all of them on a tie)."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        sign = 1 if row.higher_is_better else -1
        key = (row.evaluator, row.metric)
        best[key] = max(best.get(key, -float("inf")), sign * row.value)
    signs = [1 if row.higher_is_better else -1 for row in rows]
    return {i for i, row in enumerate(rows) if signs[i] * row.value == best[row.evaluator, row.metric]}


def table(rows: Sequence[Row], title: str | None = None) -> Table:
    """Features as rows, evaluators as columns, each value with its interval, the best of a column in bold."""
    columns = list(dict.fromkeys((row.evaluator, row.metric) for row in rows))
    names = list(dict.fromkeys(row.features for row in rows))
    best = best_rows(rows)
    cells = {
        (row.features, row.evaluator, row.metric): Text.assemble(
            (f"{row.value:.3f}", "bold" if i in best else ""), (f"  {row.low:.3f}–{row.high:.3f}", "dim")
        )
        for i, row in enumerate(rows)
    }
    intervals = list(dict.fromkeys(f"{row.evaluator}: {row.interval}" for row in rows))
    built = Table(title=title, caption="; ".join(intervals))
    built.add_column("features")
    for evaluator, metric in columns:
        built.add_column(f"{evaluator}\n{metric.replace('_', ' ')}", justify="right")
    for name in names:
        built.add_row(name, *(cells.get((name, *column), Text("–")) for column in columns))
    return built
