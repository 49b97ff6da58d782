"""Recording: an agent acts as it would unwatched, and what was kept says what happened and what was expected."""

import io

import numpy as np
import pytest

pytest.importorskip("gymnasium")
import gymnasium
import torch
from gymnasium import spaces
from PIL import Image

from jepakit.core.dynamics import Dynamics
from jepakit.core.energies import Energy
from jepakit.errors import UserError
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.nn.tokens import Tokens
from jepakit.worlds.acting import PlanningConfig, PlanningPolicy, RandomPolicy, episode_seeds, run_episodes
from jepakit.worlds.planners import make_planner
from jepakit.worlds.recording import BYTES, FRAMES, PLANS, SIDE, Recorder, animation, render_again


class Plane(gymnasium.Env):
    """A point that moves by its action, and draws itself."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-0.5, 0.5, (2,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = (self.np_random.uniform(-1, 1, 2).astype(np.float32) for _ in range(2))
        self.steps = 0
        return self.place.copy(), self._info()

    def step(self, action):
        self.place, self.steps = self.place + action, self.steps + 1
        return self.place.copy(), 0.0, False, self.steps >= 30, self._info()

    def render(self):
        frame = np.zeros((200, 300, 3), dtype=np.uint8)
        row, column = (np.clip(self.place * 50 + [100, 150], 5, [195, 295])).astype(int)
        frame[row - 5 : row + 5, column - 5 : column + 5] = (255, 128, 0)
        return frame

    def _info(self):
        near = bool(np.linalg.norm(self.place - self.goal) < 0.15)
        return {"goal": self.goal.copy(), "goal_state": self.goal.copy(), "success": near, "state": self.place.copy()}


class Exact(torch.nn.Module):
    """The plane's own dynamics."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def begin(self, embeddings, actions, lengths=None):
        return embeddings[:, -1]

    def advance(self, state, action, condition=None):
        return state + 0.3 * action

    def embedding(self, state):
        return state


class Identity(torch.nn.Module):
    def forward(self, inputs):
        return Tokens(inputs, torch.zeros(*inputs.shape[:2], 1))


def planning(recorder=None):
    inputs = TrajectoryInputs(
        shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), action_mean=(0.0, 0.0), action_std=(0.3, 0.3), history=1, horizon=1
    )
    model = Dynamics(Identity(), Exact(), Energy(name="l2"), history=1).eval()
    planner = make_planner("cem", population=64, elites=8, iterations=3, seed=0)
    return PlanningPolicy(
        model, inputs, planner if recorder is None else recorder.planner(planner), PlanningConfig(horizon=5, replan=2)
    )


@pytest.fixture(scope="module")
def recorded():
    recorder = Recorder(episode_seeds(4, 2))
    outcomes = run_episodes(recorder.environments("cem", Plane), planning(recorder), 5, seed=4, together=3)
    run_episodes(recorder.environments("random", Plane), RandomPolicy(), 5, seed=4, together=3)
    return recorder, outcomes


def test_being_watched_changes_nothing(recorded):
    _, outcomes = recorded
    alone = run_episodes(Plane, planning(), 5, seed=4, together=3)
    for one, other in zip(outcomes, alone, strict=True):
        np.testing.assert_array_equal(one.states, other.states)


def test_states_actions_and_ends_are_those_of_the_episode(recorded):
    recorder, outcomes = recorded
    assert list(recorder.episodes) == ["cem", "random"]
    for outcome, (seed, episode) in zip(outcomes, recorder.episodes["cem"].items(), strict=False):
        assert (outcome.seed, outcome.success) == (seed, episode.success)
        np.testing.assert_array_equal(outcome.states, episode.states)
        np.testing.assert_allclose(np.diff(episode.states, axis=0), episode.actions, atol=1e-6)
        assert episode.goal.shape == (2,)


def test_a_right_model_imagines_where_it_goes(recorded):
    recorder, _ = recorded
    for seed, episode in recorder.episodes["cem"].items():
        plans = recorder.chosen_plans("cem", seed)
        assert len(plans) == PLANS  # of 15
        for plan in plans:
            done = min(2, 30 - plan.step)
            expected = plan.imagined()
            assert expected.shape == (5, 2)
            np.testing.assert_allclose(expected[:done], episode.states[plan.step + 1 : plan.step + 1 + done], atol=1e-5)


def test_the_landscape_is_cheapest_towards_the_goal(recorded):
    recorder, _ = recorded
    seed = recorder.seeds[0]
    episode = recorder.episodes["cem"][seed]
    found = recorder.chosen_plans("cem", seed)[0].landscape(9)
    cost = np.array(found["cost"])
    assert cost.shape == (9, 9)
    best = np.unravel_index(cost.argmin(), cost.shape)
    cheapest = np.array([found["axes"][0][best[0]], found["axes"][1][best[1]]])
    way = episode.goal - episode.states[0]
    assert cheapest @ way > 0
    assert found["plan_cost"] <= cost.min() * 1.05


def test_frames_are_of_the_same_episode_and_small_as_an_animation(recorded):
    recorder, _ = recorded
    episode = recorder.episodes["random"][recorder.seeds[1]]
    frames = render_again(lambda: Plane(render_mode="rgb_array"), episode)
    assert len(frames) == 31
    written = animation(frames)
    picture = Image.open(io.BytesIO(written))
    assert picture.format == "GIF"
    assert max(picture.size) == SIDE
    assert picture.n_frames <= 31
    assert animation(frames) == written


def test_long_and_noisy_episodes_lose_frames():
    noise = np.random.default_rng(0).integers(0, 256, (100, 128, 128, 3), dtype=np.uint8)
    written = animation(list(noise))
    assert len(written) < BYTES + 20_000
    assert Image.open(io.BytesIO(written)).n_frames < FRAMES


def test_an_environment_that_draws_nothing_is_named(recorded):
    class Blind(Plane):
        def render(self):
            return None

    recorder, _ = recorded
    with pytest.raises(UserError, match="draw itself"):
        render_again(Blind, recorder.episodes["cem"][recorder.seeds[0]])
