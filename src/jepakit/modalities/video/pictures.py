"""Draws clips as film strips, and below each what tube masks leave of it; and what a system makes of held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from jepakit.masks.tubes import TubeConfig, Tubes
from jepakit.modalities.pixels import unit
from jepakit.modalities.video.data import VideoData
from jepakit.modalities.video.samples import pixels_of
from jepakit.nn.flow import FlowPredictor
from jepakit.randomness import Draws

_CLIPS, _FRAMES, _ROWS = 4, 8, 8  # clips drawn, frames of each, rows of tokens that masks are drawn on


def draw_strips(data: VideoData, masks: TubeConfig, seed: int) -> Figure:
    """Some training clips, the frames in a row from first to last, and each again with one context for each kind of mask: what
    is hidden is washed out. The grid of tokens has 8 rows (fewer for very small frames) and as wide columns."""
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:_CLIPS]
    samples = [data.train[int(index)] for index in chosen]
    clips = [unit(pixels_of(sample)).permute(0, 2, 3, 1).numpy() for sample in samples]
    grid = grid_of(clips[0].shape[1:3])
    shown = np.unique(np.linspace(0, len(clips[0]) - 1, _FRAMES).astype(int))
    draws = Draws(seed, "masks", 0, [sample["id"] for sample in samples])
    kept = context_places(Tubes(masks, (1, *grid)), draws)
    kinds = ["short" if scale == masks.short_scale else "long" for _, scale in masks.kinds]
    lines = len(clips) * (1 + len(kinds))
    figure = Figure(figsize=(1.3 * len(shown) + 0.6, 1.35 * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, len(shown), squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for number, (clip, sample) in enumerate(zip(clips, samples, strict=True)):
        block = axes[number * (1 + len(kinds)) : (number + 1) * (1 + len(kinds))]
        block[0, 0].set_ylabel(_title(data, sample["id"], int(chosen[number])), fontsize=6)
        for line, kind in zip(block[1:], kinds, strict=True):
            line[0].set_ylabel(f"{kind}-range mask", fontsize=6)
        for column, frame in enumerate(shown):
            block[0, column].set_title(f"frame {frame + 1}", fontsize=6)
            views = [clip[frame], *(washed_out(clip[frame], places) for places in kept[number])]
            for axis, view in zip(block[:, column], views, strict=True):
                axis.imshow(view.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure


def grid_of(size: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of tokens that are about square: 8 rows, and no more than a frame has pixels."""
    rows = min(_ROWS, size[0])
    return rows, min(size[1], max(2, round(size[1] / size[0] * rows)))


def context_places(tubes: Tubes, draws: Draws) -> Bool[np.ndarray, "batch masks rows columns"]:
    """Which places of a frame each mask leaves to the context."""
    drawn = tubes(draws).batch()
    context, lengths = drawn["context"], drawn["context_lengths"]
    batch, masks = lengths.shape
    _, rows, columns = tubes.grid
    kept = torch.zeros(batch, masks, rows * columns, dtype=torch.bool)
    for sample in range(batch):
        for mask in range(masks):
            kept[sample, mask, context[sample, mask, : int(lengths[sample, mask])]] = True
    return kept.reshape(batch, masks, rows, columns).numpy()


def washed_out(
    frame: Float[np.ndarray, "height width channels"], kept: Bool[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "height width channels"]:
    """The frame with all but these places washed out; grey stands for hidden."""
    rows, columns = (np.arange(side) * count // side for side, count in zip(frame.shape, kept.shape, strict=False))
    return np.where(kept[rows[:, None], columns][..., None], frame, 0.75 + 0.1 * frame)


def _title(data: VideoData, number: int, index: int) -> str:
    """The file a clip is of, or its number."""
    paths = data.train.paths
    return f"clip {number}" if paths is None else paths[index].replace("\\", "/").rsplit("/", 1)[-1][-24:]


def look_at(system: Any, samples: Sequence[dict[str, Any]], shown: int, seed: int) -> dict[str, Any]:
    """Pixels of all samples at their middle frame, and of the first `shown` the tokens, the masks of a training step (of
    several one a clip, in turn) and the motion that was found."""
    inputs, first, found = system.inputs, samples[:shown], {}
    prepared = inputs.prepare(samples)
    middle = prepared.shape[2] // 2
    with torch.no_grad():
        tokens = system.encode(prepared[:shown])
    if tokens.positions.shape[-1] == 3:
        times, rows, columns = (tokens.positions[0] + 1).amax(0).tolist()
        at, cells = int(middle * times // prepared.shape[2]), int(rows * columns)
        found = {"tokens": tokens.values[:, at * cells : (at + 1) * cells].float().numpy(), "grid": (int(rows), int(columns))}
        batch = system.collator(seed)(first)
        batch = batch.get("video", batch)
        if "context" in batch:
            found["masks"] = [
                (_inside(batch["context"][clip, kind], batch["context_lengths"][clip, kind], at, cells),
                 [_inside(batch["targets"][clip, kind], batch["target_lengths"][clip, kind], at, cells)])
                for clip in range(shown) for kind in [clip % batch["context"].shape[1]]
            ]  # fmt: skip
    predictor = getattr(system, "predictor", None)
    if isinstance(predictor, FlowPredictor):
        pairs = prepared[:shown, :, middle - 1 : middle + 1].transpose(1, 2)
        with torch.no_grad():
            flows = predictor.between(system.encoders()["encoder"], pairs[:, 0], pairs[:, 1])
        found |= {"moving": inputs.unit(pairs).numpy(), "flows": flows.float().numpy()}
    return {"images": inputs.unit(prepared[:, :, middle]).numpy(), "of_clips": True, **found}


def _inside(ids: torch.Tensor, length: torch.Tensor, time: int, cells: int) -> list[int]:
    """Those of the first `length` tokens that are of one time step, counted within it."""
    kept = ids.flatten()[: int(length.flatten()[0])]
    return [int(i) - time * cells for i in kept if time * cells <= i < (time + 1) * cells]
