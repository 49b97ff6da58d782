"""Label maps beside data, and what linear probes of tokens read of them (`--evaluators segmentation --labels maps.npy`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.evaluation.dense import Grid, evaluate_maps, patches
from jepakit.evaluation.evaluated_model import EvaluatedModel
from jepakit.evaluation.evaluators.evaluator import EvaluationOptions, Evaluator, Measured, When
from jepakit.evaluation.features import Features
from jepakit.evaluation.frozen_features import in_chunks, some
from jepakit.evaluation.metrics import METRICS, Metric
from jepakit.evaluation.rows import Row
from jepakit.interop.embedding import at_levels, embed_samples
from jepakit.modalities.files.arrays import map_array
from jepakit.modalities.modality import ClipSamples, Data, Inputs

MOST_MAPS = 1_000, 500  # training and test samples at most: each has hundreds of tokens, and all are held in memory


class LabelMaps(Evaluator):
    """Linear probes of every encoder's tokens and of raw patches, for maps of classes or of quantities.

    `labels` is "mask" where the data knows it; a .npy with a map for each sample, in the data's order; or a folder with a map
    (.png of class numbers, .npy) for each picture, of the same relative path.
    """

    when: ClassVar[When] = "asked for"
    label_kind: ClassVar[str] = "label maps"
    metrics: ClassVar[tuple[Metric, ...]] = tuple(METRICS[name] for name in ("mean_iou", "token_accuracy", "rmse"))

    def fits(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> str | None:
        names = self.names or ("segmentation",)
        if options.labels is None:
            return f"{names[0]} is measured by label maps. Give them: --labels maps.npy."
        if options.anticipates:
            return f"{names[0]} is of what is seen. Leave seen and ahead out."
        if len(names) > 1:
            return f"evaluators {', '.join(names)}: the labels are maps of one kind. Ask for segmentation or depth."
        if getattr(data.config, "clips", 1) > 1:
            return "Label maps are of one clip a file, and clips is above 1. Evaluate with --data and one clip."
        if not model.inputs.has_maps:
            return "segmentation and depth are of pictures and clips, and this encoder reads neither."
        return None

    def rows(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> list[Row]:
        return list(self.measure(model, data, options).rows)

    def measure(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> Measured:
        """Return the rows, and how many samples have maps that are read."""
        inputs, labels, seed = model.inputs, str(options.labels), model.seed
        most = MOST_MAPS[0] if options.limit is None else min(options.limit, MOST_MAPS[0])
        parts = [some(data.train, most, seed), some(data.test, MOST_MAPS[1], seed)]
        maps = [np.stack(_maps(labels, part, data, inputs)) for part in parts]
        kind = "depth" if np.issubdtype(maps[0].dtype, np.floating) else "segmentation"
        if self.names is not None and kind != self.names[0]:
            remedy = "whole numbers pose segmentation, floats depth"
            raise UserError(f"{self.names[0]}: the maps of {labels} are of type {maps[0].dtype}; {remedy}. Ask for {kind}.")
        features: list[Features] = []
        grid: Grid | None = None
        for name, encoder in model.encoders.items():
            levels = at_levels(encoder, options.levels)
            grid = grid or _grid(levels, inputs.prepare([parts[0][0]]).to(model.device))
            tokens = [embed_samples(levels, inputs, part, device=model.device, pooling=None) for part in parts]
            features.append(Features(name, tokens[0].mean(1), tokens[1].mean(1), *tokens))
        assert grid is not None  # there is an encoder
        if maps[0].ndim == 4 and len(grid) == 2:
            maps = [part[:, 0] for part in maps]
        under = [patches(in_chunks(inputs.prepare, part), grid) for part in parts]
        features.append(Features(inputs.plain_name, under[0].mean(1), under[1].mean(1), *under))
        rows = evaluate_maps(features, maps[0], maps[1], grid, seed=seed)
        return Measured(rows=rows, counts=(len(parts[0]), len(parts[1])))


@torch.no_grad()
def _grid(encoder: Any, sample: Any) -> Grid:
    """The grid of a sample's tokens. Errors: they fill none."""
    positions = encoder(sample).positions[0]
    grid = tuple(int(axis) + 1 for axis in positions.amax(0))
    if len(grid) not in (2, 3) or np.prod(grid) != len(positions):
        raise UserError("segmentation and depth need the tokens of a grid (a transformer of pictures or clips).")
    return grid  # type: ignore[return-value]


def _maps(labels: str, part: Any, data: Data, inputs: Inputs) -> list[NDArray]:
    """The map of each sample, `[(frames,) height, width]`, as its encoder sees the sample."""
    path = Path(labels).expanduser()
    if path.is_dir():
        return [inputs.map_view(_read_map(path, file, data)) for file in _files_of(part, path)]
    if path.suffix == ".npy" and path.is_file():
        array = map_array(path)
        if array.ndim not in (3, 4) or len(array) <= int(max(data.train.ids.max(), data.test.ids.max())):
            raise UserError(
                f"labels: {path} has shape {list(array.shape)}; a map [height, width] or [frames, height, width] for each of "
                f"the {data.noun} of {data.name} is needed, in their order."
            )
        return [inputs.map_view(_of_frames(np.asarray(array[number]), part)) for number in part.ids]
    known = [part.mask(index) for index in range(len(part))] if isinstance(part, ClipSamples) else [None]
    masks = [mask for mask in known if mask is not None]
    if labels == "mask" and masks:
        return [inputs.map_view(mask) for mask in masks]
    mask = ', or "mask"' if masks else ""
    raise UserError(f"labels: {labels} is no .npy of label maps and no folder of them. Give one{mask}.")


def _of_frames(maps: NDArray, part: Any) -> NDArray:
    """Of an array's clip, the maps of those frames that are taken."""
    if not isinstance(part, ClipSamples) or maps.ndim == 2 or len(maps) <= int(part.frames.max()):
        return maps
    return maps[part.frames]


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
