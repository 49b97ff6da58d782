import numpy as np
import pytest
import torch
from torch import nn

from jepakit.errors import UserError
from jepakit.evaluation.heads import HeadConfig, fit_head, outputs_of_head

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randn(200, 3, 4, generator=GENERATOR)
WANTED = TOKENS.mean(1) @ torch.tensor([1.0, -1.0, 0.5, 0.0])
ONE_GROUP = np.zeros(200, dtype=np.int64)


class Mean(nn.Module):
    """A linear layer over the mean of the tokens."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens):
        return self.linear(tokens.mean(1))[:, 0]


def fit(config, loss=None, seed=0):
    def squared(outputs, rows):
        return (outputs - WANTED[rows]).square()

    return fit_head(lambda rows: Mean(), TOKENS, loss or squared, ONE_GROUP, config, seed)


def test_a_head_is_chosen_from_the_grid_and_fitted_to_all():
    config = HeadConfig(learning_rates=(1e-6, 3e-2), weight_decays=(0.0, 30.0), epochs=30, batch_size=20)
    head, detail = fit(config)
    assert (detail["learning_rate"], detail["weight_decay"]) == (3e-2, 0.0)
    assert (detail["heads"], detail["train"], detail["chosen_on"]) == (4, 200, 40)
    assert (outputs_of_head(head, TOKENS, batch=7) - WANTED).square().mean() < 0.01 * WANTED.square().mean()


def test_heads_side_by_side_are_the_heads_one_by_one():
    rates = (1e-3, 3e-3, 3e-2)
    apart = [fit(HeadConfig(learning_rates=(rate,), epochs=5, batch_size=20))[0] for rate in rates]
    together, detail = fit(HeadConfig(learning_rates=rates, epochs=5, batch_size=20))
    torch.testing.assert_close(together.linear.weight, apart[rates.index(detail["learning_rate"])].linear.weight)


def test_rows_that_choose_do_not_teach_the_heads_that_are_chosen_from():
    """Each time a loss is taken with gradient before the refit, it is of the other rows; without gradient, of these."""
    taught, checked = [], []

    def spy(outputs, rows):
        (taught if outputs.requires_grad else checked).append(set(rows.tolist()))
        return (outputs - WANTED[rows]).square()

    fit(HeadConfig(learning_rates=(1e-2,), epochs=1, batch_size=20), spy)
    held = set.union(*checked)
    steps = 160 // 20
    assert len(held) == 40
    assert not held & set.union(*taught[:steps])
    assert set.union(*taught[steps:]) == set(range(200))  # the refit


def test_a_head_that_diverges_is_not_chosen():
    config = HeadConfig(learning_rates=(1e-2, 1e30), epochs=4, batch_size=20)
    assert fit(config)[1]["learning_rate"] == 1e-2
    with pytest.raises(UserError, match="Every head diverged"):
        fit(config, lambda outputs, rows: outputs * float("nan"))


def test_the_seed_decides():
    config = HeadConfig(learning_rates=(1e-2,), epochs=2, batch_size=20, max_samples=100)
    weights = [fit(config, seed=seed)[0].linear.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_messages():
    with pytest.raises(UserError, match="learning_rates must be positive"):
        HeadConfig(learning_rates=(0.0,))
    with pytest.raises(UserError, match="weight_decays must be"):
        HeadConfig(weight_decays=())
    with pytest.raises(UserError, match="too few to choose"):
        fit_head(lambda rows: Mean(), TOKENS[:1], lambda o, r: o, ONE_GROUP[:1], HeadConfig())
