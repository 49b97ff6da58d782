import pytest
import torch

from jepakit.errors import UserError
from jepakit.worlds.problem import Plan, shifted


def test_a_plan_shifted_by_what_was_done():
    plan = torch.arange(8.0).reshape(1, 4, 2)
    assert shifted(plan)[0].tolist() == [[2, 3], [4, 5], [6, 7], [6, 7]]
    assert shifted(plan, 2, "zero")[0].tolist() == [[4, 5], [6, 7], [0, 0], [0, 0]]
    assert torch.equal(shifted(plan, 0), plan)
    assert shifted(plan, 9)[0].tolist() == [[6, 7]] * 4
    assert shifted(plan[:, None].expand(1, 3, 4, 2)).shape == (1, 3, 4, 2)
    with pytest.raises(UserError, match="Valid: repeat, zero"):
        shifted(plan, 1, "mirror")
    with pytest.raises(UserError, match="steps"):
        shifted(plan, -1)


def test_a_plan_that_is_not_feasible_says_so_when_asked():
    plan = Plan(torch.zeros(2, 1, 1), torch.zeros(2), torch.zeros(1, 2), torch.tensor([True, False]), 7, 0.1)
    with pytest.raises(UserError, match=r"environments \[1\]: each of 7 candidates"):
        plan.check()
