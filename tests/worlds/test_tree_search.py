import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.worlds.planners import make_planner


class RandomWorld:
    """Places and what an action makes of them, drawn; every environment starts elsewhere."""

    def __init__(self, environments=3, horizon=4, actions=3, places=12, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.next = torch.randint(places, (places, actions), generator=generator)
        self.costs = torch.rand(places, generator=generator, dtype=torch.float64)
        self.start = State({"place": torch.randint(places, (environments,), generator=generator), "fixed": torch.zeros(())})
        self.actions, self.horizon, self.largest = actions, horizon, 0

    def predict(self, state, action):
        self.largest = max(self.largest, state.batch)
        return State({**state.tree, "place": self.next[state.tree["place"], action]})

    def state_cost(self, state):
        return self.costs[state.tree["place"]]

    def of(self, environment, actions, cost="sum"):
        """What a sequence of actions costs, step by step."""
        place, passed = int(self.start.tree["place"][environment]), []
        for action in actions:
            place = int(self.next[place, action])
            passed.append(float(self.costs[place]))
        return math.inf if math.inf in passed else {"sum": sum(passed), "last": passed[-1], "nearest": min(passed)}[cost]

    def least(self, environment, cost):
        return min(self.of(environment, path, cost) for path in itertools.product(range(self.actions), repeat=self.horizon))


@given(st.integers(0, 10**6), st.sampled_from(["sum", "last", "nearest"]), st.booleans(), st.booleans())
@settings(max_examples=15)
def test_a_beam_that_holds_all_finds_what_brute_force_finds(seed, cost, walls, keyed):
    world = RandomWorld(seed=seed)
    if walls:
        world.costs[torch.rand(12, generator=torch.Generator().manual_seed(seed)) < 0.3] = math.inf
    if keyed:  # then the number of places is room enough
        world.key = lambda state: state.tree["place"]
    plan = make_planner("tree", beam=12 if keyed else 27, cost=cost)(world)
    assert plan.actions.shape == (3, 4, 1)
    for i in range(3):
        least = world.least(i, cost)
        assert bool(plan.feasible[i]) == (least < math.inf)
        assert float(plan.cost[i]) == pytest.approx(least)
        if least < math.inf:
            assert world.of(i, plan.actions[i, :, 0], cost) == pytest.approx(least)
    assert plan.trace.shape == (1, 3)
    assert plan.evaluations <= 3 + 9 + 27 + 81


def test_a_narrow_beam_bounds_the_work_and_says_truly_what_its_plan_costs():
    world = RandomWorld(horizon=10)
    plan = make_planner("tree", beam=4)(world)
    assert plan.evaluations == 3 + 9 + 8 * 12
    assert world.largest == 3 * 4 * 3
    assert [world.of(i, plan.actions[i, :, 0]) for i in range(3)] == pytest.approx(plan.cost.tolist())
    wider = make_planner("tree", beam=64)(world)
    assert float(wider.cost.sum()) <= float(plan.cost.sum())


def test_a_corridor_is_walked_though_many_ways_lead_to_each_place():
    """Left and right in any order lead to the same places: by their key the far end is reached with few states."""
    world = RandomWorld(1, horizon=12, actions=2, places=25)
    places = torch.arange(25)
    world.next = torch.stack([(places - 1).clamp(min=0), (places + 1).clamp(max=24)], dim=1)
    world.costs = torch.ones(25).double()
    world.costs[24] = 0.0
    world.start = State({"place": torch.tensor([12]), "fixed": torch.zeros(())})
    assert float(make_planner("tree", beam=13, cost="last")(world).cost) == 1.0
    world.key = lambda state: state.tree["place"]
    plan = make_planner("tree", beam=13, cost="last")(world)
    assert float(plan.cost) == 0.0
    assert plan.actions[0, :, 0].tolist() == [1] * 12


def test_a_warm_start_is_followed_and_each_environment_is_alone():
    world = RandomWorld(horizon=6, seed=1)
    best = make_planner("tree", beam=3**5)(world)
    narrow = make_planner("tree", beam=1)
    assert bool((narrow(world).cost > best.cost).any())
    torch.testing.assert_close(narrow(world, best.actions).cost, best.cost)
    world.start = world.start.index(torch.tensor([2]))
    torch.testing.assert_close(narrow(world).cost, narrow(RandomWorld(horizon=6, seed=1)).cost[2:])


def test_nan_never_wins_and_mistakes():
    world = RandomWorld()
    world.costs[::2] = math.nan
    plan = make_planner("tree")(world)
    assert [world.of(i, plan.actions[i, :, 0]) for i in range(3) if plan.feasible[i]] == plan.cost[plan.feasible].tolist()
    world.costs[:] = math.nan
    with pytest.raises(UserError, match=r"environments \[0, 1, 2\] was NaN"):
        make_planner("tree")(world)
    world = RandomWorld()
    for warm, message in [
        (torch.zeros(3, 4), r"\[env, horizon, 1\]"),
        (torch.full((3, 4, 1), 3), "from 0 to 2"),
        (torch.full((3, 4, 1), 0.5), "from 0 to 2"),
    ]:
        with pytest.raises(UserError, match=message):
            make_planner("tree")(world, warm)
    world.costs = world.costs[:, None]
    with pytest.raises(UserError, match="one number for each"):
        make_planner("tree")(world)
    with pytest.raises(UserError, match="beam"):
        make_planner("tree", beam=0)
