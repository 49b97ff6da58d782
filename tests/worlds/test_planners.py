"""What every planner over continuous actions must do, whichever it is."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.worlds.planners import PLANNERS, make_planner
from jepakit.worlds.problem import shifted
from tests.worlds.quadratics import Quadratic

SMALL = {
    "random": {"population": 64, "iterations": 2},
    "cem": {"population": 40, "elites": 6, "iterations": 3},
    "icem": {"population": 40, "elites": 6, "iterations": 3},
    "mppi": {"population": 40, "elites": 20, "iterations": 3},
    "gradient": {"starts": 8, "iterations": 5},
}
# How near they come to the least cost, 0, where a plan drawn uniformly costs about 10, after some 4000 evaluations.
NEAR = {"random": 3.0, "cem": 1e-3, "icem": 1e-3, "mppi": 1e-3, "gradient": 1e-3}
LARGE = {
    "random": {"population": 1000, "iterations": 4},
    "cem": {"population": 200, "elites": 20, "iterations": 20},
    "icem": {"population": 200, "elites": 20, "iterations": 30, "exponent": 0.5},
    "mppi": {"population": 200, "elites": 40, "iterations": 20},
    "gradient": {"starts": 4, "iterations": 100},
}
EACH = pytest.mark.parametrize("name", list(SMALL))


def test_each_planner_is_tried():
    assert set(SMALL) <= set(PLANNERS)


@EACH
def test_a_quadratic_is_minimised(name):
    problem = Quadratic()
    plan = make_planner(name, **LARGE[name])(problem)
    assert plan.actions.shape == (3, 4, 2)
    assert float(plan.cost.max()) < NEAR[name]
    torch.testing.assert_close(problem.cost(plan.actions[:, None])[:, 0], plan.cost)
    assert bool(plan.feasible.all())
    assert plan.seconds > 0
    assert plan.check() is plan


@EACH
def test_a_minimum_outside_the_bounds_is_met_at_the_bound(name):
    problem = Quadratic(1, 2, target=torch.tensor([[[5.0, 0.5], [-5.0, -5.0]]]).double())
    plan = make_planner(name, **LARGE[name])(problem)
    best = torch.tensor([[[2.0, 0.5], [-1.0, -1.0]]]).double()
    torch.testing.assert_close(plan.actions, best, atol=0.5 if name == "random" else 0.05, rtol=0)


@EACH
@given(st.integers(0, 10**6), st.none() | st.floats(0.05, 3), st.booleans())
@settings(max_examples=10)
def test_bounds_always_hold_and_the_trace_never_rises(name, seed, most, warm):
    problem = Quadratic(2, most=most, seed=seed)
    start = torch.full((2, 4, 2), 7.0) if warm else None
    plan = make_planner(name, seed=seed, **SMALL[name])(problem, start)
    for actions in (*problem.seen, plan.actions):
        assert bool(problem.space.inside(actions).all())
    assert bool((plan.trace.diff(dim=0) <= 0).all())
    assert bool((plan.cost >= plan.trace[-1]).all())
    assert plan.evaluations == sum(actions.shape[1] for actions in problem.seen)
    assert plan.trace.shape == (SMALL[name]["iterations"], 2)


@EACH
def test_the_same_seed_gives_the_same_plan_and_another_seed_or_step_another(name):
    plans = [
        make_planner(name, seed=seed, **SMALL[name])(Quadratic(), step=step).actions
        for seed, step in [(0, 0), (0, 0), (1, 0), (0, 1), (0, [0, 5, 0])]
    ]
    assert torch.equal(plans[0], plans[1])
    if name == "gradient":
        return  # its first start is the middle, from where a convex cost is solved best
    assert all(not torch.equal(plans[0][i], plans[k][i]) for i in range(3) for k in (2, 3))
    assert [torch.equal(plans[0][i], plans[4][i]) for i in range(3)] == [True, False, True]


@EACH
def test_a_plan_does_not_depend_on_what_is_planned_beside_it(name):
    planner = make_planner(name, **SMALL[name])
    together = planner(Quadratic(ids=[0, 1, 2]))
    other_way = planner(Quadratic(2, ids=[2, 0]))
    alone = planner(Quadratic(1, ids=[2]))
    assert torch.equal(together.actions[[2, 0]], other_way.actions)
    assert torch.equal(together.actions[2:], alone.actions)
    assert torch.equal(together.trace[:, 2:], alone.trace)
    broken = planner(Quadratic(ids=[0, 1, 2], also=lambda actions, cost: cost + torch.tensor([[0], [math.inf], [0]])))
    assert torch.equal(together.actions[[0, 2]], broken.actions[[0, 2]])
    assert broken.feasible.tolist() == [True, False, True]


@EACH
def test_a_warm_start_helps_and_is_never_lost(name):
    problem = Quadratic()
    planner = make_planner(name, **{**SMALL[name], "iterations": 1})
    near = problem.target + 0.05
    warm, cold = planner(problem, near), planner(problem)
    assert bool((warm.trace[-1] <= (near - problem.target).square().sum((1, 2)) + 1e-12).all())
    assert bool((warm.trace[-1] < cold.trace[-1]).all())
    assert bool((warm.cost < cold.cost).all())
    several = torch.stack([torch.zeros_like(near), near], dim=1)
    assert bool((planner(problem, several).trace[-1] <= warm.trace[-1].max()).all())


@EACH
def test_planning_again_and_again_from_the_rest_of_the_last_plan(name):
    planner, problem = make_planner(name, **SMALL[name]), Quadratic(horizon=5)
    plan, costs = planner(problem), []
    for step in range(1, 4):
        problem.target = shifted(problem.target)
        warm = shifted(plan.actions if plan.elites is None else plan.elites)
        plan = planner(problem, warm, step=step)
        costs.append(plan.cost)
    assert float(costs[-1].mean()) <= float(costs[0].mean())


@EACH
@pytest.mark.parametrize("told", ["by a cost", "by a function"])
def test_constraints_are_kept(name, told):
    """The minimum lies where the first number of an action is not allowed: above 0.2."""

    def allowed(actions):
        return (actions[..., 0] <= 0.2).all(-1)

    problem = Quadratic(horizon=2, target=torch.full((3, 2, 2), 1.0).double())
    if told == "by a cost":
        problem.also = lambda actions, cost: torch.where(allowed(actions), cost, math.inf)
    else:
        problem.feasible = allowed
    plan = make_planner(name, **SMALL[name])(problem, torch.zeros(3, 2, 2))
    assert bool(allowed(plan.actions).all())
    assert bool(plan.feasible.all())
    assert float(plan.cost.max()) < 4.0  # that of the warm start
    problem = Quadratic(horizon=2)
    problem.feasible = lambda actions: torch.zeros(actions.shape[:2], dtype=torch.bool)
    plan = make_planner(name, **SMALL[name])(problem)
    assert not bool(plan.feasible.any())
    assert bool((plan.cost == math.inf).all())
    assert bool(problem.space.inside(plan.actions).all())
    with pytest.raises(UserError, match="No feasible plan"):
        plan.check()


@EACH
def test_a_plan_whose_middle_is_forbidden_stays_out_of_it(name):
    """Two minima with a wall between them, where the mean of good plans lies."""

    def also(actions, cost):
        sideways = actions[:, :, 0, 0]
        return torch.where(sideways.abs() < 0.4, math.inf, (sideways.abs() - 0.7).square())

    for seed in range(5):
        plan = make_planner(name, seed=seed, **SMALL[name])(Quadratic(1, 1, 1, also=also))
        assert bool(plan.feasible.all())
        assert float(plan.actions.abs()) >= 0.4


@EACH
def test_nan_never_wins_and_nothing_but_nan_is_an_error(name):
    problem = Quadratic(also=lambda actions, cost: torch.where(actions[:, :, 0, 0] > 0.3, math.nan, cost))
    plan = make_planner(name, **SMALL[name])(problem, torch.zeros(3, 4, 2))
    assert bool((plan.actions[:, 0, 0] <= 0.3).all())
    assert bool(plan.cost.isfinite().all())
    assert bool(plan.trace.isfinite().all())
    broken = Quadratic(also=lambda actions, cost: cost + torch.tensor([[0], [math.nan], [0]]))
    with pytest.raises(UserError, match=r"Every cost of environments \[1\] was NaN"):
        make_planner(name, **SMALL[name])(broken)


@EACH
def test_mistakes(name):
    planner, problem = make_planner(name, **SMALL[name]), Quadratic()
    with pytest.raises(UserError, match=r"\[env, horizon, action\] = \[3, 4, 2\]"):
        planner(problem, torch.zeros(3, 5, 2))
    with pytest.raises(UserError, match="must be finite"):
        planner(problem, torch.full((3, 4, 2), math.nan))
    with pytest.raises(UserError, match=r"\[env, candidate\]"):
        planner(Quadratic(also=lambda actions, cost: cost[:, None]))
    with pytest.raises(UserError, match="step: one for each of 3"):
        planner(problem, step=[1, 2])
    twice = Quadratic()
    twice.ids = [1, 2]
    with pytest.raises(UserError, match="ids: one for each of 3"):
        planner(twice)
    with pytest.raises(UserError, match="iterations must be at least 1"):
        make_planner(name, **{**SMALL[name], "iterations": 0})
    with pytest.raises(UserError, match="Did you mean 'iterations'"):
        make_planner(name, iteration=3)


def test_the_gradient_planner_leaves_the_valley_it_starts_in_by_other_starts():
    """The middle lies in a shallow valley, the deep one is elsewhere."""

    def also(actions, cost):
        x = actions.sum((2, 3)) / 2
        return -0.5 * torch.exp(-20 * (x - 0.5).square()) - torch.exp(-20 * (x + 0.5).square())

    problem = Quadratic(1, 1, 2, also=also)
    costs = [float(make_planner("gradient", starts=starts)(problem).cost) for starts in (1, 16)]
    assert costs == pytest.approx([-0.5, -1.0], abs=1e-3)
    constant = Quadratic(also=lambda actions, cost: cost.detach())
    with pytest.raises(UserError, match="no gradient"):
        make_planner("gradient")(constant)


def test_a_planner_of_another_name():
    with pytest.raises(UserError, match="Did you mean 'icem'"):
        make_planner("icemm")
