"""Looks at a data set before training: how many pictures, how large, which are damaged, and what leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jepakit.modalities.files.walk import BadFile
from jepakit.modalities.images.collection import Collection, ImageDataConfig
from jepakit.modalities.images.data import ImageData, settled, split_collection
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.images.near_duplicates import NearDuplicates, near_duplicates
from jepakit.modalities.images.pictures import draw_inputs
from jepakit.modalities.images.sources import read_source
from jepakit.modalities.modality import Inspected
from jepakit.registry import name_of

_SHOWN = 10


@dataclass(frozen=True)
class ImageInspection:
    """What `inspect_images` found. Sizes are (height, width) as stored, after EXIF orientation."""

    name: str
    kind: str
    task: str | None
    train: int
    test: int
    classes: dict[str, tuple[int, int]] | None
    """Pictures in (train, test) by class name (multilabel: of each label)."""
    values: tuple[float, float, float] | None
    """Regression: smallest, median and largest target."""
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    modes: dict[str, int]
    """How many pictures are stored in which way (RGB, L, I;16, P, CMYK, uint8, ...)."""
    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    groups: tuple[int, int] | None
    """Groups in (train, test), with `group_by`."""
    bad_files: list[BadFile]
    near_duplicates: NearDuplicates
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> RenderableType:
        """The same for a terminal (`rich.print`)."""
        return render_inspection(self)


def inspect(config: ImageDataConfig, seed: int, source: object | None, example: Callable[[ImageInputs], Any]) -> Inspected:
    """`inspect_images`, and some of the pictures with what the system would get of them."""
    facts, data = inspect_images(config, seed, source)
    system = example(ImageInputs.of(data))
    return Inspected(facts, draw_inputs(system, data, seed), f"What {name_of(type(system))} would be shown")


def inspect_images(
    config: ImageDataConfig, seed: int, source: object | None = None
) -> tuple[ImageInspection, ImageData]:
    """Read, check and split the data as `open_images` would, and describe it; bad files are listed, not raised.

    Raises:
        UserError: there is nothing to describe (no such data, no usable picture), or the labels do not fit.
    """
    config = replace(config, on_bad_file="skip")
    collection = read_source(config, source)
    data = split_collection(collection, settled(config, collection), seed)
    facts = ImageInspection(
        name=data.name,
        kind=data.kind,
        task=data.task,
        train=len(data.train),
        test=len(data.test),
        classes=_class_counts(data),
        values=_values(data),
        smallest=_sides(collection.shapes.min(axis=0)),
        median=_sides(np.median(collection.shapes, axis=0)),
        largest=_sides(collection.shapes.max(axis=0)),
        modes=collection.modes,
        image_size=collection.image_size,
        channels=collection.channels,
        mean=data.mean,
        std=data.std,
        groups=_group_counts(collection, data),
        bad_files=data.bad_files,
        near_duplicates=near_duplicates(data, seed),
        notes=[*data.notes, *_advice(data, collection)],
    )
    return facts, data


def render_inspection(found: ImageInspection) -> RenderableType:
    """The same for a terminal (`rich.print`)."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("pictures", f"{found.train:,} to train on, {found.test:,} held out ({found.kind})")
    facts.add_row("stored as", ", ".join(f"{mode} ({count:,})" for mode, count in found.modes.items()))
    facts.add_row("height", f"{found.smallest[0]} to {found.largest[0]}, median {found.median[0]}")
    facts.add_row("width", f"{found.smallest[1]} to {found.largest[1]}, median {found.median[1]}")
    facts.add_row("model sees", f"{found.image_size[0]} x {found.image_size[1]}, {found.channels} channel(s)")
    facts.add_row("mean, std", f"{_numbers(found.mean)}, {_numbers(found.std)}")
    if found.groups:
        facts.add_row("groups", f"{found.groups[0]:,} to train on, {found.groups[1]:,} held out")
    if found.values:
        facts.add_row("target", f"{found.values[0]:g} to {found.values[2]:g}, median {found.values[1]:g}")
    parts: list[RenderableType] = [Text(f"{found.name}", style="bold"), facts]
    if found.classes:
        parts.append(_class_table(found.classes))
    if found.bad_files:
        listed = [f"  {bad.path}: {bad.reason}" for bad in found.bad_files[:_SHOWN]]
        more = [f"  and {len(found.bad_files) - _SHOWN:,} more"] if len(found.bad_files) > _SHOWN else []
        remedy = "Repair or remove them, or train with --on-bad-file skip."
        title = f"{len(found.bad_files):,} files cannot be read:"
        parts.append(Text("\n".join([title, *listed, *more, remedy]), style="red"))
    parts.append(_duplicate_text(found.near_duplicates))
    parts.extend(Text(note) for note in found.notes)
    return Group(*parts)


