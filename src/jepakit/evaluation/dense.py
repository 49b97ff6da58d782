"""Dense probes: a linear layer reads each token, its outputs are drawn out to the label map's pixels, bilinearly.

The usual linear segmentation and depth of frozen features (DINOv2, arXiv 2304.07193; V-JEPA 2.1, arXiv 2603.14482). Maps of
whole numbers pose "segmentation" (mean IoU, and the accuracy of tokens), maps of real numbers "depth", or whatever else is to
be read off pixel by pixel (RMSE). The head is chosen on a part of the training data, as of every other probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Num
from numpy.typing import NDArray
from torch import Tensor, nn

from jepakit.errors import UserError
from jepakit.evaluation.features import Features
from jepakit.evaluation.heads import HeadConfig, fit_head, outputs_of_head
from jepakit.evaluation.intervals import interval_of, paired_difference
from jepakit.evaluation.metrics import METRICS
from jepakit.evaluation.rows import Row, difference_detail
from jepakit.evaluation.streaming import moments
from jepakit.randomness import derive_seed

UNLABELLED = 255  # of a map of classes, as in VOC and ADE20K: a pixel that is not counted; negative numbers neither
DENSE = HeadConfig(learning_rates=(1e-3, 1e-2, 1e-1), weight_decays=(0.01,), epochs=10, batch_size=32, max_samples=2_000)

Grid = tuple[int, int] | tuple[int, int, int]


@dataclass(frozen=True)
class MapTargets:
    """Label maps, ready to be fitted: `[n, frames, height, width]`, of pictures one frame.

    Segmentation: positions in `classes`, int64, -1 where nothing is known; depth: float64, NaN where nothing is known.
    """

    train: NDArray
    test: NDArray
    classes: tuple[int, ...] = ()

    @property
    def task(self) -> str:
        return "segmentation" if self.classes else "depth"


def read_maps(train: NDArray, test: NDArray) -> MapTargets:
    """Maps `[n, height, width]` or `[n, frames, height, width]` of both parts: of whole numbers classes, of others quantities.

    Errors: shapes that differ; a class that only the test part has; nothing known, or all of it equal.
    """
    if train.ndim not in (3, 4) or test.shape[1:] != train.shape[1:]:
        raise UserError(
            "Label maps must be [n, height, width] or [n, frames, height, width], alike in both parts, got "
            f"{list(train.shape)} and {list(test.shape)}."
        )
    parts = [part[:, None] if part.ndim == 3 else part for part in (train, test)]
    if np.issubdtype(train.dtype, np.floating):
        quantities = [part.astype(np.float64) for part in parts]
        for name, part in zip(("train", "test"), quantities, strict=True):
            known = part[np.isfinite(part)]
            if not len(known) or known.min() == known.max():
                raise UserError(f"The {name} maps hold no two numbers that differ, so nothing can be told apart.")
        filled = [np.where(np.isfinite(part), part, np.nan) for part in quantities]
        return MapTargets(filled[0], filled[1])
    codes = [part.astype(np.int64) for part in parts]
    codes = [np.where((part < 0) | (part == UNLABELLED), -1, part) for part in codes]
    classes, others = (np.setdiff1d(np.unique(part), [-1]) for part in codes)
    if len(classes) < 2 or not len(others):
        raise UserError(f"The train maps hold {len(classes)} classes; at least two are needed, and one in the test maps.")
    unseen = np.setdiff1d(others, classes)
    if len(unseen):
        raise UserError(
            f"Classes {', '.join(map(str, unseen[:8]))} are in the test maps and never in the train maps. Put samples of each "
            f"into both, or write {UNLABELLED} over them. Maps of quantities are given as floats."
        )
    counted = [np.where(part < 0, -1, np.searchsorted(classes, part)) for part in codes]
    return MapTargets(counted[0], counted[1], tuple(int(number) for number in classes))


class DenseHead(nn.Module):
    """`[batch, tokens, dim] -> [batch, outputs, frames, height, width]`: a linear layer on each standardised token of a grid
    (time, rows, columns), bilinear between their centres; in time, all frames of a token have its outputs."""

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        mean: Float[Tensor, "dim"],
        std: Float[Tensor, "dim"],
        outputs: int,
        grid: tuple[int, int, int],
        size: tuple[int, int, int],
    ):
        super().__init__()
        self.grid, self.size = grid, size
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std)
        self.linear = nn.Linear(len(mean), outputs)

    def tokens(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens outputs"]:
        """The outputs of each token."""
        return self.linear((tokens - self.mean) * self.scale)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch outputs frames height width"]:
        time, rows, _ = self.grid
        maps = rearrange(self.tokens(tokens), "b (t r c) o -> (b t) o r c", t=time, r=rows)
        maps = F.interpolate(maps, size=self.size[1:], mode="bilinear", align_corners=False)
        return rearrange(maps, "(b t) o h w -> b o t h w", t=time).repeat_interleave(self.size[0] // time, dim=2)


def evaluate_maps(
    features: Sequence[Features],
    train_maps: Num[np.ndarray, "train *frames height width"],
    test_maps: Num[np.ndarray, "test *frames height width"],
    grid: Grid,
    *,
    config: HeadConfig = DENSE,
    seed: int = 0,
) -> list[Row]:
    """A linear dense probe on every kind of features, which need tokens `[n, tokens, dim]` in raster order.

    Args:
        features: the features under test first; later rows hold the paired difference to them, as in `evaluate_features`.
        train_maps, test_maps: of whole numbers: classes (255 and negative ones are not counted); of floats: quantities (NaN are
            not counted).
        grid: (rows, columns) of the tokens, of clips (time, rows, columns).

    Errors: features without tokens, or with as many as do not fill the grid; frames that the grid's times do not divide.
    """
    targets = read_maps(train_maps, test_maps)
    shape = (1, *grid) if len(grid) == 2 else grid
    frames = targets.train.shape[1]
    if frames % shape[0]:
        raise UserError(f"Maps of {frames} frames cannot be shared among {shape[0]} times of tokens. Give one a frame.")
    rows: list[Row] = []
    first: dict[str, np.ndarray] = {}
    for one in features:
        tokens = one.train_tokens, one.test_tokens
        if tokens[0] is None or tokens[1] is None or tokens[0].shape[1] != math.prod(shape):
            found = "none" if tokens[0] is None else tokens[0].shape[1]
            raise UserError(f"features {one.name!r}: a dense probe needs {math.prod(shape)} tokens a sample, got {found}.")
        if (len(tokens[0]), len(tokens[1])) != (len(targets.train), len(targets.test)):
            parts = f"{len(tokens[0])} and {len(tokens[1])} samples but {len(targets.train)} and {len(targets.test)}"
            raise UserError(f"features {one.name!r}: {parts} label maps.")
        scores, chosen = dense_probe(tokens[0], tokens[1], targets, shape, config, seed)
        truths = _truths(targets, shape)
        for name, found_maps in scores.items():
            metric, truth = METRICS[name], truths[name]
            interval = interval_of(metric, found_maps, truth, seed)
            detail: dict[str, Any] = {"test": len(targets.test), **chosen}
            if first:
                difference = paired_difference(metric, first[name], found_maps, truth, seed=seed)
                detail["difference"] = difference_detail(features[0].name, one.name, difference)
            rows.append(Row.of(one.name, targets.task, metric, interval, detail))
        first = first or scores
    return rows


def dense_probe(
    train: Tensor,
    test: Tensor,
    targets: MapTargets,
    grid: tuple[int, int, int],
    config: HeadConfig = DENSE,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What the probe says of the test part `[m, tokens, dim]`, by metric, and what was chosen.

    Segmentation: the class of each pixel `[m, pixels]` (mean_iou) and of each token `[m, tokens]` (token_accuracy); depth: the
    quantity at each pixel (rmse).
    """
    size = targets.train.shape[1:]
    loss, back, outputs = _loss(targets, train.device)

    def new(rows: Tensor) -> nn.Module:
        mean, variance = moments(train[rows].flatten(0, 1))
        std = variance.sqrt()
        std = torch.where(std > 1e-6 * std.amax(), std, torch.inf).float().cpu()  # a constant dimension becomes 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "dense weights"))
            head = DenseHead(mean.float().cpu(), std, outputs, grid, size)
        return head.to(train.device)

    strata = np.zeros(len(train), dtype=np.int64)
    head, detail = fit_head(new, train, loss, strata, config, seed)
    assert isinstance(head, DenseHead)
    said = [back(outputs_of_head(head, part)) for part in test.split(config.batch_size)]
    pixels = np.concatenate([maps.reshape(len(maps), -1) for maps in said])
    if targets.task == "depth":
        return {"rmse": pixels}, detail
    with torch.no_grad():
        of_tokens = torch.cat([head.tokens(part.float()).argmax(-1) for part in test.split(config.batch_size)])
    return {"mean_iou": pixels, "token_accuracy": of_tokens.cpu().numpy()}, detail


def _loss(
    targets: MapTargets, device: torch.device
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], np.ndarray], int]:
    """The mean loss over the known pixels of each sample; what turns outputs into predictions; how many outputs there are."""
    if targets.task == "segmentation":
        maps = torch.from_numpy(targets.train).to(device)

        def cross_entropy(outputs: Tensor, rows: Tensor) -> Tensor:
            wanted = maps[rows]
            each = F.cross_entropy(outputs, wanted, ignore_index=-1, reduction="none")
            return each.flatten(1).sum(1) / (wanted >= 0).flatten(1).sum(1).clamp_min(1)

        return cross_entropy, lambda outputs: outputs.argmax(1).cpu().numpy().astype(np.int32), len(targets.classes)
    known = targets.train[np.isfinite(targets.train)]
    mean, scale = float(known.mean()), float(known.std())
    quantities = torch.from_numpy((targets.train - mean) / scale).float().to(device)

    def squared(outputs: Tensor, rows: Tensor) -> Tensor:
        wanted = quantities[rows]
        there = wanted.isfinite()
        each = torch.where(there, (outputs[:, 0] - torch.where(there, wanted, 0)).square(), 0)
        return each.flatten(1).sum(1) / there.flatten(1).sum(1).clamp_min(1)

    return squared, lambda outputs: outputs[:, 0].double().cpu().numpy() * scale + mean, 1


