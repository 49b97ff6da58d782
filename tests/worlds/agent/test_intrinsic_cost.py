"""Costs against what they come to by hand; what is hard forbids; nothing changes the intrinsic cost."""

import math

import pytest
import torch

from jepakit.errors import UserError
from jepakit.worlds.agent.intrinsic_cost import CostConfig, Imagined, IntrinsicCost
from tests.worlds.agent.exact_worlds import READER

# Two rollouts of three steps in the plane, the embedding is the state; actions are two of two numbers.
STEPS = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]], [[3.0, 0.0], [0.0, 2.0], [0.5, 0.5]]])
ACTIONS = torch.tensor([[[1.0, 0, 0, 1], [0, 0, 0, 0], [2, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0], [3.0, 0, 0, 0]]])
GOAL = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
IMAGINED = Imagined(STEPS, ACTIONS, GOAL, READER, 2)
ZONE = {"kind": "zone", "where": {"x": [0.5, 2.5], "y": [-1.0, 0.75]}}


def total(*terms, reach="sum"):
    return IntrinsicCost(tuple(CostConfig(**term) for term in terms), reach)(IMAGINED).tolist()


@pytest.mark.parametrize(
    ("reach", "expected"), [("sum", [4 + 1 + 1, 9 + 4 + 0.5]), ("last", [1, 0.5]), ("nearest", [1, 0.5])]
)
def test_the_distance_to_the_goal(reach, expected):
    assert total({"kind": "goal", "weight": 2.0}, reach=reach) == [2 * value for value in expected]


def test_a_place_is_named_by_variables_of_the_state():
    assert total({"kind": "place", "where": {"y": 1}}, reach="nearest") == [0.0, 0.25]
    assert total({"kind": "place", "where": {"x": 2, "y": 1}}) == [5 + 2 + 0, 2 + 5 + 2.5]


def test_a_zone_costs_as_deep_as_a_step_is_in_it():
    assert total(ZONE) == [0.5, 0.0]
    assert total({**ZONE, "margin": 0.5}) == [1.0 + 0.25, 0.25 + 0.25]


def test_effort_is_the_mean_square_of_a_blocks_actions():
    assert total({"kind": "effort"}) == [(1 + 1 + 4) / 2, 9 / 2]


def test_a_hard_term_forbids_whatever_it_weighs():
    assert total({**ZONE, "hard": True}) == [math.inf, 0.0]
    assert total({**ZONE, "hard": True, "weight": 0.0}) == [math.inf, 0.0]
    assert total({**ZONE, "hard": True, "limit": 0.5}) == [0.5, 0.0]
    assert total({"kind": "effort", "hard": True, "limit": 2.0, "weight": 0.0}) == [0.0, math.inf]


def test_terms_are_told_apart_by_name():
    terms = (CostConfig(kind="goal"), CostConfig(**ZONE, name="wet", weight=3.0), CostConfig(kind="effort", weight=0.5))
    parts = IntrinsicCost(terms, "last").parts(IMAGINED)
    assert {name: value.tolist() for name, value in parts.items()} == {
        "goal": [1.0, 0.5], "wet": [1.5, 0.0], "effort": [1.5, 2.25],
    }  # fmt: skip
    torch.testing.assert_close(IntrinsicCost(terms, "last")(IMAGINED), torch.stack(list(parts.values())).sum(0))
    with pytest.raises(UserError, match="two terms are called 'zone'"):
        IntrinsicCost((CostConfig(**ZONE), CostConfig(**ZONE)))


def test_gradient_reaches_the_actions_and_the_states():
    steps, actions = STEPS.clone().requires_grad_(), ACTIONS.clone().requires_grad_()
    terms = (CostConfig(kind="goal"), CostConfig(**ZONE), CostConfig(kind="effort"))
    IntrinsicCost(terms)(Imagined(steps, actions, GOAL, READER, 2)).sum().backward()
    torch.testing.assert_close(actions.grad, ACTIONS)
    inside = torch.zeros_like(STEPS)
    inside[0, 1, 0] = 1  # deeper to the right, from the nearest side
    expected = 2 * (STEPS - GOAL[:, None]) + inside
    torch.testing.assert_close(steps.grad[0], expected[0])
    torch.testing.assert_close(steps.grad[1, :2], expected[1, :2])  # the last step is on the zone's edge


def test_the_intrinsic_cost_is_immutable():
    cost = IntrinsicCost((CostConfig(),))
    for name in ("terms", "reach", "other"):
        with pytest.raises(AttributeError):
            setattr(cost, name, ())
    with pytest.raises(AttributeError):
        cost.terms[0].weight = 0.0
    assert not isinstance(cost, torch.nn.Module)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "zones"}, r"costs.kind.*zone"),
        ({"kind": "zone"}, r"zone.where.*x: \[25"),
        ({"kind": "zone", "where": {"x": 3}}, r"'x' is \[low, high\]"),
        ({"kind": "zone", "where": {"x": [3, 1]}}, "in order"),
        ({"kind": "zone", "where": {"x": [0, math.nan]}}, "in order"),
        ({"kind": "place", "where": {"x": [1, 2]}}, "'x' is a number"),
        ({"kind": "goal", "where": {"x": 1}}, "where means nothing for goal"),
        ({"kind": "effort", "margin": 1.0}, "margin means nothing for effort"),
        ({"limit": 1.0}, "limit.*hard"),
        ({"weight": 0.0}, "would do nothing"),
        ({"weight": -1.0}, "weight must be at least 0"),
    ],
)
def test_what_makes_no_term_is_named(options, says):
    with pytest.raises(UserError, match=says):
        CostConfig(**options)


def test_what_cannot_be_read_is_named():
    place = IntrinsicCost((CostConfig(kind="place", where={"z": 1.0}),))
    with pytest.raises(UserError, match="no variable 'z'"):
        place(IMAGINED)
    with pytest.raises(UserError, match="jepakit evaluate"):
        place(Imagined(STEPS, ACTIONS, GOAL))
    with pytest.raises(UserError, match="there is no goal"):
        IntrinsicCost((CostConfig(),))(Imagined(STEPS, ACTIONS, None))
