"""Multi-block masks on a 2-D grid: what the context keeps and what is predicted (I-JEPA, arXiv 2301.08243, section 3).

Two samplers with one output. `MultiBlock` is the corrected one and the default. `LegacyMultiBlock` draws as the
released code does, for exact comparisons, with its known faults:

- one size for the whole batch, scale and aspect ratio from one and the same random number;
- the last row and the last column are never part of any block (ijepa#40);
- contexts are cut to the shortest of the batch in raster order, so the bottom rows are lost (ijepa#60).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepakit.errors import UserError, check_choice, check_range
from jepakit.masks.cells import cells_to_ids
from jepakit.randomness import Draws

ATTEMPTS = 8  # layouts drawn for each sample; the first with a large enough context is taken


@dataclass(frozen=True, kw_only=True)
class MultiBlockConfig:
    """How blocks are drawn. Scales are shares of the grid's area, aspect is rows over columns."""

    sampler: Literal["corrected", "legacy"] = "corrected"
    """corrected, or legacy: as the released code draws, faults included."""
    contexts: int = 2
    """Context masks for each image (the paper's 1); they share the target blocks."""
    targets: int = 10
    """Target blocks for each image (the paper's 4). Many small ones suit small grids; they may overlap."""
    target_scale: tuple[float, float] = (0.06, 0.1)
    """Area of a target block (the paper's 0.15 0.2)."""
    target_aspect: tuple[float, float] = (0.75, 1.5)
    """Aspect of a target block."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Area of the context block, before the targets are taken out."""
    predict: Literal["joint", "parallel", "separate"] = "joint"
    """How the predictor is asked for an image's blocks. joint: in one pass over their union, all seeing one another (V-JEPA);
    parallel: in one pass, each block sees the context and itself; separate: in a pass for each block, as the paper does."""
    min_keep: int = 10
    """Fewest tokens of a context; capped at a quarter of the grid."""

    def __post_init__(self) -> None:
        check_choice("masks.sampler", self.sampler, ("corrected", "legacy"))
        check_choice("masks.predict", self.predict, ("joint", "parallel", "separate"))
        check_range("masks.contexts", self.contexts, 1)
        check_range("masks.targets", self.targets, 1)
        check_range("masks.min_keep", self.min_keep, 1)
        for name in ("target_scale", "context_scale", "target_aspect"):
            low, high = getattr(self, name)
            limit = 1.0 if name.endswith("scale") else float("inf")
            if not 0 < low <= high <= limit:
                bound = "0 < low <= high <= 1" if name.endswith("scale") else "0 < low <= high"
                raise UserError(f"masks.{name} must be two numbers with {bound}, got {low} {high}.")


@dataclass(frozen=True)
class BlockMasks:
    """Kept and predicted token ids of a batch, padded at the end with a valid id.

    context `[batch, contexts, kept]`, context_lengths `[batch, contexts]`,
    targets `[batch, blocks, predicted]`, target_lengths `[batch, blocks]`; blocks predicted in one pass count as one.
    Where each context has blocks of its own: `[batch, contexts, blocks, predicted]` and `[batch, contexts, blocks]`.
    parts: for blocks predicted in parallel, which of them (from 1) each of the targets belongs to, in the targets' shape.
    """

    context: Tensor
    context_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    parts: Tensor | None = None

    def batch(self) -> dict[str, Tensor]:
        """Under the names that a masked batch has for them."""
        named = {
            "context": self.context,
            "context_lengths": self.context_lengths,
            "targets": self.targets,
            "target_lengths": self.target_lengths,
        }
        return named if self.parts is None else {**named, "target_parts": self.parts}


