"""Acting: episodes do not depend on their neighbours, and a policy that plans in a right model reaches its goals."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
import gymnasium
from gymnasium import spaces

from jepakit.core.dynamics import Dynamics
from jepakit.core.energies import Energy
from jepakit.errors import UserError
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.nn.tokens import Tokens
from jepakit.worlds.acting import PlanningConfig, PlanningPolicy, RandomPolicy, episode_seeds, run_episodes
from jepakit.worlds.planners import make_planner
from jepakit.worlds.recording import Recorder

LIMIT = 0.5


class Plane(gymnasium.Env):
    """A point that moves by its action: the goal is drawn, the observation is the point."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-LIMIT, LIMIT, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = (self.np_random.uniform(-1, 1, 2).astype(np.float32) for _ in range(2))
        self.steps = 0
        return self.place.copy(), self._info()

    def step(self, action):
        self.place = self.place + np.clip(action, -LIMIT, LIMIT)
        self.steps += 1
        info = self._info()
        return self.place.copy(), -info["distance"], False, self.steps >= 12, info

    def _info(self):
        distance = float(np.linalg.norm(self.place - self.goal))
        return {"goal": self.goal.copy(), "distance": distance, "success": distance < 0.15, "state": self.place.copy()}


class Exact(torch.nn.Module):
    """The plane's true dynamics as a predictor: actions come in deviations."""

    def __init__(self, std, blocks=1):
        super().__init__()
        self.std, self.blocks = std, blocks
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def begin(self, embeddings, actions, lengths=None):
        return embeddings[:, -1]

    def advance(self, state, action, condition=None):
        return state + self.std * action.unflatten(1, (self.blocks, 2)).sum(1)

    def embedding(self, state):
        return state


class Identity(torch.nn.Module):
    def forward(self, inputs):
        return Tokens(inputs, torch.zeros(*inputs.shape[:2], 1))


def policy(skip=1, history=1, **options):
    inputs = TrajectoryInputs(
        shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), action_mean=(0.0,) * 2 * skip, action_std=(0.3,) * 2 * skip,
        history=history, horizon=1,
    )  # fmt: skip
    model = Dynamics(Identity(), Exact(0.3, skip), Energy(name="l2"), history=history).eval()
    planner = make_planner("cem", population=128, elites=12, iterations=5, seed=0)
    return PlanningPolicy(model, inputs, planner, PlanningConfig(**{"horizon": 6, "replan": 2, **options}), frame_skip=skip)


@pytest.mark.parametrize(
    ("skip", "history", "options"), [(1, 1, {}), (1, 3, {"replan": 1}), (2, 2, {"horizon": 3, "replan": 1})]
)
def test_planning_in_the_true_model_reaches_every_goal(skip, history, options):
    planning = policy(skip, history, **options)
    outcomes = run_episodes(Plane, planning, 6, together=4)
    assert [outcome.success for outcome in outcomes] == [True] * 6
    assert {outcome.steps for outcome in outcomes} == {12}
    assert all(len(outcome.states) == 13 for outcome in outcomes)
    steps = skip * options.get("replan", 2)
    assert len(planning.seconds) == 2 * 12 // steps  # two rounds of environments, a plan every few steps


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_plans_in_the_precision_asked_for(precision, dtype):
    planning, seen = policy(precision=precision), set()
    exact = planning.model.predictor.advance

    def advance(state, action, condition=None):
        seen.add((state @ torch.eye(2)).dtype)
        return exact(state, action, condition)

    planning.model.predictor.advance = advance
    outcomes = run_episodes(Plane, planning, 4)
    assert seen == {dtype}
    assert all(outcome.success for outcome in outcomes)


@pytest.mark.parametrize(("observations", "most"), [(None, 3), (2, 2), (1, 1)])
def test_plans_start_from_as_many_observations_as_asked_for(observations, most):
    planning, seen = policy(history=3, replan=1, observations=observations), []
    observe = planning.model.observe

    def noting(history):
        seen.append((history["inputs"].shape[1], history["actions"].shape[1]))
        return observe(history)

    planning.model.observe = noting
    outcomes = run_episodes(Plane, planning, 4)
    assert set(seen) == {(number, number - 1) for number in range(1, most + 1)}
    assert all(outcome.success for outcome in outcomes)


def test_no_more_observations_than_the_history():
    with pytest.raises(UserError, match=r"observations.*3"):
        run_episodes(Plane, policy(history=3, observations=4), 1)
    with pytest.raises(UserError, match="observations"):
        PlanningConfig(observations=0)


WAYS = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float32)


class Grid(Plane):
    """A point on a grid that takes one of four ways, numbered from 1."""

    action_space = spaces.Discrete(4, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = (self.np_random.integers(-2, 3, 2).astype(np.float32) for _ in range(2))
        return self.place.copy(), self._info()

    def step(self, action):
        assert self.action_space.contains(action)
        self.place = self.place + WAYS[action - 1]
        self.steps += 1
        info = self._info()
        return self.place.copy(), 0.0, bool(info["success"]), self.steps >= 12, info


class ExactGrid(Exact):
    """Its true dynamics: the model is told of one-hot codes in deviations."""

    def advance(self, state, action, condition=None):
        codes = action.unflatten(1, (self.blocks, 4)) * self.std + 0.25
        return state + (codes @ torch.from_numpy(WAYS)).sum(1)


def grid_policy(skip=1, history=1, planner=None, **options):
    inputs = TrajectoryInputs(
        shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), action_mean=(0.25,) * 4 * skip, action_std=(0.4,) * 4 * skip,
        history=history, horizon=1,
    )  # fmt: skip
    model = Dynamics(Identity(), ExactGrid(0.4, skip), Energy(name="l2"), history=history).eval()
    config = PlanningConfig(**{"horizon": 9, "replan": 1, **options})
    return PlanningPolicy(model, inputs, planner or make_planner("tree", beam=16), config, frame_skip=skip)


