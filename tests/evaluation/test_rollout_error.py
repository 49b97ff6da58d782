"""Rollout error: closed forms, the linear model on a linear world, and bounds that count episodes."""

import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.evaluation.rollout_error import LinearDynamics, compare_rollouts, mean_by_horizon, principal_axes, rollout_errors


def world(windows=40, time=9, dim=5, seed=0, noise=0.0):
    """Embeddings that follow z' = A z + B a."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(9))).Q
    push = torch.randn(2, dim, generator=torch.Generator().manual_seed(8))
    z, actions = [torch.randn(windows, dim, generator=generator)], torch.randn(windows, time - 1, 2, generator=generator)
    for t in range(time - 1):
        z.append(z[-1] @ turn + actions[:, t] @ push + noise * torch.randn(windows, dim, generator=generator))
    return torch.stack(z, 1), actions


def test_a_linear_world_is_learned_and_rolled_out():
    embeddings, actions = world()
    model = LinearDynamics.fit(embeddings, actions)
    test, done = world(seed=1)
    found = model.rollout(test[:, 0], done)
    assert rollout_errors(found, test[:, 1:]).max() < 1e-4
    wrong = rollout_errors(model.rollout(test[:, 0], done.flip(0)), test[:, 1:])
    assert wrong.mean() > 0.1


def test_wide_embeddings_change_along_their_principal_axes():
    embeddings, actions = world(windows=80)
    spread = torch.linalg.qr(torch.randn(700, 700, generator=torch.Generator().manual_seed(3))).Q[:5]
    model = LinearDynamics.fit(embeddings @ spread, actions)
    assert model.axes.shape == (700, 512)
    found = model.rollout(embeddings[:, 0] @ spread, actions)
    assert rollout_errors(found, embeddings[:, 1:] @ spread).mean() < 1e-3
    assert principal_axes(embeddings[0], 512) is None


def test_an_error_is_a_share_of_the_variance():
    true = torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(0))
    assert rollout_errors(true, true).max() == 0
    mean = true.mean((0, 1)).expand_as(true)
    assert rollout_errors(mean, true).mean() == pytest.approx(1.0)
    assert rollout_errors(2 * mean, 2 * true).mean() == pytest.approx(1.0)


def test_bounds_count_episodes_not_windows():
    values = np.random.default_rng(0).normal(size=(10, 1)).repeat(20, axis=0)
    wide = mean_by_horizon(values, np.arange(200) // 20)
    narrow = mean_by_horizon(values, np.arange(200))
    assert wide["error"] == narrow["error"]
    assert wide["high"][0] - wide["low"][0] > 2 * (narrow["high"][0] - narrow["low"][0])
    assert mean_by_horizon(values, np.arange(200) // 20) == wide


def test_all_ways_to_imagine_stand_beside_each_other():
    true = torch.randn(12, 4, 3, generator=torch.Generator().manual_seed(0))
    found = compare_rollouts({"model": true, "nothing moves": true * 0}, true, np.arange(12) // 2)
    assert found["horizons"] == [1, 2, 3, 4]
    assert found["curves"]["model"]["error"] == [0] * 4
    assert min(found["curves"]["nothing moves"]["error"]) > 0.5


def test_actions_that_do_not_fit_are_named():
    embeddings, actions = world()
    with pytest.raises(UserError, match="9 embeddings have 8 actions"):
        LinearDynamics.fit(embeddings, actions[:, 1:])
