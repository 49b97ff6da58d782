"""Ridge with several outputs: scikit-learn's answer, exact leave-one-out choice, and what slack buys."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from jepakit.errors import UserError
from jepakit.evaluation.ridge import fit_ridges


@pytest.mark.parametrize("n", [60, 8])
def test_it_is_scikit_learns_ridge_of_standardised_inputs(n):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(n, 12)) * np.arange(1, 13) + 3, generator.normal(size=(n, 2))
    strength = 0.3
    found = fit_ridges(torch.from_numpy(x), torch.from_numpy(y), (strength,))
    scaled = (x - x.mean(0)) / x.std(0)
    expected = Ridge(alpha=n * strength).fit(scaled, y).predict(scaled)
    np.testing.assert_allclose(found(torch.from_numpy(x).float()).numpy(), expected, atol=1e-4)


def test_the_strength_is_that_of_the_least_leave_one_out_error():
    generator = np.random.default_rng(1)
    x = torch.from_numpy(generator.normal(size=(20, 6)))
    y = x[:, :1] + torch.from_numpy(generator.normal(size=(20, 1)))
    strengths, errors = (10.0, 1.0, 0.1, 0.01), []
    for strength in strengths:
        left_out = []
        for i in range(20):
            rest = torch.arange(20) != i
            # as the whole is standardised: the rows left out must not change the scale
            scaled = (x - x.mean(0)) / x.std(0, correction=0)
            fit = Ridge(alpha=20 * strength).fit(scaled[rest].numpy(), y[rest].numpy())
            left_out.append(float(fit.predict(scaled[i : i + 1].numpy()).item() - y[i, 0]))
        errors.append(np.mean(np.square(left_out)))
    assert fit_ridges(x, y, strengths).strength == strengths[int(np.argmin(errors))]


def test_slack_takes_the_strongest_penalty_that_keeps_to_it():
    generator = np.random.default_rng(2)
    clean = torch.from_numpy(generator.normal(size=(200, 3)))
    x, y = torch.cat([clean, 1e-3 * clean @ torch.ones(3, 1).double()], dim=1), clean[:, :1]
    tight, loose = fit_ridges(x, y), fit_ridges(x, y, slack=0.01)
    assert loose.strength > tight.strength
    error = float((loose(x.float()) - y).square().mean() / y.var())
    assert error < 0.012


def test_constant_inputs_say_nothing_and_none_are_refused():
    x = torch.cat([torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), torch.full((30, 1), 5.0)], dim=1)
    fit = fit_ridges(x, x[:, :1])
    assert float(fit.weight[2]) == 0
    with pytest.raises(UserError, match="at least one"):
        fit_ridges(x[:0], x[:0])