def _truths(targets: MapTargets, grid: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """The test part's pixels, and of classes the most frequent one under each token (of equal ones the first), -1 for none."""
    flat = targets.test.reshape(len(targets.test), -1)
    if targets.task == "depth":
        return {"rmse": flat}
    frames, height, width = targets.test.shape[1:]
    time, rows, columns = grid
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    token = (np.arange(frames) // (frames // time))[:, None, None] * rows * columns + row[:, None] * columns + column
    votes = np.zeros((len(flat), math.prod(grid), len(targets.classes)), dtype=np.int64)
    sample, pixel = np.nonzero(flat >= 0)
    np.add.at(votes, (sample, token.reshape(-1)[pixel], flat[sample, pixel]), 1)
    return {"mean_iou": flat, "token_accuracy": np.where(votes.any(-1), votes.argmax(-1), -1)}


def patches(inputs: Float[Tensor, "n channels *frames height width"], grid: Grid) -> Float[Tensor, "n tokens numbers"]:
    """The raw input of each token, the baseline of dense probes: what of pictures or clips lies under it.

    Errors: a grid that does not divide the input.
    """
    time, rows, columns = (1, *grid) if len(grid) == 2 else grid
    clips = inputs[:, :, None] if inputs.dim() == 4 else inputs
    if any(side % parts for side, parts in zip(clips.shape[2:], (time, rows, columns), strict=True)):
        raise UserError(f"A grid of {tuple(grid)} tokens does not divide inputs of {list(inputs.shape[1:])}.")
    return rearrange(clips, "n k (t f) (r h) (c w) -> n (t r c) (k f h w)", t=time, r=rows, c=columns)
