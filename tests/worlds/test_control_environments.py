"""Pendulum and reacher with goals: Gymnasium's contract, oracles that succeed, goals that mean what they say."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env

from jepakit.worlds.acting import OraclePolicy, RandomPolicy, run_episodes
from jepakit.worlds.environments import make_environment

NAMES = ["pendulum", "pendulum-pixels", "reacher", "reacher-pixels"]


def make(name):
    if name.startswith("reacher"):
        pytest.importorskip("mujoco")
    return make_environment(name)


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", NAMES)
def test_they_keep_gymnasiums_contract(name):
    check_env(make(name), skip_render_check=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_succeeds_and_chance_does_not(name):
    make(name)
    made = lambda: make_environment(name)  # noqa: E731
    assert all(outcome.success for outcome in run_episodes(made, OraclePolicy(), 8))
    assert not any(outcome.success for outcome in run_episodes(made, RandomPolicy(), 8))


@pytest.mark.parametrize("name", NAMES)
def test_the_goal_is_an_observation_at_no_distance(name):
    environment = make(name)
    observation, info = environment.reset(seed=1)
    assert info["goal"].shape == observation.shape
    assert info["goal"].dtype == observation.dtype
    goal = info["goal_state"]
    assert environment.env.get_wrapper_attr("_distance")(goal, goal) == 0
    assert info["distance"] > 0


def test_the_pendulum_swings_as_gymnasiums_does():
    import gymnasium

    ours, theirs = make("pendulum"), gymnasium.make("Pendulum-v1")
    np.testing.assert_array_equal(ours.reset(seed=5)[0], theirs.reset(seed=5)[0])
    for torque in (1.0, -2.0, 0.3):
        mine, other = ours.step(np.array([torque])), theirs.step(np.array([torque]))
        np.testing.assert_array_equal(mine[0], other[0])
        assert mine[1] == pytest.approx(other[1])
    angle = np.arctan2(mine[0][1], mine[0][0])
    assert mine[4]["distance"] == pytest.approx(abs(angle), abs=1e-5)


def test_a_pictured_pendulum_knows_its_state():
    numbers, pictures = make("pendulum"), make("pendulum-pixels")
    seen = numbers.reset(seed=2)[0]
    picture, info = pictures.reset(seed=2)
    assert picture.shape == (1, 32, 32)
    np.testing.assert_allclose(info["state"], seen, atol=1e-6)


def test_the_random_torque_is_kept_for_some_steps():
    environment, rng = make("pendulum"), np.random.default_rng(0)
    environment.reset(seed=0)
    torques = [float(environment.unwrapped.heuristic_action(rng)[0]) for _ in range(500)]
    assert 3 < 500 / len(set(torques)) < 8
    assert np.abs(torques).max() <= 2


def test_our_forward_kinematics_are_mujocos():
    environment = make("reacher")
    for seed in range(5):
        observation, info = environment.reset(seed=seed)
        arm = environment.unwrapped
        np.testing.assert_allclose(observation[6:], arm.get_body_com("fingertip")[:2], atol=1e-6)
        np.testing.assert_allclose(info["goal"][6:], arm.get_body_com("target")[:2], atol=1e-6)
        np.testing.assert_array_equal(info["goal"][4:6], 0)


def test_a_pictured_arm_is_drawn_where_it_is():
    numbers, pictures = make("reacher"), make("reacher-pixels")
    seen, told = numbers.reset(seed=2)
    picture, info = pictures.reset(seed=2)
    assert picture.shape == (2, 32, 32)
    np.testing.assert_array_equal(info["state"], seen)
    np.testing.assert_array_equal(info["goal_state"], told["goal"])
    # The middle of a drawn link is the middle of the link.
    centres = ((np.arange(32) + 0.5) / 32 * 2 - 1) * 0.21 * 1.1
    elbow, tip = 0.1 * seen[[0, 2]], seen[6:]
    for drawn, middle in zip(picture.astype(float), (elbow / 2, (elbow + tip) / 2), strict=True):
        found = (drawn.sum(0) @ centres, drawn.sum(1) @ -centres)
        np.testing.assert_allclose(np.array(found) / drawn.sum(), middle, atol=0.003)
