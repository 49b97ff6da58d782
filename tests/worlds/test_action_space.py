import math

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.worlds.action_space import ActionSpace


def space(low=(-1.0, -1.0), high=(1.0, 2.0), most=None, parts=1):
    return ActionSpace(torch.tensor(low), torch.tensor(high), most, parts)


@given(
    st.lists(st.tuples(st.floats(-50, 0), st.floats(0.01, 50)), min_size=1, max_size=4),
    st.none() | st.floats(0.01, 100),
    st.integers(1, 3),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 1000),
)
def test_clipped_and_drawn_actions_are_inside(bounds, most, parts, dtype, seed):
    low, high = (torch.tensor(bound, dtype=dtype) for bound in zip(*bounds, strict=True))
    one = ActionSpace(low, high, most).block(parts)
    generator = torch.Generator().manual_seed(seed)
    far = torch.randn(20, 3, one.size, generator=generator, dtype=dtype) * 100
    for actions in (one.clip(far), one.uniform(generator, 20, 3), one.centre):
        assert bool(one.inside(actions).all())
        assert bool((actions >= low.repeat(parts)).all())
        assert bool((actions <= high.repeat(parts)).all())
        if most is not None:
            assert float(actions.unflatten(-1, (parts, -1)).norm(dim=-1).max()) <= most
    kept = one.clip(far)
    torch.testing.assert_close(one.clip(kept), kept)


def test_what_is_inside_is_left_alone_and_a_norm_too_large_keeps_its_direction():
    bounded = space(most=1.0)
    inside = torch.tensor([[0.3, -0.4], [0.0, 0.0]])
    assert torch.equal(bounded.clip(inside), inside)
    torch.testing.assert_close(bounded.clip(torch.tensor([3.0, 1.0])), torch.tensor([1.0, 1.0]) / math.sqrt(2))
    assert space().width.tolist() == [2.0, 3.0]
    assert space(most=1.2).width.tolist() == pytest.approx([2.0, 2.4])
    assert space().centre.tolist() == [0.0, 0.5]


def test_draws_are_uniform_in_the_box_and_in_the_ball():
    generator = torch.Generator().manual_seed(0)
    box = space().uniform(generator, 20000)
    torch.testing.assert_close(box.mean(0), torch.tensor([0.0, 0.5]), atol=0.03, rtol=0)
    torch.testing.assert_close(box.var(0), torch.tensor([4 / 12, 9 / 12]), atol=0.02, rtol=0)
    ball = space((-5.0, -5.0), (5.0, 5.0), 2.0).uniform(generator, 20000)
    for radius in (0.5, 1.0, 1.5):  # the part of a disc's area within a radius
        assert abs(float((ball.norm(dim=-1) < radius).float().mean()) - (radius / 2) ** 2) < 0.015
    cut = space((-1.0, -0.5), (1.0, 2.0), 1.0).uniform(generator, 20000)  # a disc without its part below -.5
    assert float(cut[:, 1].min()) < -0.49
    whole = math.pi - (math.pi / 3 - math.sqrt(3) / 4)
    assert abs(float((cut.norm(dim=-1) < 0.5).float().mean()) - math.pi / 4 / whole) < 0.015
    assert abs(float((cut[:, 1] > 0).float().mean()) - math.pi / 2 / whole) < 0.015
    many = ActionSpace(-0.5 * torch.ones(30), torch.ones(30), 1.0)
    assert bool(many.inside(many.uniform(generator, 500)).all())


def test_blocks_are_actions_in_a_row_and_the_norm_is_of_each():
    block = space(most=1.0).block(3)
    assert (block.size, block.parts) == (6, 3)
    plan = block.clip(torch.tensor([[3.0, 0.0, 0.0, 0.5, 3.0, 4.0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]]))
    steps = block.steps(plan)
    assert steps.shape == (6, 2)
    torch.testing.assert_close(steps[:2], torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    torch.testing.assert_close(steps[3:], torch.tensor([[0.0, 0.1], [0.2, 0.3], [0.4, 0.5]]))
    assert block.steps(torch.zeros(4, 5, 6)).shape == (4, 15, 2)


def test_a_box_of_gymnasium():
    low, high = (np.array([bounds], dtype=np.float32) for bounds in ([-1, -2], [1, 3]))
    box = gymnasium.spaces.Box(low, high)
    found = ActionSpace.of(box, most=0.5)
    assert (found.low.tolist(), found.high.tolist(), found.most, found.low.dtype) == ([-1, -2], [1, 3], 0.5, torch.float32)
    with pytest.raises(UserError, match="tree search"):
        ActionSpace.of(gymnasium.spaces.Discrete(3))
    with pytest.raises(UserError, match=r"must be finite.*range of useful actions"):
        ActionSpace.of(gymnasium.spaces.Box(-np.inf, np.inf, (2,)))


def test_mistakes_in_a_space():
    for options, message in [
        ({"low": (math.nan, 0.0)}, "low: bounds of actions must be finite"),
        ({"high": (math.inf, 0.0)}, "high: bounds of actions must be finite"),
        ({"low": (1.0, 0.0)}, "below its upper bound"),
        ({"low": (2.0, 0.0)}, "below its upper bound"),
        ({"low": (0.0,)}, "as many lower as upper"),
        ({"most": 0.0}, "above 0"),
        ({"most": math.nan}, "most"),
        ({"low": (0.5, 0.0), "most": 1.0}, "Shift the actions"),
        ({"parts": 3}, "no whole number"),
    ]:
        with pytest.raises(UserError, match=message):
            space(**options)
