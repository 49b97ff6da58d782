"""Planning on two levels: behind a wall that a short horizon cannot see round, subgoals lead to the goal."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from jepakit.core.dynamics import Dynamics
from jepakit.core.energies import Energy
from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.nn.tokens import Tokens
from jepakit.worlds.acting import PlanningConfig, PlanningPolicy, run_episodes
from jepakit.worlds.latent_problem import LatentProblem
from jepakit.worlds.planners import make_planner
from jepakit.worlds.problem import ActionSpace
from jepakit.worlds.subgoals import HierarchicalPolicy

LIMIT, STEPS, LONGEST = 0.5, 3, 30
TOP = 1.0  # the wall stands on x = 0 below it


def moved(place, action):
    """Where points `[n, 2]` are after moves: those that would cross the wall stay."""
    after = place + action
    through = (place[..., 0] < 0) != (after[..., 0] < 0)
    share = place[..., 0] / torch.where(through, place[..., 0] - after[..., 0], torch.ones_like(place[..., 0]))
    height = place[..., 1] + share * action[..., 1]
    return torch.where((through & (height < TOP))[..., None], place, after)


class Wall(gymnasium.Env):
    """A point and its goal stand at the foot of a wall, on different sides."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-LIMIT, LIMIT, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = (
            np.array([side * self.np_random.uniform(0.3, 1), self.np_random.uniform(-1, -0.5)], np.float32) for side in (-1, 1)
        )
        self.steps = 0
        return self.place.copy(), self._info()

    def step(self, action):
        clipped = torch.from_numpy(np.clip(action, -LIMIT, LIMIT))
        self.place = moved(torch.from_numpy(self.place)[None], clipped[None])[0].numpy()
        self.steps += 1
        info = self._info()
        return self.place.copy(), -info["distance"], False, self.steps >= LONGEST, info

    def _info(self):
        distance = float(np.linalg.norm(self.place - self.goal))
        return {"goal": self.goal.copy(), "distance": distance, "success": distance < 0.2}


class Exact(torch.nn.Module):
    """The true dynamics, as a predictor of `repeat` moves in a row for each action, which comes in deviations."""

    def __init__(self, repeat=1):
        super().__init__()
        self.repeat = repeat
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def begin(self, embeddings, actions, lengths=None):
        return embeddings[:, -1]

    def advance(self, state, action, condition=None):
        for _ in range(self.repeat):
            state = moved(state, (0.2 * action).clamp(-LIMIT, LIMIT))
        return state

    def embedding(self, state):
        return state


class Identity(torch.nn.Module):
    def forward(self, inputs):
        return Tokens(inputs, torch.zeros(*inputs.shape[:2], 1))


INPUTS = TrajectoryInputs(
    shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), action_mean=(0.0,) * 2, action_std=(0.2,) * 2, history=1, horizon=1
)


def level(repeat=1):
    return Dynamics(Identity(), Exact(repeat), Energy(name="l2"), history=1).eval()


def planner(seed=0):
    return make_planner("icem", population=128, elites=12, iterations=5, std=1.0, seed=seed)


def hierarchical(kind=HierarchicalPolicy, **options):
    config = PlanningConfig(**{"horizon": 7, "replan": 1, "cost": "nearest", **options})
    return kind(level(STEPS), level(), INPUTS, planner(1), planner(), config, macro=2, steps=STEPS)


def reached(policy, episodes=4, together=4):
    return sum(outcome.success for outcome in run_episodes(Wall, policy, episodes, together=together))


def test_a_short_horizon_stays_at_the_wall_and_subgoals_lead_round_it():
    flat = PlanningPolicy(level(), INPUTS, planner(), PlanningConfig(horizon=STEPS, replan=1, cost="nearest"))
    assert reached(flat) == 0
    assert reached(hierarchical()) == 4


