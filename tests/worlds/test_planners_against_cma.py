"""CMA-ES, which learns how the numbers of a plan depend on one another, is the oracle at the number of evaluations that one
replanning can pay for: 600 for 20 numbers. (With thousands it wins by far on smooth costs; nobody plans with thousands.)"""

import numpy as np
import pytest
import torch

from jepakit.worlds.planners import make_planner
from jepakit.worlds.problem import ActionSpace

HORIZON, BUDGET = 10, 600


def rosenbrock(actions, shift):
    """A curved valley through all 20 numbers."""
    x = (actions - shift).flatten(2)
    return (10 * (x[..., 1:] - x[..., :-1] ** 2).square() + (1 - x[..., :-1]).square()).sum(-1)


def bumpy(actions, shift):
    """A bowl with a local minimum about every unit."""
    x = (actions - shift).flatten(2)
    return (x.square() + 0.3 * (1 - torch.cos(6 * x))).sum(-1)


def cart(actions, shift):
    """A cart that is steered (turn, speed) to a goal, past a soft pillar half way."""
    heading, speed = (0.5 * actions[..., 0]).cumsum(-1), 0.3 * actions[..., 1]
    place = torch.stack([(speed * heading.cos()).cumsum(-1), (speed * heading.sin()).cumsum(-1)], dim=-1)
    goal = 4 * shift[:, :, :1] + 1.0
    pillar = torch.exp(-8 * (place - goal / 2).square().sum(-1))
    return ((place - goal).square().sum(-1) + 3 * pillar).sum(-1) + 0.01 * actions.square().sum((-1, -2))


class Landscape:
    def __init__(self, function, environments=8):
        self.function, self.environments, self.horizon, self.device = function, environments, HORIZON, torch.device("cpu")
        self.space = ActionSpace(torch.full((2,), -2.0).double(), torch.full((2,), 2.0).double())
        generator = torch.Generator().manual_seed(0)
        self.shift = torch.rand(environments, 1, HORIZON, 2, generator=generator, dtype=torch.float64) - 0.5

    def cost(self, actions):
        return self.function(actions, self.shift)

    def by_cma(self, environment):
        import cma

        shift = self.shift[environment : environment + 1]
        options = {"bounds": [-2, 2], "seed": environment + 1, "verbose": -9, "maxfevals": BUDGET}
        search = cma.CMAEvolutionStrategy([0.0] * 2 * HORIZON, 1.0, options)
        while not search.stop():
            drawn = search.ask()
            plans = torch.from_numpy(np.array(drawn)).reshape(1, -1, HORIZON, 2)
            search.tell(drawn, self.function(plans, shift)[0].tolist())
        return search.result.fbest


PLANNERS = {
    "cem": {"population": 100, "elites": 10, "iterations": 6},
    "icem": {"population": 100, "elites": 10, "iterations": 6, "exponent": 0.5, "decay": 1.0},
    "mppi": {"population": 100, "elites": 25, "iterations": 6},
}


@pytest.mark.peer
@pytest.mark.parametrize(("function", "factor"), [(rosenbrock, 1.25), (bumpy, 2.0), (cart, 1.25)])
def test_as_good_as_cma_within_a_factor(function, factor):
    """The median over environments and two seeds; the same against random draws, which come nowhere near."""
    pytest.importorskip("cma")
    problem = Landscape(function)
    oracle = torch.tensor([problem.by_cma(i) for i in range(problem.environments)]).double()
    random = make_planner("random", population=BUDGET, iterations=1)(problem).cost
    for name, options in PLANNERS.items():
        plans = [make_planner(name, seed=seed, **options)(problem) for seed in range(2)]
        assert max(plan.evaluations for plan in plans) <= BUDGET + 1  # the last mean
        ratio = float(torch.cat([plan.cost / oracle for plan in plans]).median())
        assert ratio < factor, (name, ratio)
        assert all(float((plan.cost / random).median()) < 0.9 for plan in plans)
