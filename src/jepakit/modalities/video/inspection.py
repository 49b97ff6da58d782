"""Looks at video files before training: how many, how large and long, which rates and codecs, which are turned or damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jepakit.errors import UserError
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.files.walk import BadFile
from jepakit.modalities.modality import Inspected
from jepakit.modalities.video.collection import VideoCollection, VideoDataConfig
from jepakit.modalities.video.data import VideoData, split_videos
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.modalities.video.pictures import draw_strips
from jepakit.modalities.video.sources import names_files, read_videos
from jepakit.modalities.video.survey import codec_counts

_SHOWN = 10


@dataclass(frozen=True)
class VideoInspection:
    """What `inspect_videos` found. Sizes are (height, width) after rotation; durations in seconds, rates in frames a second,
    both smallest, median and largest, and None for folders of pictures, which have no clock."""

    name: str
    kind: str
    task: str | None
    files: tuple[int, int]
    """(train, test)."""
    clips: tuple[int, int]
    classes: dict[str, tuple[int, int]] | None
    """Files in (train, test) by class name."""
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    frame_counts: tuple[int, int, int]
    durations: tuple[float, float, float] | None
    rates: tuple[float, float, float] | None
    variable: list[str]
    """Files of a variable frame rate."""
    turned: list[str]
    """Files that ask players to turn or mirror their frames."""
    codecs: dict[str, int]
    frames: int
    fps: float | None
    stride: int | None
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bad_files: list[BadFile]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> RenderableType:
        """The same for a terminal (`rich.print`)."""
        return render_videos(self)


def inspect(
    config: VideoDataConfig, seed: int, source: object | None, example: Callable[[VideoInputs], Any] | None
) -> Inspected:
    """`inspect_videos`, and film strips of some clips with tubes hidden. Errors: clips that are no files."""
    if source is not None or not names_files(config.data):
        raise UserError(f"inspect looks at video files, and {config.data} is none, nor a folder or a list of them.")
    facts, data = inspect_videos(replace(config, stills="none", on_bad_file="skip"), seed)
    masks = None if example is None else getattr(example(VideoInputs.of(data)).config, "masks", None)
    figure = draw_strips(data, masks if isinstance(masks, TubeConfig) else TubeConfig(), seed)
    return Inspected(facts, figure, "Clips, and what tubes leave of them")


def inspect_videos(config: VideoDataConfig, seed: int) -> tuple[VideoInspection, VideoData]:
    """Read, check and split the files as `open_videos` would, and describe them; bad files are listed, not raised.

    Raises:
        UserError: there is nothing to describe (no such data, no usable file), or the labels do not fit.
    """
    collection = read_videos(replace(config, on_bad_file="skip"))
    data = split_videos(collection, config, seed)
    timelines, shapes = collection.footage.timelines, collection.shapes
    clocked = bool((timelines.bases > 0).all())
    assert data.config.frames is not None and data.config.image_size is not None  # noqa: PT018 - decided by split_videos
    found = VideoInspection(
        name=data.name,
        kind=data.kind,
        task=data.task,
        files=_files(data),
        clips=(len(data.train), len(data.test)),
        classes=_class_counts(data),
        smallest=_sides(shapes.min(axis=0)),
        median=_sides(np.median(shapes, axis=0)),
        largest=_sides(shapes.max(axis=0)),
        frame_counts=tuple(map(int, _three(timelines.counts))),  # type: ignore[arg-type]
        durations=_three(timelines.seconds) if clocked else None,
        rates=_three(timelines.rates) if clocked else None,
        variable=[collection.relative[int(file)] for file in np.flatnonzero(timelines.variable)],
        turned=[collection.relative[int(file)] for file in np.flatnonzero(collection.turned)],
        codecs=codec_counts(collection.codecs),
        frames=data.config.frames,
        fps=data.config.fps,
        stride=data.config.stride,
        image_size=data.config.image_size,
        mean=data.mean,
        std=data.std,
        bad_files=data.bad_files,
        notes=[*data.notes, *_advice(data, collection)],
    )
    return found, data


def render_videos(found: VideoInspection) -> RenderableType:
    """The same for a terminal (`rich.print`)."""
    facts = Table.grid(padding=(0, 2))
    held = f"{found.clips[1]:,} of {found.files[1]:,} held out"
    facts.add_row("clips", f"{found.clips[0]:,} of {found.files[0]:,} files to train on, {held} ({found.kind})")
    facts.add_row("encoded as", ", ".join(f"{codec} ({count:,})" for codec, count in found.codecs.items()))
    facts.add_row("height", f"{found.smallest[0]} to {found.largest[0]}, median {found.median[0]}")
    facts.add_row("width", f"{found.smallest[1]} to {found.largest[1]}, median {found.median[1]}")
    facts.add_row("frames", f"{found.frame_counts[0]:,} to {found.frame_counts[2]:,}, median {found.frame_counts[1]:,}")
    if found.durations and found.rates:
        facts.add_row("seconds", _range(found.durations))
        kept = f"variable in {len(found.variable):,} ({_some(found.variable)})" if found.variable else "constant"
        facts.add_row("frame rate", Text(f"{_range(found.rates)}; {kept}"))
    if found.turned:
        facts.add_row("turned", Text(f"{len(found.turned):,} as they ask players to: {_some(found.turned)}"))
    pace = f"{found.fps:g} a second" if found.fps else f"one in {found.stride}"
    size = f"{found.image_size[0]} x {found.image_size[1]} pixels"
    facts.add_row("model sees", f"{found.frames} frames ({pace}) of {size}")
    facts.add_row("mean, std", f"{_numbers(found.mean)}, {_numbers(found.std)}")
    parts: list[RenderableType] = [Text(found.name, style="bold"), facts]
    if found.classes:
        parts.append(_class_table(found.classes))
    if found.bad_files:
        listed = [f"  {bad.path}: {bad.reason}" for bad in found.bad_files[:_SHOWN]]
        more = [f"  and {len(found.bad_files) - _SHOWN:,} more"] if len(found.bad_files) > _SHOWN else []
        remedy = "Repair or remove them, or train with --on-bad-file skip."
        title = f"{len(found.bad_files):,} files cannot be read:"
        parts.append(Text("\n".join([title, *listed, *more, remedy]), style="red"))
    parts.extend(Text(note) for note in found.notes)
    return Group(*parts)


def _files(data: VideoData) -> tuple[int, int]:
    train, test = (len(np.unique(part.ids // data.config.clips)) for part in (data.train, data.test))
    return train, test


def _class_counts(data: VideoData) -> dict[str, tuple[int, int]] | None:
    if data.classes is None or data.task != "classification":
        return None
    sides = []
    for part in (data.train, data.test):
        _, first = np.unique(part.ids // data.config.clips, return_index=True)  # one clip of each file
        labels = np.asarray(part.labels)[first]
        sides.append(np.bincount(labels, minlength=len(data.classes)))
    return {name: (int(train), int(test)) for name, train, test in zip(data.classes, *sides, strict=True)}


def _class_table(classes: dict[str, tuple[int, int]]) -> Table:
    table = Table("class", "train", "held out", box=None)
    shown = sorted(classes, key=lambda name: -sum(classes[name]))[: 2 * _SHOWN]
    for name in [name for name in classes if name in shown]:
        table.add_row(Text(name), *(f"{count:,}" for count in classes[name]))
    if len(shown) < len(classes):
        table.add_row(f"and {len(classes) - len(shown):,} more")
    return table


def _advice(data: VideoData, collection: VideoCollection) -> list[str]:
    """What is likely to surprise, in sentences."""
    advice = []
    if data.task is None:
        advice.append("No labels: training needs none, but probes and kNN will not be computed.")
    rates, fps = collection.footage.timelines.rates, data.config.fps
    slow = int((rates < fps * 0.99).sum()) if fps else 0
    if slow:
        advice.append(f"{slow:,} files have fewer than {fps:g} frames a second: their clips show frames twice. Lower --fps.")
    height, width = data.config.image_size or (0, 0)
    small = int(((collection.shapes[:, 0] < height) | (collection.shapes[:, 1] < width)).sum())
    if small:
        advice.append(f"{small:,} files are smaller than the {height} x {width} the model sees; they are enlarged.")
    return advice


def _sides(pair: np.ndarray) -> tuple[int, int]:
    return int(pair[0]), int(pair[1])


def _three(values: np.ndarray) -> tuple[float, float, float]:
    return float(values.min()), float(np.median(values)), float(values.max())


def _range(three: tuple[float, float, float]) -> str:
    return f"{three[0]:.4g} to {three[2]:.4g}, median {three[1]:.4g}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