def test_subgoals_of_several_upper_steps_are_followed_in_turn():
    policy, far = hierarchical(replan=3), []
    look_far = policy._look_far

    def noting(infos):
        far.append(policy.perception.clock)
        return look_far(infos)

    policy._look_far = noting
    assert reached(policy, 4) == 4
    assert far == list(range(0, LONGEST, 3 * STEPS))
    assert len(policy.seconds) == LONGEST  # below, a plan for every step


@pytest.mark.parametrize("subgoals", ["goal", "random"])
def test_without_what_the_upper_level_imagines_the_wall_is_not_passed(subgoals):
    class Other(HierarchicalPolicy):
        def subgoals(self, here, path, final):
            given = super().subgoals(here, path, final)
            drawn = torch.rand(given.shape, generator=torch.Generator().manual_seed(self.perception.clock)) * 2 - 1
            return final[:, None].expand_as(given) if subgoals == "goal" else drawn

    assert reached(hierarchical(Other)) == 0


def test_from_the_planned_state_nearest_to_the_goal_on_the_goal_is_asked_for():
    policy = hierarchical(replan=3)
    policy.begin([Wall()] * 3, [0, 1, 2])
    final = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.1, 0.0]])
    here, path = torch.zeros(3, 2), torch.zeros(3, 4, 2)
    path[:, :, 0] = torch.tensor([[1.0, 2.0, 2.9, 5.0], [0.5, 1.0, 1.5, 2.0], [1.0, 2.0, 3.0, 4.0]])
    found = policy.subgoals(here, path, final)[:, :, 0]
    assert found.tolist() == [[1.0, 2.0, 3.0], [0.5, 1.0, 1.5], pytest.approx([0.1] * 3)]
    short = policy.subgoals(here, path[:, :2], final)[:, :, 0]  # the end of the episode is nearer than the next plan
    assert short[0].tolist() == [1.0, 3.0, 3.0]


def test_an_episode_is_the_same_whoever_runs_beside_it():
    alone, beside = (run_episodes(Wall, hierarchical(), 3, together=together) for together in (1, 3))
    assert [one.reward for one in alone] == pytest.approx([one.reward for one in beside], abs=1e-3)


def test_plans_keep_to_the_deviations_asked_for_on_both_levels():
    seen = []

    def noting(problem, warm=None, step=0):
        seen.append((problem.horizon, problem.space.high.tolist()))
        return planner()(problem, warm, step=step)

    policy = hierarchical(deviations=2.0, horizon=4)
    policy.planner = policy.planner_above = noting
    run_episodes(Wall, policy, 1)
    assert seen[0] == (4, [2.0, 2.0])
    assert seen[1] == (STEPS, pytest.approx([0.4, 0.4]))


@pytest.mark.parametrize("options", [{"macro": 0, "steps": 2}, {"macro": 2, "steps": 0}])
def test_options_are_checked(options):
    with pytest.raises(UserError, match=r"macro|steps"):
        HierarchicalPolicy(level(), level(), INPUTS, planner(), planner(), **options)


def test_haste_prefers_the_sooner_of_two_ways_to_a_goal():
    """Closed form: the nearest of the squared distances, each with what the steps until then cost."""
    space = ActionSpace(torch.full((2,), -1.0), torch.full((2,), 1.0))
    start, goal = State(torch.tensor([[1.0, 0.0]])), torch.tensor([[3.0, 0.0]])
    problem = LatentProblem(level(), start, goal, space, 3, cost="nearest", haste=torch.tensor([0.5]))
    push = torch.tensor([[1.0, 0.0]]) / 0.2
    moves = torch.stack([push * torch.tensor(ways)[:, None] for ways in ([0.5, 0.5, 0.5], [0.0, 0.0, 0.5])])
    cost = problem.cost(moves[None])[0]
    assert cost.tolist() == pytest.approx([min(1.5**2 + 0.5, 1 + 1.0, 0.5**2 + 1.5), min(4 + 0.5, 1.5**2 + 1.5)])
    assert problem.only(0).cost(moves[None])[0].tolist() == pytest.approx(cost.tolist())
