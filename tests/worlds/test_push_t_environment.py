"""Push-T with goals: every goal can be reached, no chance reaches it, and the table is as it was after a goal was drawn."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("gym_pusht", reason="the extra push-t is not installed")

from jepakit.worlds.environments import make_environment
from jepakit.worlds.push_t_environment import apart


def test_the_oracle_succeeds_and_chance_does_not():
    environment = make_environment("push-t")
    for seed in range(3):
        for oracle in (True, False):
            _, info = environment.reset(seed=seed)
            assert info["distance"] > 1
            environment.action_space.seed(seed)
            truncated = False
            while not truncated:
                action = environment.unwrapped.oracle_action() if oracle else environment.action_space.sample()
                _, _, terminated, truncated, info = environment.step(action)
                assert not terminated
            assert info["success"] == oracle


def test_a_seed_gives_the_task():
    environment = make_environment("push-t")
    (first, info), (again, same) = (environment.reset(seed=4) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(info["goal"], same["goal"])
    assert environment.observation_space.contains(first)
    np.testing.assert_allclose(info["state"], first)


def test_the_heuristic_pushes():
    environment, rng = make_environment("push-t"), np.random.default_rng(0)
    before = environment.reset(seed=0)[0]
    moved = 0
    for _ in range(60):
        action = environment.unwrapped.heuristic_action(rng)
        assert environment.action_space.contains(action)
        seen = environment.step(action)[0]
        moved += bool(np.abs(seen[2:] - before[2:]).max() > 0.01)
        before = seen
    assert moved > 10


def test_distance_counts_places_and_angle():
    goal = np.array([100, 100, 200, 200, 1, 0.0])
    assert apart(goal, goal) == 0
    assert apart(goal + np.array([12, 0, 16, 0, 0, 0]), goal) == pytest.approx(1)
    turned = np.array([100, 100, 200, 200, np.cos(np.pi / 9), -np.sin(np.pi / 9)])
    assert apart(turned, goal) == pytest.approx(1)
