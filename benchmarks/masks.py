"""Mask sampling for a batch of 256: ours against a loop over the samples, as the released collators draw them."""

from __future__ import annotations

import math

import numpy as np
import torch

from benchmarks.timing import Result, compare
from jepakit.masks.blocks import MultiBlockConfig, multi_block
from jepakit.masks.tubes import TubeConfig, Tubes
from jepakit.randomness import Draws

BATCH, GRID, FRAMES = 256, (14, 14), 8


def multi_block_loop(batch: int) -> tuple[list, list]:
    """I-JEPA's multi-block masks image by image: block sizes once for the batch, places drawn for each block of each image,
    contexts cut to the shortest (the algorithm of `src/masks/multiblock.py`, written from its description)."""
    rows, columns = GRID

    def size(scale, aspect):
        u = torch.rand(1).item()
        area, ratio = int(rows * columns * (scale[0] + u * (scale[1] - scale[0]))), aspect[0] + u * (aspect[1] - aspect[0])
        return min(round(math.sqrt(area * ratio)), rows - 1), min(round(math.sqrt(area / ratio)), columns - 1)

    def block(height, width):
        top, left = int(torch.randint(0, rows - height, (1,))), int(torch.randint(0, columns - width, (1,)))
        inside = torch.zeros(rows, columns, dtype=torch.int32)
        inside[top : top + height, left : left + width] = 1
        return inside

    target_size, context_size = size((0.15, 0.2), (0.75, 1.5)), size((0.85, 1.0), (1.0, 1.0))
    contexts, targets = [], []
    for _ in range(batch):
        drawn = [block(*target_size) for _ in range(4)]
        free = torch.ones(rows, columns, dtype=torch.int32)
        for one in drawn:
            free *= 1 - one
        kept = torch.nonzero((block(*context_size) * free).flatten()).squeeze(1)
        while len(kept) <= 10:
            kept = torch.nonzero((block(*context_size) * free).flatten()).squeeze(1)
        contexts.append(kept)
        targets.append([torch.nonzero(one.flatten()).squeeze(1) for one in drawn])
    shortest = min(map(len, contexts))
    stacked = torch.utils.data.default_collate([[one[:shortest]] for one in contexts])
    return stacked, torch.utils.data.default_collate(targets)


def tube_loop(batch: int) -> list:
    """V-JEPA's tubes clip by clip: 8 small blocks, or 2 large ones, through all frames (as in `src/masks/multiblock3d.py`)."""
    rows, columns = GRID
    found = []
    for blocks, scale in ((8, 0.15), (2, 0.7)):
        contexts, targets = [], []
        ratio = torch.empty(1).uniform_(0.75, 1.5).item()
        height = min(round(math.sqrt(scale * rows * columns * ratio)), rows)
        width = min(round(math.sqrt(scale * rows * columns / ratio)), columns)
        for _ in range(batch):
            kept = torch.zeros(0)
            while len(kept) == 0:
                free = torch.ones(FRAMES, rows, columns, dtype=torch.int32)
                for _ in range(blocks):
                    top = int(torch.randint(0, rows - height + 1, (1,)))
                    left = int(torch.randint(0, columns - width + 1, (1,)))
                    one = torch.ones(FRAMES, rows, columns, dtype=torch.int32)
                    one[:, top : top + height, left : left + width] = 0
                    free *= one
                kept = torch.nonzero(free.flatten()).squeeze(1)
            contexts.append(kept)
            targets.append(torch.nonzero(1 - free.flatten()).squeeze(1))
        for lists in (contexts, targets):
            shortest = min(map(len, lists))
            found.append(torch.utils.data.default_collate([ids[:shortest] for ids in lists]))
    return found


def run() -> list[Result]:
    paper = multi_block(
        MultiBlockConfig(targets=4, contexts=1, target_scale=(0.15, 0.2), predict="separate"), GRID
    )
    tubes = Tubes(TubeConfig(), (FRAMES, *GRID))

    def draws(start: int = 0, count: int = BATCH) -> Draws:
        return Draws(0, "masks", 0, np.arange(start, start + count))

    return [
        compare(
            f"masks: multi-block, {BATCH} images on 14 x 14",
            lambda: paper(draws()), lambda: multi_block_loop(BATCH),
            "the loop cuts all contexts to the shortest; ours keeps every token, and can be drawn again", memory=False,
        ),
        compare(
            "masks: multi-block, our sampler one by one",
            lambda: paper(draws()), lambda: [paper(draws(i, 1)) for i in range(BATCH)], repeats=2, memory=False,
        ),
        compare(
            f"masks: tubes, {BATCH} clips on 8 x 14 x 14",
            lambda: tubes(draws()), lambda: tube_loop(BATCH), repeats=3, memory=False,
        ),
    ]  # fmt: skip
