import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.masks.tubes import TubeConfig, Tubes
from jepakit.randomness import Draws

grids = st.tuples(st.integers(1, 6), st.integers(3, 14), st.integers(3, 14))


def draw(grid, ids=range(8), seed=0, epoch=0, masks=None, **options):
    return Tubes(TubeConfig(**options), grid, masks)(Draws(seed, "masks", epoch, list(ids)))


def lists(ids, lengths):
    """Every sample's masks as lists of real ids, `[sample][mask]`; blocks of a mask must be one."""
    flat, counts = ids.reshape(*ids.shape[:2], ids.shape[-1]), lengths.reshape(ids.shape[:2])
    return [[row[:n].tolist() for row, n in zip(*sample, strict=True)] for sample in zip(flat, counts, strict=True)]


def pairs(masks):
    """`[sample][mask] -> (context, targets)`."""
    both = lists(masks.context, masks.context_lengths), lists(masks.targets, masks.target_lengths)
    return [list(zip(*sample, strict=True)) for sample in zip(*both, strict=True)]


@given(grid=grids, seed=st.integers(0, 2**32), masks=st.sampled_from([None, 1, 3]), short=st.integers(1, 8))
def test_what_holds_for_every_draw(grid, seed, masks, short):
    drawn = draw(grid, range(4), seed, masks=masks, short_blocks=short)
    tokens, places, count = grid[0] * grid[1] * grid[2], grid[1] * grid[2], masks or 2
    assert drawn.context.shape[:2] == drawn.context_lengths.shape == (4, count)
    assert drawn.targets.shape[:3] == drawn.target_lengths.shape == (4, count, 1)
    for ids, lengths in ((drawn.context, drawn.context_lengths), (drawn.targets, drawn.target_lengths)):
        assert ids.dtype == lengths.dtype == torch.int64
        assert ids.shape[-1] == int(lengths.max())  # nothing is cut to the shortest
        padding = torch.arange(ids.shape[-1]) >= lengths[..., None]
        assert (ids[padding] == 0).all()
    for sample in pairs(drawn):
        for context, targets in sample:
            assert sorted(context + targets) == list(range(tokens))  # every token is in one of the two
            assert context == sorted(context)
            assert targets == sorted(targets)
            assert context
            assert targets
            frames = np.asarray(targets).reshape(grid[0], -1)  # the same places in every frame
            assert (frames == frames[0] + places * np.arange(grid[0])[:, None]).all()


@given(grid=grids, seed=st.integers(0, 2**32), scale=st.floats(0.1, 0.8))
def test_one_block_is_a_rectangle_of_the_area_asked_for(grid, seed, scale):
    drawn = draw(grid, range(4), seed, short_blocks=1, short_scale=(scale, scale), long_blocks=0, min_keep=1)
    rows, columns = grid[1:]
    for ((_, targets),) in pairs(drawn):
        place = np.zeros(rows * columns, dtype=bool)
        place[[i for i in targets if i < rows * columns]] = True
        inside = np.argwhere(place.reshape(rows, columns))
        height, width = np.ptp(inside, axis=0) + 1
        assert height * width == place.sum()
        assert abs(height * width - scale * rows * columns) <= max(height / 2 + 1e-6, height - scale * rows * columns)


def test_long_range_masks_hide_more_in_fewer_blocks_and_every_place_is_reached():
    drawn = draw((4, 8, 8), range(400))
    share = drawn.target_lengths[..., 0].float() / 256
    assert 0.55 < share[:, 0].mean() < 0.75  # 8 blocks of 0.15 overlap: 1 - (1 - 0.15) ** 8 is 0.73 without edges
    assert 0.8 < share[:, 1].mean() < 0.92
    hidden = np.zeros((2, 64))
    for sample in pairs(drawn):
        for kind, (_, targets) in enumerate(sample):
            hidden[kind, [i for i in targets if i < 64]] += 1
    assert hidden.min() > 0.05 * 400
    assert hidden[1].max() == 400  # the centre lies in every large block
    assert hidden[0].max() < 400
    assert len(drawn.context_lengths[:, 1].unique()) > 5


def test_views_of_a_sample_take_kinds_in_turn():
    drawn = draw((2, 8, 8), range(100), masks=4)
    share = drawn.target_lengths[..., 0].float().mean(0) / 128
    assert share[1] > share[0] + 0.1
    assert share[3] > share[2] + 0.1
    assert (drawn.target_lengths[:, 0] != drawn.target_lengths[:, 2]).any()  # of a kind, but not the same


def test_a_samples_masks_are_a_function_of_seed_epoch_and_id():
    options = {"long_scale": (0.5, 0.9), "min_keep": 7}  # some samples need several attempts
    together, alone = draw((3, 6, 5), range(40), **options), draw((3, 6, 5), [17, 3], **options)
    assert pairs(alone) == [pairs(together)[17], pairs(together)[3]]
    assert pairs(draw((3, 6, 5), range(40), seed=1, **options)) != pairs(together)
    assert pairs(draw((3, 6, 5), range(40), epoch=1, **options)) != pairs(together)


def test_contexts_keep_enough_where_that_is_possible():
    for min_keep in (1, 8):
        drawn = draw((2, 8, 8), range(300), min_keep=min_keep)
        assert int(drawn.context_lengths.min()) >= 2 * min_keep
    assert int(draw((2, 8, 8), range(300), min_keep=1).context_lengths.min()) < 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_blocks": -1}, "masks.short_blocks must be at least 0"),
        ({"short_blocks": 0, "long_blocks": 0}, "nothing would be predicted"),
        ({"long_scale": (0.9, 1.0)}, "masks.long_scale must be"),
        ({"aspect": (2.0, 1.0)}, "masks.aspect must be"),
        ({"min_keep": 0}, "masks.min_keep"),
        ({"long_blocks": 400, "long_scale": (0.9, 0.95)}, "leave no context"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        draw((2, 4, 4), **options)


def test_a_frame_of_few_tokens_is_refused():
    with pytest.raises(UserError, match="smaller patch_size"):
        draw((4, 1, 3))


@given(grid=st.tuples(st.integers(2, 8), st.integers(3, 8), st.integers(3, 8)), seed=st.integers(0, 2**32))
def test_a_mask_of_the_future_hides_the_end_of_a_clip_and_nothing_else(grid, seed):
    drawn, plain = (draw(grid, range(6), seed, future=future) for future in ((0.2, 0.7), None))
    places, time, hidden = grid[1] * grid[2], grid[0], []
    for sample, tubes in zip(pairs(drawn), pairs(plain), strict=True):
        assert sample[:2] == tubes  # the others are drawn as without it
        context, targets = sample[2]
        assert context + targets == list(range(time * places))
        assert len(targets) % places == 0
        hidden.append(len(targets) // places)
        assert max(1, round(0.2 * time)) <= hidden[-1] <= max(1, round(0.7 * time))


def test_futures_of_several_lengths_are_drawn_and_a_still_has_none():
    drawn = draw((10, 4, 4), range(64), future=(0.1, 0.5))
    assert set((drawn.target_lengths[:, 2, 0] // 16).tolist()) == {1, 2, 3, 4, 5}
    assert draw((1, 4, 4), future=(0.1, 0.5)).context.shape[1] == 2
    assert draw((10, 4, 4), masks=4, future=(0.1, 0.5)).context.shape[1] == 4
    with pytest.raises(UserError, match=r"masks.future must be two numbers with 0 < low <= high < 1, got 0.5 1.0"):
        TubeConfig(future=(0.5, 1.0))
