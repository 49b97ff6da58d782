import math

import pytest
import torch

from jepakit.errors import UserError
from jepakit.worlds.risk import check_risk, over_futures

COSTS = torch.tensor([[4.0, 1.0, 2.0, 8.0], [3.0, 3.0, 3.0, 3.0]])


@pytest.mark.parametrize(
    ("risk", "expected"),
    [("mean", 3.75), ("worst", 8.0), (0.01, 1.0), (0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.75, 4.0), (0.76, 8.0), (0.99, 8.0)],
)
def test_costs_of_four_futures_by_hand(risk, expected):
    assert over_futures(COSTS, risk).tolist() == [expected, 3.0]


def test_a_quantile_is_the_least_cost_that_its_share_does_not_exceed():
    """Also where binary fractions are a little off: .07 of 100 is 7.000000000000001."""
    costs = torch.randperm(100, generator=torch.Generator().manual_seed(0)).double()
    for percent in range(1, 100):
        assert over_futures(costs, percent / 100) == percent - 1


@pytest.mark.parametrize("risk", ["mean", "worst", 0.25, 0.5, 0.9])
def test_a_future_that_is_likelier_counts_as_often_as_its_share(risk):
    """As if it were there several times."""
    often = COSTS.repeat_interleave(torch.tensor([1, 4, 2, 3]), dim=1)
    belief = torch.tensor([0.1, 0.4, 0.2, 0.3])
    torch.testing.assert_close(over_futures(COSTS, risk, belief.expand_as(COSTS)), over_futures(often, risk))


def test_what_nobody_believes_in_costs_nothing():
    costs, belief = torch.tensor([1.0, math.inf, 3.0]), torch.tensor([0.5, 0.0, 0.5])
    assert [float(over_futures(costs, risk, belief)) for risk in ("mean", "worst", 0.9)] == [2.0, 3.0, 3.0]
    assert over_futures(costs, "worst", torch.tensor([0.5, 1e-9, 0.5])) == 3.0


@pytest.mark.parametrize("risk", ["mean", "worst", 0.75])
def test_gradient_reaches_the_futures_that_count(risk):
    costs = COSTS[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(over_futures(costs, risk), costs)
    expected = {"mean": [0.25] * 4, "worst": [0, 0, 0, 1.0], 0.75: [1.0, 0, 0, 0]}[risk]
    assert gradient.tolist() == expected


@pytest.mark.parametrize("risk", ["mean", "worst", 0.9])
def test_a_future_without_a_cost_is_the_worst(risk):
    found = over_futures(torch.tensor([[1.0, math.nan], [1.0, math.inf]]), risk)
    assert math.isnan(found[0])
    assert found[1] == math.inf


@pytest.mark.parametrize("risk", ["best", 0.0, 1.0, -0.5, 2, math.nan, None])
def test_other_words_and_numbers_are_refused(risk):
    with pytest.raises(UserError, match="risk"):
        check_risk(risk)
