"""Minigrid with goals: what is observed, and a shortest way that ends there."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("minigrid", reason="the extra minigrid is not installed")

from jepakit.worlds.environments import make_environment


@pytest.mark.parametrize("name", ["minigrid", "minigrid-four-rooms"])
def test_the_oracle_arrives_and_that_ends_the_episode(name):
    environment = make_environment(name)
    for seed in range(3):
        observation, info = environment.reset(seed=seed)
        assert environment.observation_space.contains(observation)
        terminated = truncated = False
        while not (terminated or truncated):
            observation, _, terminated, truncated, info = environment.step(environment.unwrapped.oracle_action())
        assert terminated
        assert info["success"]
        np.testing.assert_array_equal(observation[:-4], info["goal"][:-4])  # but for where it looks
        np.testing.assert_array_equal(info["state"], info["goal_state"])


def test_a_seed_gives_the_task_and_forward_moves_one_cell():
    environment = make_environment("minigrid")
    (first, info), (again, _) = (environment.reset(seed=1) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert environment.action_space.n == 3
    turned = environment.step(0)[4]
    np.testing.assert_array_equal(turned["state"], info["state"])
    moves = [np.abs(environment.step(2)[4]["state"] - info["state"]).sum() for _ in range(4)]
    assert max(moves) <= 4
    assert environment.reset(seed=1)[0][-4:].sum() == 1
