import math

import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.worlds.planners import make_planner
from jepakit.worlds.planners.icem import coloured
from jepakit.worlds.planners.mppi import path_weights
from tests.worlds.quadratics import Quadratic

ONE = {"population": 30, "elites": 5, "iterations": 1}


def best(problem, count):
    """The cheapest candidates of the first population, cheapest first, and their costs."""
    drawn = problem.seen[0]
    cost = (drawn - problem.target[:, None]).square().sum((2, 3))
    order = cost.argsort(dim=1)[:, :count]
    return torch.stack([drawn[i, order[i]] for i in range(len(drawn))]), cost.gather(1, order)


def test_cem_returns_the_mean_of_its_elites_and_draws_with_their_deviation():
    problem = Quadratic()
    plan = make_planner("cem", **ONE)(problem)
    elites, _ = best(problem, 5)
    torch.testing.assert_close(plan.actions, elites.mean(1))
    torch.testing.assert_close(plan.elites, elites)
    problem = Quadratic(2, 1, 1)
    many = {"population": 20000, "elites": 200, "std": 0.1}
    make_planner("cem", iterations=2, **many)(problem)
    elites, _ = best(problem, 200)
    torch.testing.assert_close(problem.seen[1].mean(1), elites.mean(1), atol=2e-3, rtol=0)
    torch.testing.assert_close(problem.seen[1].std(1), elites.std(1), rtol=0.05, atol=0)
    torch.testing.assert_close(problem.seen[1][:, 0], elites.mean(1))  # the first plan drawn is the mean


def test_the_deviation_starts_as_told_and_never_falls_below_its_floor():
    problem = Quadratic(1, 2, 2, most=1.0)  # half the width: 1.5 by the box, 1 by the norm
    make_planner("cem", population=5000, elites=2, iterations=4, std=0.05, min_std=0.02)(problem)
    first, last = problem.seen[0][0], problem.seen[3][0]
    torch.testing.assert_close(first.std(0), torch.full((2, 2), 0.05).double(), rtol=0.05, atol=0)
    torch.testing.assert_close(last.std(0), torch.full((2, 2), 0.02).double(), rtol=0.2, atol=0)
    problem = Quadratic(1, 2, 2)
    make_planner("cem", population=500, elites=1, iterations=2, min_std=0.0)(problem)
    assert float(problem.seen[1].std(1).max()) == 0.0


def test_momentum_keeps_a_part_of_the_old_mean():
    plans = [make_planner("cem", momentum=momentum, **ONE)(Quadratic()).actions for momentum in (0.0, 0.4)]
    torch.testing.assert_close(plans[1], 0.6 * plans[0] + 0.4 * Quadratic().space.centre)


def test_kept_elites_compete_again_at_no_evaluation():
    """The second population is drawn far off: what is best stays what was kept."""
    problem, calls = Quadratic(1), []

    def also(actions, cost):
        calls.append(actions.shape[1])
        return cost + (100 if len(calls) == 2 else 0)

    problem.also = also
    plan = make_planner("cem", population=30, elites=5, keep=3, iterations=2, execute="best")(problem)
    assert calls == [30, 30]
    assert plan.evaluations == 60
    kept, _ = best(problem, 3)
    torch.testing.assert_close(plan.elites[:, :3], kept)
    torch.testing.assert_close(plan.actions, kept[:, 0])


def test_an_environment_whose_candidates_all_fail_keeps_its_mean():
    problem, calls = Quadratic(2), []

    def also(actions, cost):
        calls.append(0)
        return cost + torch.tensor([[math.inf], [0]]) if len(calls) == 2 else cost

    problem.also = also
    make_planner("cem", population=20, elites=4, iterations=3)(problem)
    torch.testing.assert_close(problem.seen[2][0, 0], problem.seen[1][0, 0])
    assert not torch.equal(problem.seen[2][1, 0], problem.seen[1][1, 0])


def test_the_population_of_icem_shrinks_to_twice_its_elites():
    problem = Quadratic()
    plan = make_planner("icem", population=50, elites=10, keep=2, decay=1.5, iterations=5)(problem)
    assert [actions.shape[1] for actions in problem.seen] == [50, 33, 22, 20, 20]
    assert plan.evaluations == 145


