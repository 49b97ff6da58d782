"""A goal for any environment: what it puts into `info`, and what it refuses."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
import gymnasium
from gymnasium import spaces

from jepakit.errors import UserError
from jepakit.worlds.goals import InSequence, WithGoal


class Line(gymnasium.Env):
    """A point that moves by its action."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(2, dtype=np.float32)
        return self.place.copy(), {"own": 1}

    def step(self, action):
        self.place = self.place + np.asarray(action, dtype=np.float32)
        return self.place.copy(), 0, False, False, {"own": 2}


def test_distance_and_success_are_those_of_the_moment():
    environment = WithGoal(Line(), np.array([2.0, 0.0]), near=0.5)
    observation, info = environment.reset(seed=0)
    assert info["own"] == 1
    assert info["distance"] == 2
    assert not info["success"]
    np.testing.assert_array_equal(info["goal"], [2, 0])
    assert info["goal"].dtype == observation.dtype
    environment.step(np.array([1, 0]))
    info = environment.step(np.array([1, 0]))[4]
    assert info["success"]
    assert info["distance"] == 0
    np.testing.assert_array_equal(info["state"], info["goal_state"])
    assert not environment.step(np.array([1, 0]))[4]["success"]


def test_it_must_have_been_near_for_so_many_steps_in_a_row():
    environment = WithGoal(Line(), np.zeros(2), near=0.5, hold=3)
    environment.reset()
    moves = [[0, 0], [1, 0], [-1, 0], [0, 0], [0, 0]]
    assert [environment.step(np.array(move))[4]["success"] for move in moves] == [False, False, False, False, True]
    assert not environment.reset()[1]["success"]


def test_a_drawn_goal_is_a_function_of_the_seed_and_may_be_set():
    environment = WithGoal(Line(), lambda env, rng: rng.uniform(-1, 1, 2), near=0.1)
    first, again, other = (environment.reset(seed=seed)[1]["goal"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(environment.reset(options={"goal": np.ones(2)})[1]["goal"], [1, 1])


def test_state_and_distance_may_be_ones_own():
    environment = WithGoal(
        Line(), lambda env, rng: (np.zeros(2), np.array([5.0])), near=1,
        state=lambda env: env.place[:1], distance=lambda state, goal: abs(float(state[0] - goal[0])),
    )  # fmt: skip
    info = environment.reset()[1]
    assert info["distance"] == 5
    assert info["state"].shape == info["goal_state"].shape == (1,)


@pytest.mark.parametrize(
    ("goal", "options", "told"),
    [
        (np.zeros(3), {}, r"\[2\].*\[3\].*resolution"),
        (np.array([0, np.nan]), {}, "NaN"),
        (lambda env, rng: (np.zeros(2), np.zeros(1)), {}, "observation alone"),
        (np.zeros(2), {"state": lambda env: env.place}, "pair"),
    ],
)
def test_goals_that_do_not_fit_are_refused(goal, options, told):
    with pytest.raises(UserError, match=told):
        WithGoal(Line(), goal, near=1, **options).reset()


def test_options_and_spaces_are_checked():
    with pytest.raises(UserError, match="near"):
        WithGoal(Line(), np.zeros(2), near=-1)
    with pytest.raises(UserError, match="hold"):
        WithGoal(Line(), np.zeros(2), near=1, hold=0)
    walk = Line()
    walk.observation_space = spaces.Dict({"a": spaces.Box(0, 1, (1,))})
    with pytest.raises(UserError, match="FlattenObservation"):
        WithGoal(walk, np.zeros(2), near=1)


def test_goals_in_sequence_come_before_the_environments_own():
    first, second, own = np.ones(2), 2 * np.ones(2), np.array([3.0, 0.0])
    environment = InSequence(WithGoal(Line(), own, near=0.5), [first, second], [2, 3])
    infos = [environment.reset(seed=0)[1], *(environment.step(np.array([1, 0]))[4] for _ in range(7))]
    np.testing.assert_array_equal([info["goal"][0] for info in infos], [1, 1, 2, 2, 2, 3, 3, 3])
    assert infos[0]["goal"].dtype == np.float32
    assert [info["success"] for info in infos] == [False, False, False, True, False, False, False, False]  # by its own goal
    np.testing.assert_array_equal(environment.reset(seed=0)[1]["goal"], first)


def test_goals_in_sequence_are_drawn_by_the_seed_and_have_to_fit():
    environment = InSequence(WithGoal(Line(), np.zeros(2), near=0.5), lambda env, rng: [rng.uniform(0, 1, 2)], [4])
    one, again, other = (environment.reset(seed=seed)[1]["goal"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    for goals, steps in (([np.ones(3)], [2]), ([np.ones(2)] * 2, [2])):
        with pytest.raises(UserError, match="sequence"):
            InSequence(WithGoal(Line(), np.zeros(2), near=0.5), goals, steps).reset(seed=0)
    with pytest.raises(UserError, match="steps"):
        InSequence(WithGoal(Line(), np.zeros(2), near=0.5), [np.ones(2)], [0])
