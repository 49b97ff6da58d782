import numpy as np
import pytest

pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env

from jepakit.errors import UserError
from jepakit.modalities.trajectories.built_in.two_rooms import MOST, TWO_ROOMS
from jepakit.worlds.environments import make_environment


@pytest.mark.filterwarnings("ignore:.*")
def test_it_keeps_gymnasiums_contract():
    check_env(make_environment("two-rooms", render_mode="rgb_array").unwrapped, skip_render_check=False)


def test_a_seed_gives_the_task_and_start_and_goal_lie_in_different_rooms():
    environment = make_environment("two-rooms")
    tasks = [environment.reset(seed=seed) for seed in (0, 1, 2, 0)]
    np.testing.assert_array_equal(tasks[0][0], tasks[3][0])
    np.testing.assert_array_equal(tasks[0][1]["goal"], tasks[3][1]["goal"])
    assert (tasks[0][0] != tasks[1][0]).any()
    for _, info in tasks:
        wall = info["state"][2]
        assert (info["state"][0] < wall) != (info["goal_state"][0] < wall)
        assert not info["success"]


def test_an_episode_lasts_200_steps_and_success_is_being_near_at_the_moment():
    environment = make_environment("two-rooms")
    _, info = environment.reset(seed=3)
    for step in range(1, 201):
        _, reward, terminated, truncated, info = environment.step(environment.unwrapped.oracle_action())
        assert reward == pytest.approx(-info["distance"])
        assert not terminated
        assert truncated == (step == 200)
    assert info["success"]
    np.testing.assert_allclose(info["state"][:2], info["goal_state"][:2], atol=0.5)


def test_actions_are_cut_to_their_bounds_and_nonsense_is_refused():
    environment = make_environment("two-rooms").unwrapped
    environment.reset(seed=0, options={"start": (10.0, 30.0)})
    environment.step(np.array([0.0, 100.0]))
    np.testing.assert_allclose(environment.place, [[10.0, 30.0 + MOST]])
    for action in (np.array([np.nan, 0]), np.zeros(3)):
        with pytest.raises(UserError, match="action"):
            environment.step(action)


@pytest.mark.parametrize("options", [{"start": (1.0, 1.0)}, {"goal": (5.0,)}, {"begin": (9.0, 9.0)}])
def test_places_that_cannot_be_are_refused(options):
    with pytest.raises(UserError, match="Two Rooms"):
        make_environment("two-rooms").reset(seed=0, options=options)


def test_fixed_walls_are_the_same_for_all():
    environment = make_environment("two-rooms-fixed")
    walls = [environment.reset(seed=seed)[1]["state"][2:] for seed in range(3)]
    np.testing.assert_array_equal(walls[0], walls[1])
    np.testing.assert_array_equal(walls[0], walls[2])


def test_named_worlds_are_those_that_data_comes_from():
    for name, config in TWO_ROOMS.items():
        assert make_environment(name).unwrapped.config == config


@pytest.mark.parametrize("name", ["two-rooms-stochastic", "two-rooms-stochastic-pixels", "two-rooms-either-door"])
def test_a_door_that_may_be_locked_lies_between_start_and_goal_and_is_not_seen(name):
    environment, locked = make_environment(name), []
    for seed in range(8):
        seen, info = environment.reset(seed=seed)
        state, goal = info["state"], info["goal_state"]
        assert environment.observation_space.contains(seen)
        assert (state[0] < state[2]) != (goal[0] < goal[2])
        assert max(abs(state[1] - state[4]), abs(goal[1] - state[4])) <= 8
        assert len(environment.unwrapped.state_names) == len(state) == 6
        locked.append(bool(state[5]))
        for _ in range(60):
            assert environment.action_space.contains(environment.unwrapped.heuristic_action(np.random.default_rng(seed)))
            info = environment.step(environment.unwrapped.oracle_action())[-1]
        assert info["success"]
    assert len(set(locked)) == 2
    if name == "two-rooms-stochastic":
        np.testing.assert_array_equal(environment.reset(seed=0)[0], environment.reset(seed=0)[1]["state"][:2])
    with pytest.raises(UserError, match="not in a wall"):
        environment.reset(seed=0, options={"start": (32.0, 36.0)})
    environment.reset(seed=0, options={"start": (32.0, 22.0)})  # in the frame of the second door


def test_a_wanderer_gives_actions_within_bounds():
    environment = make_environment("two-rooms")
    environment.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        action = environment.unwrapped.heuristic_action(rng)
        assert environment.action_space.contains(action)
        environment.step(action)


def test_a_picture_for_people():
    environment = make_environment("two-rooms", render_mode="rgb_array")
    environment.reset(seed=0)
    assert environment.render().shape == (260, 260, 3)


def test_unknown_environments_and_options_are_named():
    with pytest.raises(UserError, match="two-rooms"):
        make_environment("two-room")
    with pytest.raises(UserError, match="doors"):
        make_environment("two-rooms", doors=3)
