"""`inspect`: look at a data set before training on it, and at what a system would hide or show of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from jepakit.config import default_config
from jepakit.errors import UserError
from jepakit.files import write_atomic
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import ImageData, open_images
from jepakit.modalities.images.inputs import IMAGES, ImageInputs
from jepakit.modalities.images.inspection import ImageInspection, inspect_images, render_inspection
from jepakit.modalities.images.pictures import show_only
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, read_trajectories
from jepakit.modalities.trajectories.inputs import TRAJECTORIES
from jepakit.modalities.trajectories.inspection import (
    TrajectoryInspection,
    holds_trajectories,
    inspect_trajectories,
    render_trajectories,
)
from jepakit.modalities.trajectories.pictures import draw_episodes
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.inputs import VIDEO
from jepakit.modalities.video.inspection import VideoInspection, inspect_videos, render_videos
from jepakit.modalities.video.pictures import draw_strips
from jepakit.modalities.video.sources import holds_videos, names_files
from jepakit.registry import load_system
from jepakit.verbs.report import read_masks

PICTURED = 8  # images that are shown with their masks or views


def inspect(
    data: Any,
    *,
    system: str = "i-jepa",
    labels: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    test_fraction: float = 0.2,
    group_by: str | None = None,
    frames: int | None = None,
    fps: float | None = None,
    stride: int | None = None,
    clips: int = 1,
    picture: Path = Path("inspection.png"),
    seed: int = 0,
) -> ImageInspection | VideoInspection | TrajectoryInspection:
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
    modality = load_system(system).modality
    if modality is TRAJECTORIES or (isinstance(data, str | os.PathLike) and holds_trajectories(os.fspath(data))):
        return _inspect_episodes(data, picture)
    if isinstance(data, str | os.PathLike) and (modality is VIDEO or holds_videos(os.fspath(data))):
        videos = VideoDataConfig(
            data=os.fspath(data), labels=labels, frames=frames, fps=fps, stride=stride, clips=clips, image_size=image_size,
            test_fraction=test_fraction, group_by=group_by, on_bad_file="skip", stills="none",
        )  # fmt: skip
        return _inspect_videos(videos, system, picture, seed)
    if modality is not IMAGES:
        raise UserError(f"inspect looks at images, video files and trajectories so far, and {system} reads {modality.name}.")
    source = None if isinstance(data, str | os.PathLike) else data
    config = ImageDataConfig(
        data="object" if source is not None else os.fspath(data),
        labels=labels,
        image_size=image_size,
        channels=channels,
        test_fraction=test_fraction,
        group_by=group_by,
        on_bad_file="skip",
    )
    found = inspect_images(config, seed, source)
    console = Console()
    console.print(render_inspection(found))
    _save(draw_inputs(system, open_images(config, seed, source), seed), picture)
    console.print(f"What {system} would be shown: {picture}")
    return found


def _inspect_videos(config: VideoDataConfig, system: str, picture: Path, seed: int) -> VideoInspection:
    if not names_files(config.data):
        raise UserError(f"inspect looks at video files, and {config.data} is none, nor a folder or a list of them.")
    found, videos = inspect_videos(config, seed)
    console = Console()
    console.print(render_videos(found))
    masks = getattr(default_config(system, config.data).model, "masks", None)
    _save(draw_strips(videos, masks if isinstance(masks, TubeConfig) else TubeConfig(), seed), picture)
    console.print(f"Clips, and what tubes leave of them: {picture}")
    return found


def _inspect_episodes(data: Any, picture: Path) -> TrajectoryInspection:
    source = None if isinstance(data, str | os.PathLike) else data
    config = TrajectoryDataConfig(data="object" if source is not None else os.fspath(data))
    episodes, kind = read_trajectories(config, source)
    found = inspect_trajectories(episodes, config.data, kind)
    console = Console()
    console.print(render_trajectories(found))
    _save(draw_episodes(episodes), picture)
    console.print(f"Episodes: {picture}")
    return found


def _save(figure: Figure, picture: Path) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(picture, lambda path: figure.savefig(path, format="png", dpi=110))


def draw_inputs(name: str, images: ImageData, seed: int) -> Figure:
    """Some images with what the system would get of them: context and target blocks, or views."""
    inputs = ImageInputs.of(images)
    system = load_system(name)(default_config(name, images.config.data).model, inputs, seed)
    chosen = np.random.default_rng(seed).permutation(len(images.train))[:PICTURED]
    samples = [images.train[int(i)] for i in chosen]
    batch = system.collator(seed)(samples)
    originals = inputs.restore(inputs.prepare(samples)).permute(0, 2, 3, 1).numpy()
    if "context" in batch:
        cropped = inputs.restore(batch["inputs"]).permute(0, 2, 3, 1).numpy()
        titles = ["image", "context", *(f"target {m + 1}" for m in range(batch["targets"].shape[1]))]
        rows = []
        for original, image, (context, targets) in zip(originals, cropped, read_masks(batch), strict=True):
            rows.append([original, *(show_only(image, ids, system.grid) for ids in (context, *targets))])
    else:
        views = inputs.restore(batch["views"]).permute(0, 1, 3, 4, 2).numpy()
        titles = ["image", *(f"view {v + 1}" for v in range(views.shape[1]))]
        rows = [[original, *shown] for original, shown in zip(originals, views, strict=True)]
    figure = Figure(figsize=(1.3 * len(titles), 1.3 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, image in zip(line, row, strict=True):
            axis.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure
