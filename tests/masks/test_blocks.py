import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.masks.blocks import LegacyMultiBlock, MultiBlock, MultiBlockConfig, multi_block
from jepakit.randomness import Draws

SAMPLERS = ("corrected", "legacy")
PAPER = {
    "contexts": 1, "targets": 4, "target_scale": (0.15, 0.2), "context_scale": (0.85, 1.0), "predict": "separate",
    "min_keep": 2,
}  # fmt: skip
grids = st.tuples(st.integers(4, 20), st.integers(4, 20))


def draw(sampler, grid, ids=range(16), seed=0, epoch=0, **options):
    config = MultiBlockConfig(sampler=sampler, **{**PAPER, **options})
    return multi_block(config, grid)(Draws(seed, "masks", epoch, list(ids)))


def lists(ids, lengths):
    """Padded ids as nested lists of their real parts."""
    return [[row[:n].tolist() for row, n in zip(*sample, strict=True)] for sample in zip(ids, lengths, strict=True)]


def contexts(masks):
    return lists(masks.context, masks.context_lengths)


def targets(masks):
    return lists(masks.targets, masks.target_lengths)


def sides(block, columns):
    """Height and width of a block, checked to be a full rectangle."""
    rows, cols = sorted({i // columns for i in block}), sorted({i % columns for i in block})
    assert block == [r * columns + c for r in range(rows[0], rows[-1] + 1) for c in range(cols[0], cols[-1] + 1)]
    return len(rows), len(cols)


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(grid=grids, seed=st.integers(0, 2**32), n_contexts=st.integers(1, 3), n_targets=st.integers(1, 4))
def test_what_holds_for_every_draw(sampler, grid, seed, n_contexts, n_targets):
    masks = draw(sampler, grid, range(4), seed, contexts=n_contexts, targets=n_targets)
    cells = grid[0] * grid[1]
    for ids, lengths, count in (
        (masks.context, masks.context_lengths, n_contexts),
        (masks.targets, masks.target_lengths, n_targets),
    ):
        assert ids.shape[:2] == lengths.shape == (4, count)
        assert ids.dtype == lengths.dtype == torch.int64
        assert int(ids.min()) >= 0
        assert int(ids.max()) < cells
        assert ids.shape[2] == int(lengths.max())
        assert int(lengths.min()) >= 1
    for sample_contexts, sample_targets in zip(contexts(masks), targets(masks), strict=True):
        predicted = set().union(*sample_targets)
        for context in sample_contexts:
            assert context == sorted(set(context))
            if sampler == "corrected":  # the released code gives up disjointness on small grids
                assert not predicted & set(context)
        for block in sample_targets:
            sides(block, grid[1])


@settings(max_examples=200)
@given(grid=grids, seed=st.integers(0, 2**32), low=st.floats(0.05, 0.5), spread=st.floats(0, 0.3))
def test_target_areas_and_aspects_are_those_asked_for_up_to_rounding(grid, seed, low, spread):
    masks = draw("corrected", grid, range(4), seed, targets=1, target_scale=(low, low + spread))
    cells = grid[0] * grid[1]
    for ((block,),) in zip(targets(masks), strict=True):
        height, width = sides(block, grid[1])
        # Rounding the width moves the area by half a column at most; a column has `height` cells.
        largest = max((low + spread) * cells + height / 2, height)
        assert low * cells - height / 2 - 1e-6 <= height * width <= largest + 1e-6
        # Half a cell on each side; where a side is cut by the grid, the aspect cannot be kept.
        if height < grid[0] and width < grid[1]:
            assert (height + 0.5) / max(width - 1, 0.5) >= 0.75
            if height > math.ceil((low + spread) * cells / grid[1]):  # not made higher by a grid that is too narrow
                assert max(height - 0.5, 0.5) / (width + 1) <= 1.5


@pytest.mark.parametrize("grid", [(14, 14), (6, 11), (11, 5)])
def test_every_position_is_reached_by_targets_and_by_contexts(grid):
    masks = draw("corrected", grid, range(2000))
    cells = set(range(grid[0] * grid[1]))
    assert {i for sample in targets(masks) for block in sample for i in block} == cells
    assert {i for sample in contexts(masks) for block in sample for i in block} == cells


@pytest.mark.parametrize("grid", [(14, 14), (6, 11)])
def test_the_released_sampler_never_reaches_the_last_row_and_column(grid):
    rows, columns = grid
    inner = {r * columns + c for r in range(rows - 1) for c in range(columns - 1)}
    reached_by_targets, reached_by_contexts = set(), set()
    for epoch in range(40):  # one size for each batch
        masks = draw("legacy", grid, range(64), epoch=epoch)
        reached_by_targets |= {i for sample in targets(masks) for block in sample for i in block}
        reached_by_contexts |= {i for sample in contexts(masks) for block in sample for i in block}
    assert reached_by_targets == inner
    assert reached_by_contexts <= inner


def test_the_released_sampler_at_its_released_settings():
    """On 14 x 14 the target sizes are the released code's five, one for a batch, and the context block is fixed."""
    seen = set()
    for epoch in range(60):
        masks = draw("legacy", (14, 14), range(8), epoch=epoch, min_keep=10)
        sizes = {sides(block, 14) for sample in targets(masks) for block in sample}
        assert len(sizes) == 1
        seen |= sizes
        assert len(set(masks.context_lengths.flatten().tolist())) == 1
        for (context,), blocks in zip(contexts(masks), targets(masks), strict=True):
            block = [r * 14 + c for r in range(13) for c in range(13)]
            left = [i for i in block if i not in set().union(*blocks)]
            assert context == left[: len(context)]  # cut in raster order to the shortest of the batch
    assert seen == {(5, 6), (6, 6), (6, 5), (7, 5), (8, 5)}


def test_contexts_of_the_corrected_sampler_are_ragged_and_whole():
    masks = draw("corrected", (14, 14), range(64), context_scale=(1.0, 1.0))
    assert len(set(masks.context_lengths.flatten().tolist())) > 10
    for (context,), blocks in zip(contexts(masks), targets(masks), strict=True):
        assert set(context) == set(range(196)) - set().union(*blocks)


@given(grid=grids, seed=st.integers(0, 2**32))
def test_a_context_keeps_enough_or_the_most_it_could(grid, seed):
    """Default targets leave more than a quarter of the grid in at least one of eight layouts, nearly always."""
    cells = grid[0] * grid[1]
    masks = draw("corrected", grid, range(32), seed, min_keep=10)
    enough = masks.context_lengths >= min(10, cells // 4)
    assert enough.float().mean() > 0.9


def test_where_no_context_is_large_enough_the_largest_is_taken():
    """A target of four fifths leaves at most 20 of 100 tokens; min_keep counts as a quarter of the grid."""
    options = {"targets": 1, "target_scale": (0.8, 0.8), "context_scale": (0.5, 1.0), "target_aspect": (1.0, 1.0)}
    first = draw("corrected", (10, 10), range(64), min_keep=1, **options).context_lengths
    largest = draw("corrected", (10, 10), range(64), min_keep=50, **options).context_lengths
    assert (largest >= first).all()
    assert (largest > first).float().mean() > 0.5
    assert largest.max() <= 20


def test_the_released_context_has_strictly_more_than_min_keep():
    """On 3 x 3 its block has at most 2 x 2 tokens, and target regions are given up before the bound is."""
    assert draw("legacy", (3, 3), min_keep=3).context.shape[-1] == 4
    with pytest.raises(UserError, match=r"No context of more than 4 tokens"):
        draw("legacy", (3, 3), min_keep=4)


@given(grid=grids, epoch=st.integers(0, 100))
def test_a_sample_gets_the_same_mask_in_any_batch(grid, epoch):
    together = draw("corrected", grid, [7, 2, 31], epoch=epoch, contexts=2)
    for place, sample in enumerate([7, 2, 31]):
        alone = draw("corrected", grid, [sample], epoch=epoch, contexts=2)
        assert contexts(alone)[0] == contexts(together)[place]
        assert targets(alone)[0] == targets(together)[place]
    reordered = draw("corrected", grid, [31, 7, 2], epoch=epoch, contexts=2)
    assert targets(reordered) == [targets(together)[i] for i in (2, 0, 1)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seed_epoch_and_sample_each_change_the_masks(sampler):
    first = targets(draw(sampler, (14, 14)))
    assert targets(draw(sampler, (14, 14))) == first
    assert targets(draw(sampler, (14, 14), seed=1)) != first
    assert targets(draw(sampler, (14, 14), epoch=1)) != first
    assert targets(draw(sampler, (14, 14), range(16, 32))) != first


def test_scale_and_aspect_are_independent_and_in_the_released_sampler_one():
    """On a grid so fine that rounding does not matter."""
    grid, options = (100, 100), {"targets": 1, "context_scale": (1.0, 1.0)}
    free = [sides(block, 100) for ((block,)) in targets(draw("corrected", grid, range(400), **options))]
    tied = [sides(targets(draw("legacy", grid, [0], epoch=epoch, **options))[0][0], 100) for epoch in range(60)]

    def correlation(sizes):
        height, width = np.array(sizes, dtype=float).T
        return np.corrcoef(height * width, np.log(height / width))[0, 1]

    assert abs(correlation(free)) < 0.15  # 3 standard errors
    assert correlation(tied) > 0.97


def test_areas_and_aspects_fill_their_ranges_evenly():
    sizes = [sides(block, 100) for (block,) in targets(draw("corrected", (100, 100), range(2000), targets=1))]
    height, width = np.array(sizes, dtype=float).T
    area, aspect = height * width / 1e4, np.log(height / width)
    for values, low, high in ((area, 0.15, 0.2), (aspect, math.log(0.75), math.log(1.5))):
        share = np.histogram(values, bins=5, range=(low, high))[0] / len(values)
        np.testing.assert_allclose(share, 0.2, atol=0.04)


def test_contexts_of_one_image_share_its_targets_and_differ():
    masks = draw("corrected", (14, 14), contexts=3, context_scale=(0.3, 0.5))
    assert masks.context.shape[1] == 3
    assert all(len({tuple(context) for context in sample}) == 3 for sample in contexts(masks))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_parallel_blocks_lie_side_by_side_with_their_numbers(sampler):
    apart, parallel = draw(sampler, (14, 14)), draw(sampler, (14, 14), predict="parallel")
    assert contexts(parallel) == contexts(apart)
    numbers = lists(parallel.parts, parallel.target_lengths)
    for (ids,), (parts,), blocks in zip(targets(parallel), numbers, targets(apart), strict=True):
        assert ids == [i for block in blocks for i in block]
        assert parts == [number for number, block in enumerate(blocks, start=1) for _ in block]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_joint_blocks_are_their_union(sampler):
    apart, joint = draw(sampler, (14, 14)), draw(sampler, (14, 14), predict="joint")
    assert contexts(joint) == contexts(apart)
    for (union,), blocks in zip(targets(joint), targets(apart), strict=True):
        assert union == sorted(set().union(*blocks))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiBlock(MultiBlockConfig(), (1, 3)), "1 x 3 tokens is too small"),
        (lambda: LegacyMultiBlock(MultiBlockConfig(), (2, 8)), "at least 3 x 3"),
        (lambda: draw("corrected", (2, 2), targets=4, target_scale=(1.0, 1.0)), "leave no context"),
        (lambda: draw("legacy", (3, 3), min_keep=10), "Lower masks.min_keep"),
        (lambda: MultiBlockConfig(target_scale=(0.3, 0.2)), "masks.target_scale"),
        (lambda: MultiBlockConfig(context_scale=(0.5, 1.5)), "masks.context_scale"),
        (lambda: MultiBlockConfig(target_aspect=(0.0, 1.0)), "masks.target_aspect"),
        (lambda: MultiBlockConfig(sampler="corected"), "Did you mean 'corrected'"),
        (lambda: MultiBlockConfig(targets=0), "masks.targets must be at least 1"),
        (lambda: MultiBlockConfig(min_keep=0), "masks.min_keep"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()
