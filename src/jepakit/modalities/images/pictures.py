"""Draws what a system is shown of images: blocks of a mask, views; and what it makes of held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from jepakit.modalities.images.data import ImageData

_DRAWN = 8  # images that are shown with their masks or views


def draw_inputs(system: Any, images: ImageData, seed: int) -> Figure:
    """Some images with what the system would get of them: context and target blocks, or views."""
    inputs = system.inputs
    chosen = np.random.default_rng(seed).permutation(len(images.train))[:_DRAWN]
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


def look_at(system: Any, samples: Sequence[dict[str, Any]], shown: int, seed: int) -> dict[str, Any]:
    """Pixels of all samples, and of the first `shown` the tokens and the masks or views of a training step."""
    inputs, first, found = system.inputs, samples[:shown], {}
    with torch.no_grad():
        tokens = system.encode(inputs.prepare(first))
    batch = system.collator(seed)(first)
    if "context" in batch:
        found["masks"] = read_masks(batch)
    if "views" in batch:
        found["views"] = inputs.restore(batch["views"]).numpy()
    rows, columns = (tokens.positions[0] + 1).amax(0).tolist()
    images = inputs.restore(inputs.prepare(samples)).numpy()
    return {"images": images, "tokens": tokens.values.float().numpy(), "grid": (int(rows), int(columns)), **found}


def read_masks(batch: dict[str, torch.Tensor]) -> list[tuple[list[int], list[list[int]]]]:
    """For each image of a masked batch the ids of its first context and of each target block."""
    masks = []
    for image in range(len(batch["id"])):
        kept = batch["context"][image, 0, : batch["context_lengths"][image, 0]].tolist()
        lengths = batch["target_lengths"][image].tolist()
        masks.append((kept, [block[:n].tolist() for block, n in zip(batch["targets"][image], lengths, strict=True)]))
    return masks


def show_only(image: np.ndarray, ids: list[int], grid: tuple[int, int]) -> np.ndarray:
    """The image with all tokens but these washed out; grey stands for hidden."""
    shown = np.zeros(grid[0] * grid[1], dtype=bool)
    shown[ids] = True
    patch = (image.shape[0] // grid[0], image.shape[1] // grid[1])
    mask = np.kron(shown.reshape(grid), np.ones(patch, dtype=bool))[..., None]
    return np.where(mask, image, 0.75 + 0.1 * image)
