"""Tube masks on a (time, rows, columns) grid: blocks of places hidden in every frame (V-JEPA, arXiv 2404.08471, section 3).

A block that was hidden in some frames only could be copied from the others. A sample gets several masks, each a context with
targets of its own: short-range ones hide many small blocks, long-range ones few large ones. A grid of one frame (a still
picture) is masked in the same way. A third kind, which the paper has not, hides the clip's end in all places: what a predictor
has to be asked for who would know what comes next (`evaluation.continuation`, anticipation).

The released sampler (`src/masks/multiblock3d.py`) cuts all contexts and targets of a batch to the shortest, in raster order,
so that the last frames lose tokens. Here nothing is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepakit.errors import UserError, check_range
from jepakit.masks.blocks import BlockMasks, draw_blocks
from jepakit.masks.cells import cells_to_ids
from jepakit.randomness import Draws

ATTEMPTS = 64  # layouts drawn at most; the first that leaves a large enough context is taken, mostly the first of all


@dataclass(frozen=True, kw_only=True)
class TubeConfig:
    """How tubes are drawn. Scales are shares of a frame's area, aspect is rows over columns; all as released."""

    short_blocks: int = 8
    """Blocks of a short-range mask; 0: no such mask."""
    short_scale: tuple[float, float] = (0.15, 0.15)
    """Area of each of them. They may overlap."""
    long_blocks: int = 2
    """Blocks of a long-range mask; 0: no such mask."""
    long_scale: tuple[float, float] = (0.7, 0.7)
    """Area of each of them."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Aspect of a block."""
    future: tuple[float, float] | None = None
    """Share of a clip's time that a mask of its end hides, at least one step and not all; None: no such mask."""
    min_keep: int = 4
    """Fewest places of a frame that a context keeps (the released code's 1); capped at an eighth of the frame."""

    def __post_init__(self) -> None:
        check_range("masks.short_blocks", self.short_blocks, 0)
        check_range("masks.long_blocks", self.long_blocks, 0)
        check_range("masks.min_keep", self.min_keep, 1)
        if self.short_blocks + self.long_blocks == 0:
            raise UserError("masks.short_blocks and masks.long_blocks are both 0: nothing would be predicted. Set one above 0.")
        for name in ("short_scale", "long_scale", "future"):
            low, high = getattr(self, name) or (0.5, 0.5)  # no future: nothing to check
            if not 0 < low <= high < 1:
                raise UserError(f"masks.{name} must be two numbers with 0 < low <= high < 1, got {low} {high}.")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(f"masks.aspect must be two numbers with 0 < low <= high, got {self.aspect[0]} {self.aspect[1]}.")

    @property
    def kinds(self) -> list[tuple[int, tuple[float, float]]]:
        """Blocks and scale of each mask of a sample that hides tubes."""
        both = [(self.short_blocks, self.short_scale), (self.long_blocks, self.long_scale)]
        return [(blocks, scale) for blocks, scale in both if blocks > 0]

    @property
    def count(self) -> int:
        """Kinds of masks: so many mask tokens a predictor has."""
        return len(self.kinds) + (self.future is not None)


class Tubes:
    """`tubes(draws) -> BlockMasks`, ids in raster order of the grid, targets `[batch, masks, 1, predicted]`.

    The targets of a mask are the union of its tubes, its context is everything else: no token is in neither. Where a block
    lies and how large it is: `draw_blocks`.

    Args:
        config: how tubes are drawn.
        grid: (time, rows, columns) of the tokens.
        masks: how many for each sample, short- and long-range in turn; None: one of each kind (one frame has no end to hide).
    """

    def __init__(self, config: TubeConfig, grid: tuple[int, int, int], masks: int | None = None):
        places = grid[1] * grid[2]
        if places < 4:
            raise UserError(f"A frame of {grid[1]} x {grid[2]} tokens is too small to mask. Use a smaller patch_size.")
        kinds = config.kinds
        self.kinds = [kinds[i % len(kinds)] for i in range(len(kinds) if masks is None else masks)]
        self.config, self.grid = config, grid
        self.future = config.future if masks is None and grid[0] > 1 else None
        self.min_keep = min(config.min_keep, max(1, places // 8))

    def __call__(self, draws: Draws) -> BlockMasks:
        """Masks for the batch of `draws`.

        Each mask takes its first layout that leaves a large enough context; failing all, the one that leaves most.
        """
        (time, rows, columns), all_draws = self.grid, draws
        hidden = np.zeros((len(draws), len(self.kinds), rows * columns), dtype=bool)
        most = np.zeros((len(draws), len(self.kinds)), dtype=np.int64)  # places left by the layout taken so far
        pending = np.arange(len(draws))
        for _ in range(ATTEMPTS):
            drawn = [draw_blocks(draws, blocks, scale, self.config.aspect, (rows, columns)) for blocks, scale in self.kinds]
            layout = np.stack([blocks.any(axis=1) for blocks in drawn], axis=1)
            left = layout.shape[-1] - np.count_nonzero(layout, axis=-1)
            sample, mask = np.nonzero((most[pending] < self.min_keep) & (left > most[pending]))
            hidden[pending[sample], mask], most[pending[sample], mask] = layout[sample, mask], left[sample, mask]
            unsettled = (most[pending] < self.min_keep).any(axis=1)
            if not unsettled.any():
                break
            pending, draws = pending[unsettled], draws.some(np.flatnonzero(unsettled))
        if (most == 0).any():
            raise UserError(
                f"The tubes cover all {rows} x {columns} places of a frame and leave no context. Lower masks.short_scale or "
                "masks.long_scale, or use a smaller patch_size."
            )
        if self.future is None:
            return BlockMasks(*cells_to_ids(~hidden, time), *cells_to_ids(hidden[:, :, None], time))
        steps = np.clip(np.round(all_draws.uniform(low=self.future[0], high=self.future[1]) * time), 1, time - 1)
        end = np.repeat(np.arange(time) >= (time - steps)[:, None], rows * columns, axis=1)
        cells = np.concatenate([np.tile(hidden, time), end[:, None]], axis=1)
        return BlockMasks(*cells_to_ids(~cells), *cells_to_ids(cells[:, :, None]))
