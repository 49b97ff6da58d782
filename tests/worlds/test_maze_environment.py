import numpy as np
import pytest

pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env

from jepakit.errors import UserError
from jepakit.modalities.trajectories.built_in.walls import MOST
from jepakit.worlds.acting import OraclePolicy, run_episodes
from jepakit.worlds.environments import make_environment

NAMES = ["maze", "maze-fixed", "point-maze", "point-maze-pixels"]


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", NAMES)
def test_they_keep_gymnasiums_contract(name):
    check_env(make_environment(name, render_mode="rgb_array").unwrapped, skip_render_check=False)


@pytest.mark.parametrize(("name", "options"), [("maze", {"rows": 3, "columns": 3, "pixels": False}), ("point-maze", {})])
def test_the_oracle_arrives(name, options):
    outcomes = run_episodes(lambda: make_environment(name, max_episode_steps=90, **options), OraclePolicy(), 2)
    assert all(outcome.success for outcome in outcomes)
    assert {outcome.steps for outcome in outcomes} == {90}


def test_start_and_goal_lie_far_apart_and_a_seed_gives_the_task():
    environment = make_environment("maze")
    for seed in range(5):
        observation, info = environment.reset(seed=seed)
        assert info["doors"] == environment.unwrapped.maze.steps.max() >= 2
        np.testing.assert_array_equal(observation, environment.reset(seed=seed)[0])
    near = make_environment("maze", far=False, rows=4, columns=4)
    assert {near.reset(seed=seed)[1]["doors"] for seed in range(8)} != {near.unwrapped.maze.steps.max()}


def test_inertia_carries_on_and_ends_at_a_wall():
    environment = make_environment("point-maze").unwrapped
    environment.reset(seed=0, options={"start": (15.0, 15.0)})
    first = environment.step(np.array([1.0, 0.0]))[0]
    np.testing.assert_allclose(first, [16, 15, 1, 0], atol=1e-5)
    np.testing.assert_allclose(environment.step(np.zeros(2))[0], [16.8, 15, 0.8, 0], atol=1e-5)
    for _ in range(12):
        seen = environment.step(np.array([-MOST, 0.0]))[0]
    assert seen[0] == pytest.approx(4, abs=0.01)
    np.testing.assert_array_equal(seen[2:], 0)
    assert environment.observation_space.contains(seen)


def test_a_wanderer_gives_actions_within_bounds():
    environment, rng = make_environment("point-maze"), np.random.default_rng(0)
    environment.reset(seed=0)
    for _ in range(60):
        action = environment.unwrapped.heuristic_action(rng)
        assert environment.action_space.contains(action)
        environment.step(action)


@pytest.mark.parametrize("options", [{"start": (1.0, 1.0)}, {"goal": (32.0, 5.0)}, {"begin": (9.0, 9.0)}])
def test_places_that_cannot_be_are_refused(options):
    with pytest.raises(UserError, match="Maze"):
        make_environment("maze-fixed").reset(seed=0, options=options)


def test_nonsense_is_refused():
    environment = make_environment("maze")
    environment.reset(seed=0)
    for action in (np.array([np.nan, 0]), np.zeros(3)):
        with pytest.raises(UserError, match="action"):
            environment.step(action)
    with pytest.raises(UserError, match="row"):
        make_environment("maze", row=3)