def _class_counts(data: ImageData) -> dict[str, tuple[int, int]] | None:
    if data.classes is None or data.train.labels is None or data.test.labels is None:
        return None
    sides = []
    for labels in (data.train.labels, data.test.labels):
        sides.append(labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(data.classes)))
    return {name: (int(a), int(b)) for name, a, b in zip(data.classes, *sides, strict=True)}


def _values(data: ImageData) -> tuple[float, float, float] | None:
    if data.task != "regression" or data.train.labels is None or data.test.labels is None:
        return None
    values = np.concatenate([data.train.labels, data.test.labels])
    return float(values.min()), float(np.median(values)), float(values.max())


def _group_counts(collection: Collection, data: ImageData) -> tuple[int, int] | None:
    if collection.groups is None:
        return None
    groups = np.asarray(collection.groups)
    return len(set(groups[data.train.ids])), len(set(groups[data.test.ids]))


def _advice(data: ImageData, collection: Collection) -> list[str]:
    """What is likely to surprise, in sentences."""
    advice = []
    if data.task is None:
        advice.append("No labels: training needs none, but probes and kNN will not be computed.")
    if data.task == "classification":
        counts = _class_counts(data) or {}
        alone = [name for name, (_, test) in counts.items() if test == 0]
        if alone and len(data.test):
            advice.append(f"Classes without a held-out picture: {', '.join(alone[:_SHOWN])}.")
        unseen = [name for name, (train, test) in counts.items() if test and not train]
        if unseen:
            advice.append(f"Classes with held-out pictures only: {', '.join(unseen[:_SHOWN])}.")
    height, width = collection.image_size
    small = int(((collection.shapes[:, 0] < height) | (collection.shapes[:, 1] < width)).sum())
    if small:
        advice.append(f"{small:,} pictures are smaller than the {height} x {width} the model sees; they are enlarged.")
    ratio = collection.shapes[:, 1] / collection.shapes[:, 0] / (width / height)
    long = int(((ratio > 2) | (ratio < 0.5)).sum())
    if long:
        advice.append(f"{long:,} pictures are more than twice as long as the model's input; their ends may be cut off.")
    return advice


def _class_table(classes: dict[str, tuple[int, int]]) -> Table:
    table = Table("class", "train", "held out", box=None)
    largest = Counter({name: sum(counts) for name, counts in classes.items()})
    shown = list(classes) if len(classes) <= 2 * _SHOWN else [name for name, _ in largest.most_common(_SHOWN)]
    for name in shown:
        table.add_row(Text(name), *(f"{count:,}" for count in classes[name]))
    if len(shown) < len(classes):
        smallest = largest.most_common()[-1]
        table.add_row(Text(f"and {len(classes) - len(shown):,} more, the smallest {smallest[0]} with {smallest[1]:,}"))
    return table


def _duplicate_text(found: NearDuplicates) -> Text:
    if not found.count:
        return Text(f"No near-duplicates between {found.test:,} held-out and {found.train:,} training pictures.")
    listed = [f"  {test}  ~  {train}" for test, train in found.pairs[:_SHOWN]]
    title = f"{found.count:,} of {found.test:,} held-out pictures have a near-duplicate in training:"
    remedy = "Their scores flatter. Keep what belongs together on one side with --group-by, or remove them."
    return Text("\n".join([title, *listed, remedy]), style="yellow")


def _sides(pair: np.ndarray) -> tuple[int, int]:
    return int(pair[0]), int(pair[1])


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