@pytest.mark.parametrize("horizon", [16, 15, 2, 1])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_coloured_noise_has_its_spectrum_and_deviation_one(horizon, exponent):
    white = torch.randn(40000, horizon, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = coloured(white, exponent)[..., 0].numpy()
    np.testing.assert_allclose(noise.std(0), 1.0, rtol=0.03)
    power = (np.abs(np.fft.rfft(noise)) ** 2).mean(0)
    frequency = np.fft.rfftfreq(horizon)
    if horizon > 1:
        np.testing.assert_allclose(power[1:] / power[1], (frequency[1:] / frequency[1]) ** -exponent, rtol=0.05)
        np.testing.assert_allclose(power[0], power[1], rtol=0.05)
    assert exponent > 0 or torch.equal(coloured(white, 0.0), white)


def test_noise_is_as_smooth_within_a_block_of_actions_as_between_blocks():
    """Neighbours in time are as like when they stand in one block as when they stand in two."""
    problem = Quadratic(1, 4, 2, target=torch.zeros(1, 4, 6))
    problem.space = problem.space.block(3)
    make_planner("icem", population=4000, elites=4, iterations=1, std=0.01, min_std=0.0)(problem)
    steps = problem.space.steps(problem.seen[0][0])[..., 0].numpy()  # 4 blocks of 3 actions
    alike = [np.corrcoef(steps[1:, t], steps[1:, t + 1])[0, 1] for t in range(11)]
    assert min(alike) > 0.6
    assert max(alike) - min(alike) < 0.05


def test_weights_of_mppi_divide_by_the_temperature():
    cost = torch.tensor([[3.0, 1.0, 2.0, math.inf], [math.inf] * 4]).double()
    expected = torch.tensor([-2.0, 0.0, -1.0, -math.inf]).double()
    for temperature in (0.1, 1.0, 10.0):
        weights = path_weights(cost, temperature)
        torch.testing.assert_close(weights[0], torch.softmax(expected / temperature, 0))
        assert weights[1].tolist() == [0.0] * 4
    assert path_weights(cost, 1e-6)[0].tolist() == [0.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(path_weights(cost, 1e9)[0, :3], torch.full((3,), 1 / 3).double())
    normalised = path_weights(cost, 0.7, normalise=True)
    torch.testing.assert_close(normalised[0, :3], torch.softmax(-cost[0, :3] / cost[0, :3].std(correction=0) / 0.7, 0))
    torch.testing.assert_close(path_weights(1000 * cost - 5, 0.7, normalise=True), normalised)
    assert path_weights(torch.full((1, 3), 2.0), 0.5, normalise=True).tolist() == [[pytest.approx(1 / 3)] * 3]


def test_mppi_executes_the_weighted_mean():
    problem = Quadratic()
    plan = make_planner("mppi", temperature=0.7, normalise=False, **{**ONE, "elites": 30})(problem)
    every, cost = best(problem, 30)
    weights = torch.softmax(-cost / 0.7, 1)
    torch.testing.assert_close(plan.actions, (weights[:, :, None, None] * every).sum(1))


def test_at_a_low_temperature_mppi_executes_its_best_plan():
    problem = Quadratic()
    plan = make_planner("mppi", temperature=1e-6, **ONE)(problem)
    torch.testing.assert_close(plan.actions, best(problem, 1)[0][:, 0])


def test_the_deviation_of_mppi_may_stay():
    problem = Quadratic(1, 1, 1)
    make_planner("mppi", population=5000, elites=50, iterations=3, std=0.1, adapt=False)(problem)
    for drawn in problem.seen[:3]:
        assert float(drawn.std()) == pytest.approx(0.15, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cem", {"elites": 300}, "at most 256, got 300"),
        ("cem", {"population": 0}, "population"),
        ("cem", {"std": 0.0, "min_std": 0.0}, "above 0"),
        ("cem", {"std": 0.1, "min_std": 0.2}, "std must be at least 0.2"),
        ("cem", {"std": math.inf}, "finite"),
        ("cem", {"momentum": 1.0}, "never moves"),
        ("cem", {"keep": -1}, "keep must be at least 0"),
        ("cem", {"execute": "random"}, "execute"),
        ("icem", {"exponent": -1.0}, "exponent"),
        ("icem", {"decay": 0.5}, "decay"),
        ("mppi", {"temperature": 0.0}, "above 0"),
        ("mppi", {"temperature": math.nan}, "temperature"),
        ("gradient", {"learning_rate": 0.0}, "above 0"),
        ("gradient", {"starts": 0}, "starts"),
        ("cem", {"temperature": 1.0}, "option of planner cem: 'temperature' is not known"),
    ],
)
def test_mistakes_in_options(name, options, message):
    with pytest.raises(UserError, match=message):
        make_planner(name, **options)