def _inside(top: NDArray, left: NDArray, height: NDArray, width: NDArray, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which cells lie inside blocks: `[...] -> [..., rows * columns]`."""
    rows, columns = np.arange(grid[0])[:, None], np.arange(grid[1])[None, :]
    t, l, h, w = (a[..., None, None] for a in (top, left, height, width))  # noqa: E741
    cells = ((rows >= t) & (rows < t + h)) & ((columns >= l) & (columns < l + w))
    return cells.reshape(*top.shape, grid[0] * grid[1])


def _asked(targets: NDArray[np.bool_], config: MultiBlockConfig) -> tuple[Tensor, ...]:
    """Ids and lengths of the target blocks `[batch, blocks, cells]`, or of one block made of them, and its parts."""
    if config.predict == "separate":
        return cells_to_ids(targets)
    if config.predict == "joint":
        return cells_to_ids(np.logical_or.reduce(targets, axis=1, keepdims=True))
    batch, blocks, cells = targets.shape
    ids, lengths = cells_to_ids(targets.reshape(batch, 1, blocks * cells))
    return ids % cells, lengths, ids // cells + 1


def draw_blocks(
    draws: Draws, count: int, scale: tuple[float, float], aspect: tuple[float, float], grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """Cells inside `count` blocks a sample, `[batch, count, cells]`: the area uniform in `scale`, the aspect log-uniform, the
    corner uniform over all places where the block fits."""
    rows, columns = grid
    unit = draws.uniform(4, count)  # drawn at once: area, aspect, top, left
    area = (scale[0] + unit[:, 0] * (scale[1] - scale[0])) * rows * columns
    low, high = np.log(aspect[0]), np.log(aspect[1])
    ratio = np.exp(low + unit[:, 1] * (high - low))
    # A side that would leave the grid gives way to the other, so that the area stays.
    height = np.clip(np.round(np.sqrt(area * ratio)), np.ceil(area / columns), rows).astype(np.int64)
    width = np.clip(np.round(area / height), 1, columns).astype(np.int64)
    top = np.floor(unit[:, 2] * (rows - height + 1)).astype(np.int64)
    left = np.floor(unit[:, 3] * (columns - width + 1)).astype(np.int64)
    return _inside(top, left, height, width, grid)


class MultiBlock:
    """Corrected multi-block sampler: every position reachable, scale and aspect independent, nothing dropped.

    The context block minus all targets is the context, of its own length in each sample.

    Args:
        config: how blocks are drawn.
        grid: (rows, columns) of the tokens.
    """

    def __init__(self, config: MultiBlockConfig, grid: tuple[int, int]):
        cells = grid[0] * grid[1]
        self.config, self.grid = config, grid
        self.min_keep = min(config.min_keep, max(1, cells // 4))
        if cells < 4:
            raise UserError(f"A grid of {grid[0]} x {grid[1]} tokens is too small to mask. Use a smaller patch_size.")

    def __call__(self, draws: Draws) -> BlockMasks:
        """Masks for the batch of `draws`.

        A sample takes its first layout whose every context is large enough; failing all `ATTEMPTS`, the one with the
        largest context.
        """
        config = self.config
        aspect = self.grid[0] / self.grid[1]  # the context block has the picture's own shape
        cells = self.grid[0] * self.grid[1]
        taken = np.zeros((len(draws), config.contexts, cells), dtype=bool)
        asked = np.zeros((len(draws), config.targets, cells), dtype=bool)
        most = np.full(len(draws), -1)  # tokens of the smallest context of the layout taken so far
        pending = np.arange(len(draws))
        for _ in range(ATTEMPTS):
            targets = draw_blocks(draws, config.targets, config.target_scale, config.target_aspect, self.grid)
            context = draw_blocks(draws, config.contexts, config.context_scale, (aspect, aspect), self.grid)
            context &= ~targets.any(axis=1, keepdims=True)
            kept = np.count_nonzero(context, axis=-1).min(-1)
            better = kept > most[pending]
            chosen = pending[better]
            taken[chosen], asked[chosen], most[chosen] = context[better], targets[better], kept[better]
            unsettled = most[pending] < self.min_keep
            if not unsettled.any():
                break
            pending, draws = pending[unsettled], draws.some(np.flatnonzero(unsettled))
        if (most == 0).any():
            raise UserError(
                f"The target blocks cover all {self.grid[0]} x {self.grid[1]} tokens and leave no context. "
                "Lower masks.target_scale or masks.targets, or use a smaller patch_size."
            )
        return BlockMasks(*cells_to_ids(taken), *_asked(asked, config))


class LegacyMultiBlock:
    """The released sampler (`src/masks/multiblock.py`), redrawn from its facts.

    Block sizes, seeded by a counter there, come from the batch's first sample here, so that a run can be resumed.
    """

    def __init__(self, config: MultiBlockConfig, grid: tuple[int, int]):
        self.config, self.grid = config, grid
        if min(grid) < 3:
            raise UserError(f"The legacy sampler needs at least 3 x 3 tokens, this grid is {grid[0]} x {grid[1]}.")

    def _size(self, u: float, scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
        rows, columns = self.grid
        keep = int(rows * columns * (scale[0] + u * (scale[1] - scale[0])))
        ratio = aspect[0] + u * (aspect[1] - aspect[0])  # the same u: scale and aspect are tied
        height, width = round((keep * ratio) ** 0.5), round((keep / ratio) ** 0.5)
        return max(1, min(height, rows - 1)), max(1, min(width, columns - 1))

    def _place(self, draws: Draws, count: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        height, width = (np.full((len(draws), count), side) for side in size)
        top = draws.integers(self.grid[0] - height, count)  # exclusive: the last row and column are out of reach
        left = draws.integers(self.grid[1] - width, count)
        return _inside(top, left, height, width, self.grid)

    def __call__(self, draws: Draws) -> BlockMasks:
        """Masks for the batch of `draws`; all contexts of the batch are cut to the shortest."""
        config = self.config
        u = draws.uniform(2)[0]
        target_size = self._size(u[0], config.target_scale, config.target_aspect)
        context_size = self._size(u[1], config.context_scale, (1.0, 1.0))
        targets = self._place(draws, config.targets, target_size)
        context = np.zeros((len(draws), config.contexts, self.grid[0] * self.grid[1]), dtype=bool)
        pending = np.ones((len(draws), config.contexts), dtype=bool)
        for excluded in range(config.targets, -1, -1):  # after 20 failures one target fewer is kept out of the context
            for _ in range(20):
                drawn = self._place(draws, config.contexts, context_size) & ~targets[:, :excluded].any(1, keepdims=True)
                accept = pending & (drawn.sum(-1) > config.min_keep)
                context[accept] = drawn[accept]
                pending &= ~accept
                if not pending.any():
                    break
            if not pending.any():
                break
        if pending.any():
            raise UserError(
                f"No context of more than {config.min_keep} tokens fits a grid of {self.grid[0]} x {self.grid[1]}. "
                "Lower masks.min_keep or use a smaller patch_size."
            )
        ids, lengths = cells_to_ids(context)
        shortest = int(lengths.min())
        kept = ids[..., :shortest].contiguous()
        return BlockMasks(kept, torch.full_like(lengths, shortest), *_asked(targets, config))


def multi_block(config: MultiBlockConfig, grid: tuple[int, int]) -> MultiBlock | LegacyMultiBlock:
    """The sampler that `config.sampler` names."""
    return MultiBlock(config, grid) if config.sampler == "corrected" else LegacyMultiBlock(config, grid)
