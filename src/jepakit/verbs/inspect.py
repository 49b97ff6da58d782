"""`inspect`: look at a data set before training on it, and at what a system would hide or show of it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from jepakit.config import OBJECT, default_config
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.files import write_atomic
from jepakit.modalities.counting import inspector
from jepakit.modalities.modality import Inputs, Inspection, Modality
from jepakit.registry import MODALITIES, load_modality, load_named, load_system

_TEST_FRACTION = 0.2


def inspect(
    data: Any,
    *,
    system: str = "i-jepa",
    labels: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    test_fraction: float = _TEST_FRACTION,
    group_by: str | None = None,
    frames: int | None = None,
    fps: float | None = None,
    stride: int | None = None,
    clips: int = 1,
    picture: Path = Path("inspection.png"),
    seed: int = 0,
) -> Inspection:
    """Count, check and show a data set: sizes, classes, bad files, near-duplicates across the split, and a picture.

    Of videos: durations, frame rates, codecs, files that are turned, and film strips of some clips with tubes hidden. Of
    trajectories: episodes, lengths, actions, returns, a store's checksums, and a picture of some episodes.

    Args:
        data: a folder of pictures or videos, a list of videos, an array file, a built-in name, or a Hugging Face data set
            object; an episode store or what else holds trajectories.
        system: whose masks or views the picture shows; one of trajectories for their built-in names.
        labels: a CSV (columns path, label), or "none" to ignore labels.
        image_size: height and width the model would see.
        channels: 1 (grey) or 3 (colour).
        test_fraction: part that would be held out.
        group_by: a CSV column or path:K; groups stay on one side of the split.
        frames: of a clip of a video file; 16 where nothing is said.
        fps: frames a second of a clip; 4 where nothing is said.
        stride: take every stride-th frame instead.
        clips: of a video file.
        picture: PNG file to write.
        seed: of the masks and views.
    """
    if picture.suffix.lower() != ".png":
        raise UserError(f"--picture {picture}: the picture is a PNG. Use {picture.with_suffix('.png')}.")
    place = os.fspath(data) if isinstance(data, str | os.PathLike) else None
    modality = _modality_of(place, system)
    options: dict[str, Any] = {
        "labels": labels, "image_size": image_size, "channels": channels, "group_by": group_by, "frames": frames, "fps": fps,
        "stride": stride, "clips": None if clips == 1 else clips,
        "test_fraction": None if test_fraction == _TEST_FRACTION else test_fraction,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    known = {field.name for field in dataclasses.fields(modality.Config)}
    for name in given.keys() - known:
        raise UserError(f"{name}: {modality.name} have no such option. Leave --{name.replace('_', '-')} out.")
    config = modality.Config(data=OBJECT if place is None else place, **given)
    look = inspector(modality) if modality.inspect is None else load_named(modality.inspect)

    def example(inputs: Inputs) -> System:
        return load_system(system)(default_config(system, config.data).model, inputs, seed)

    of_system = load_system(system).modality is modality
    inspected = look(config, seed, data if place is None else None, example if of_system else None)
    console = Console()
    console.print(inspected.facts.render())
    _save(inspected.figure, picture)
    console.print(f"{inspected.caption}: {picture}")
    return inspected.facts


def _modality_of(place: str | None, system: str) -> Modality:
    """The modality whose data a path can only be; where it could be any, the system's."""
    if place is not None:
        for name in MODALITIES:
            if load_modality(name).holds(place):
                return load_modality(name)
    return load_system(system).modality


def _save(figure: Figure, picture: Path) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(picture, lambda path: figure.savefig(path, format="png", dpi=110))