@pytest.mark.parametrize(
    ("skip", "history", "options"), [(1, 1, {}), (1, 3, {"replan": 2}), (2, 2, {"horizon": 4, "replan": 2})]
)
def test_choices_are_planned_by_tree_search(skip, history, options):
    outcomes = run_episodes(Grid, grid_policy(skip, history, **options), 6, together=4)
    assert [outcome.success for outcome in outcomes] == [True] * 6
    assert np.mean([outcome.success for outcome in run_episodes(Grid, RandomPolicy(), 20)]) < 0.5


def test_plans_of_choices_are_recorded():
    recorder = Recorder(episode_seeds(0, 1))
    planning = grid_policy(planner=recorder.planner(make_planner("tree", beam=16)))
    run_episodes(recorder.environments("tree", Grid), planning, 2)
    plan = recorder.chosen_plans("tree", recorder.seeds[0])[0]
    episode = recorder.episodes["tree"][recorder.seeds[0]]
    np.testing.assert_allclose(plan.imagined()[0], episode.states[1], atol=1e-5)
    assert plan.landscape() is None  # a choice has no axes


def test_too_many_blocks_are_refused():
    with pytest.raises(UserError, match=r"4 choices in blocks of 6 make 4,096 different blocks.*smaller frame_skip"):
        run_episodes(Grid, grid_policy(6), 1)


def test_random_actions_reach_none_of_them():
    assert np.mean([outcome.success for outcome in run_episodes(Plane, RandomPolicy(), 20)]) < 0.2


@pytest.mark.parametrize("make", [policy, RandomPolicy])
def test_an_episode_is_the_same_whoever_runs_beside_it(make):
    alone, beside = run_episodes(Plane, make(), 5, together=1), run_episodes(Plane, make(), 5, together=5)
    for one, other in zip(alone, beside, strict=True):
        assert one.seed == other.seed
        np.testing.assert_allclose(one.states, other.states, atol=1e-5)


def test_environments_that_do_not_fit_the_model_are_named():
    class Wider(Plane):
        def reset(self, **options):
            place, info = super().reset(**options)
            return np.append(place, 0).astype(np.float32), info

    class Aimless(Plane):
        def _info(self):
            return {"success": False}

        def step(self, action):
            raise AssertionError

    class Broken(Plane):
        def reset(self, **options):
            place, info = super().reset(**options)
            return place * np.nan, info

    class Elsewhere(Plane):
        def _info(self):
            return {**super()._info(), "goal": np.zeros(5, dtype=np.float32)}

    class Driven(Plane):
        action_space = spaces.Box(-LIMIT, LIMIT, (3,), np.float32)

    class Chosen(Plane):
        action_space = spaces.Discrete(4)

    with pytest.raises(UserError, match=r"\[2\].*\[3\].*resize"):
        run_episodes(Wider, policy(), 1)
    with pytest.raises(UserError, match=r"observations with NaN"):
        run_episodes(Broken, policy(), 1)
    with pytest.raises(UserError, match=r"goals of \[5\]"):
        run_episodes(Elsewhere, policy(), 1)
    with pytest.raises(UserError, match=r"2 numbers together.*3 each"):
        run_episodes(Driven, policy(), 1)
    with pytest.raises(UserError, match=r"2 numbers together.*4 each"):
        run_episodes(Chosen, policy(), 1)
    with pytest.raises(UserError, match="goal"):
        run_episodes(Aimless, policy(), 1)


def test_options_are_checked():
    with pytest.raises(UserError, match="replan"):
        PlanningConfig(horizon=3, replan=4)
    with pytest.raises(UserError, match=r"precision.*bfloat16"):
        PlanningConfig(precision="half")
    with pytest.raises(UserError, match=r"risk: mean, worst, or a quantile"):
        PlanningConfig(risk=1.0)
    with pytest.raises(UserError, match="futures"):
        PlanningConfig(futures=0)
    with pytest.raises(UserError, match="knows of one future"):
        run_episodes(Plane, policy(risk="worst"), 1)
    with pytest.raises(UserError, match="episodes"):
        run_episodes(Plane, RandomPolicy(), 0)


class Noting:
    """Remembers what it was asked for, and plans to stay."""

    def __init__(self):
        self.horizons, self.warm, self.spaces = [], [], []

    def __call__(self, problem, warm=None, step=0):
        self.horizons.append(problem.horizon)
        self.warm.append(None if warm is None else tuple(warm.shape))
        self.spaces.append(problem.space)
        return make_planner("cem", population=12, elites=10, iterations=1)(problem, warm, step=step)


def test_no_plan_reaches_past_the_end_and_each_begins_with_what_was_good():
    class Told(Plane):
        spec = SimpleNamespace(max_episode_steps=12)

    planning, noting = policy(horizon=6, replan=4, deviations=0.5), Noting()
    planning.planner = noting
    run_episodes(Told, planning, 1)
    assert noting.horizons == [6, 6, 4]
    assert noting.warm == [None, (1, 9, 6, 2), (1, 9, 4, 2)]
    torch.testing.assert_close(noting.spaces[0].high, torch.full((2,), 0.15))
    wide = policy(horizon=6, replan=4, deviations=None)
    wide.planner = noting
    run_episodes(Plane, wide, 1)
    assert noting.horizons[3:] == [6, 6, 6]
    torch.testing.assert_close(noting.spaces[-1].high, torch.full((2,), LIMIT))
