import math

import pytest
import torch

from jepakit.errors import UserError
from jepakit.worlds.planners import make_planner
from tests.worlds.quadratics import Quadratic


def near(problem):
    return problem.target + 0.2


def test_a_proposal_is_the_plan():
    problem = Quadratic()
    plan = make_planner("amortised", policy=near)(problem)
    torch.testing.assert_close(plan.actions, problem.target + 0.2)
    torch.testing.assert_close(plan.cost, torch.full((3,), 8 * 0.04).double())
    assert (plan.evaluations, plan.trace.shape) == (1, (1, 3))
    far = make_planner("amortised", policy=lambda p: p.target + 100)(problem)
    assert bool(problem.space.inside(far.actions).all())


def test_the_cheapest_of_several_and_of_the_warm_start():
    problem = Quadratic(2)
    proposals = torch.stack([problem.target + 0.3, problem.target + torch.tensor([0.1, 0.4])[:, None, None]], dim=1)
    planner = make_planner("amortised", policy=lambda p: proposals)
    plan = planner(problem)
    torch.testing.assert_close(plan.actions, problem.target + torch.tensor([0.1, 0.3])[:, None, None])
    torch.testing.assert_close(planner(problem, problem.target).actions, problem.target)


@pytest.mark.parametrize("name", ["cem", "gradient", "mppi"])
def test_another_planner_refines_and_never_makes_it_worse(name):
    problem = Quadratic()
    refine = make_planner(name, iterations=2)
    plan = make_planner("amortised", policy=near, refine=refine)(problem)
    alone = make_planner("amortised", policy=near)(problem)
    assert bool((plan.cost < alone.cost).all())
    assert plan.evaluations == refine(problem).evaluations + 1
    assert bool((plan.trace.diff(dim=0) <= 0).all())
    torch.testing.assert_close(problem.cost(plan.actions[:, None])[:, 0], plan.cost)
    exact = make_planner("amortised", policy=lambda p: p.target, refine=refine)(problem)
    assert exact.cost.tolist() == [0.0] * 3
    assert torch.equal(exact.actions, problem.target)


def test_mistakes():
    problem = Quadratic()
    with pytest.raises(UserError, match=r"policy's proposal.*\[3, 4, 2\]"):
        make_planner("amortised", policy=lambda p: torch.zeros(3, 2))(problem)
    with pytest.raises(UserError, match=r"policy's proposal.*finite"):
        make_planner("amortised", policy=lambda p: torch.full((3, 4, 2), math.nan))(problem)
    with pytest.raises(UserError, match="needs policy"):
        make_planner("amortised")
    broken = Quadratic(also=lambda actions, cost: cost * math.nan)
    with pytest.raises(UserError, match="was NaN"):
        make_planner("amortised", policy=near)(broken)
