"""Looks at a data set of any modality: how many samples, of which classes, and what is known of how they were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jepakit.modalities.modality import Data, Inspected, remarks

_DIMENSIONS = 32  # of the plain features, that are drawn


@dataclass(frozen=True)
class Counts:
    """What was found: samples and, where there are classes, those of each, in (train, test)."""

    name: str
    kind: str
    noun: str
    train: int
    test: int
    classes: dict[str, tuple[int, int]] | None
    values: tuple[float, float, float] | None
    """Of a regression: smallest, median and largest label of the training part."""
    expects: str
    """What an encoder trained on it would expect."""
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> RenderableType:
        """The same for a terminal (`rich.print`)."""
        facts = Table.grid(padding=(0, 2))
        facts.add_row(self.noun, f"{self.train:,} to train on, {self.test:,} held out ({self.kind})")
        facts.add_row("model sees", self.expects)
        if self.values is not None:
            facts.add_row("target", f"{self.values[0]:g} to {self.values[2]:g}, median {self.values[1]:g}")
        parts: list[RenderableType] = [Text(self.name, style="bold"), facts]
        if self.classes:
            table = Table("class", "train", "held out")
            for name, (train, test) in self.classes.items():
                table.add_row(Text(name), f"{train:,}", f"{test:,}")
            parts.append(table)
        return Group(*parts, *map(Text, self.notes))


def inspect_data(data: Data, inputs: Any) -> Inspected:
    """Count opened data, and draw the plain features of some of its samples, a row each."""
    classes = values = None
    if data.task == "classification":
        names = data.classes or [str(number) for number in range(int(data.train.labels.max()) + 1)]
        train, test = (Counter(np.asarray(part.labels).tolist()) for part in (data.train, data.test))
        classes = {name: (train[number], test[number]) for number, name in enumerate(names)}
    elif data.task == "regression":
        labels = np.asarray(data.train.labels)
        values = float(labels.min()), float(np.median(labels)), float(labels.max())
    counts = Counts(
        name=data.name, kind=data.kind, noun=data.noun, train=len(data.train), test=len(data.test), classes=classes,
        values=values, expects=inputs.describe(), notes=remarks(data),
    )  # fmt: skip
    shown = [data.train[int(index)] for index in np.unique(np.linspace(0, len(data.train) - 1, 16).astype(int))]
    plain = inputs.plain(shown).numpy()[:, :_DIMENSIONS]
    figure = Figure(figsize=(8, 0.25 * len(plain) + 1.2), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(plain, aspect="auto", cmap="viridis", interpolation="nearest")
    axes.set_xlabel(f"{inputs.plain_name}: the first {plain.shape[1]} numbers", fontsize=8)
    axes.set_ylabel("samples", fontsize=8)
    figure.colorbar(drawn)
    return Inspected(counts, figure, f"{inputs.plain_name.capitalize()} of some {data.noun}")


def inspector(modality: Any) -> Callable[..., Inspected]:
    """The `inspect` of a modality that says nothing of its own."""

    def inspect(config: Any, seed: int, source: object | None, example: object) -> Inspected:
        data = modality.open(config, seed, source)
        return inspect_data(data, modality.inputs(data))

    return inspect
