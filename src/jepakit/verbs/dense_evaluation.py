"""Label maps beside data, and what linear probes of tokens read of them (`--evaluators segmentation --labels maps.npy`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jepakit.errors import UserError
from jepakit.evaluation.dense import evaluate_maps, patches
from jepakit.evaluation.features import Features
from jepakit.evaluation.rows import Row
from jepakit.interop.embedding import at_levels, embed_samples
from jepakit.modalities.files.arrays import map_array
from jepakit.modalities.images.crops import nearest_view
from jepakit.modalities.modality import Data, Inputs
from jepakit.verbs.probe_features import in_chunks, some

EVALUATORS = ("segmentation", "depth")
MOST_MAPS = 1_000, 500  # training and test samples at most: each has hundreds of tokens, and all are held in memory


def dense_rows(
    encoders: Mapping[str, nn.Module],
    inputs: Inputs,
    data: Data,
    evaluators: Sequence[str],
    labels: str,
    levels: tuple[int, ...] | None,
    where: torch.device,
    seed: int,
    limit: int | None = None,
) -> tuple[list[Row], tuple[int, int]]:
    """Linear probes of every encoder's tokens and of raw patches, and how many samples taught and tested them.

    labels: of the built-in digits "mask"; a .npy with a map for each sample, in the data's order; or a folder with a map
    (.png of class numbers, .npy) for each picture, of the same relative path.
    """
    if len(evaluators) > 1:
        raise UserError(f"evaluators {', '.join(evaluators)}: the labels are maps of one kind. Ask for segmentation or depth.")
    if getattr(data.config, "clips", 1) > 1:
        raise UserError("Label maps are of one clip a file, and clips is above 1. Evaluate with --data and one clip.")
    most = MOST_MAPS[0] if limit is None else min(limit, MOST_MAPS[0])
    parts = [some(data.train, most, seed), some(data.test, MOST_MAPS[1], seed)]
    size: Any = getattr(inputs, "image_size", None)
    if size is None:
        raise UserError("segmentation and depth are of pictures and clips, and this encoder reads neither.")
    maps = [np.stack(_maps(labels, part, data, size)) for part in parts]
    kind = "depth" if np.issubdtype(maps[0].dtype, np.floating) else "segmentation"
    if kind != evaluators[0]:
        remedy = "whole numbers pose segmentation, floats depth"
        raise UserError(f"{evaluators[0]}: the maps of {labels} are of type {maps[0].dtype}; {remedy}. Ask for {kind}.")
    features: list[Features] = []
    grid: Any = None
    for name, encoder in encoders.items():
        model = at_levels(encoder, levels)
        if grid is None:
            with torch.no_grad():
                positions = model(inputs.prepare([parts[0][0]]).to(where)).positions[0]
            grid = tuple(int(axis) + 1 for axis in positions.amax(0))
            if len(grid) not in (2, 3) or np.prod(grid) != len(positions):
                raise UserError("segmentation and depth need the tokens of a grid (a transformer of pictures or clips).")
        tokens = [embed_samples(model, inputs, part, device=where, pooling=None) for part in parts]
        features.append(Features(name, tokens[0].mean(1), tokens[1].mean(1), *tokens))
    assert grid is not None  # there is an encoder
    if maps[0].ndim == 4 and len(grid) == 2:
        maps = [part[:, 0] for part in maps]
    under = [patches(in_chunks(inputs.prepare, part), grid) for part in parts]
    features.append(Features(inputs.plain_name, under[0].mean(1), under[1].mean(1), *under))
    return evaluate_maps(features, maps[0], maps[1], grid, seed=seed), (len(parts[0]), len(parts[1]))


def _maps(labels: str, part: Any, data: Data, size: tuple[int, int]) -> list[NDArray]:
    """The map of each sample, `[(frames,) height, width]`, as its encoder sees the sample."""
    path = Path(labels).expanduser()
    if path.is_dir():
        return [nearest_view(_read_map(path, file, data), size) for file in _files_of(part, path)]
    if path.suffix == ".npy" and path.is_file():
        array = map_array(path)
        if array.ndim not in (3, 4) or len(array) <= int(max(data.train.ids.max(), data.test.ids.max())):
            raise UserError(
                f"labels: {path} has shape {list(array.shape)}; a map [height, width] or [frames, height, width] for each of "
                f"the {data.noun} of {data.name} is needed, in their order."
            )
        return [nearest_view(_of_frames(np.asarray(array[number]), part), size) for number in part.ids]
    known = getattr(getattr(part, "clips", None), "mask", None)
    if labels == "mask" and known is not None:
        return [nearest_view(_of_frames(known(int(number)), part), size) for number in part.ids]
    mask = ', or "mask"' if known is not None else ""
    raise UserError(f"labels: {labels} is no .npy of label maps and no folder of them. Give one{mask}.")


def _of_frames(found: NDArray, part: Any) -> NDArray:
    """Of an array's clip, the maps of those frames that are taken."""
    frames = getattr(part, "frames", None)
    return found if frames is None or found.ndim == 2 or len(found) <= int(frames.max()) else found[frames]


def _files_of(part: Any, folder: Path) -> Sequence[str]:
    if part.paths is None:
        raise UserError(f"labels: {folder} is a folder of maps, and the data is of no files. Give a .npy of maps.")
    return list(part.paths)


def _read_map(folder: Path, file: str, data: Data) -> NDArray:
    """Errors: no map of that picture, or one that is not of single numbers."""
    stem = folder / Path(os.path.relpath(file, Path(data.config.data).expanduser())).with_suffix("")
    for ending in (".png", ".npy"):
        path = stem.with_name(stem.name + ending)
        if not path.is_file():
            continue
        if ending == ".npy":
            found = map_array(path)
        else:
            from PIL import Image

            with Image.open(path) as picture:
                found = np.asarray(picture)
        if found.ndim != 2:
            raise UserError(f"labels: {path} has shape {list(found.shape)}; a map is [height, width], one number a pixel.")
        return np.asarray(found)
    raise UserError(f"labels: {stem}.png and {stem}.npy do not exist. Give a map for each picture, of the same name.")
