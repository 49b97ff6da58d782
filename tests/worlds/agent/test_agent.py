"""The agent in a world whose model is exact: it reaches, avoids, rests, remembers, and changes its task."""

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
from jepakit.errors import UserError
from jepakit.worlds.acting import PlanningPolicy, run_episodes
from jepakit.worlds.agent.actor import distil
from jepakit.worlds.agent.intrinsic_cost import CostConfig
from jepakit.worlds.agent.network import NetworkConfig
from jepakit.worlds.goals import InSequence
from tests.worlds.agent.exact_worlds import Plane, agent, task

GOAL = CostConfig(kind="goal")
WALL = {"kind": "zone", "name": "wet", "where": {"x": [-0.3, 0.3], "y": [-1.0, 1.0]}}
SMALL = {"kind": "zone", "name": "wet", "where": {"x": [-0.2, 0.2], "y": [-0.4, 0.4]}}


def places(outcome):
    return np.stack(outcome.states)


def inside(states, zone):
    (left, right), (low, high) = zone["where"].values()
    return ((states[:, 0] > left) & (states[:, 0] < right) & (states[:, 1] > low) & (states[:, 1] < high)).any()


@pytest.mark.parametrize("skip", [1, 2])
def test_it_reaches_the_goal(skip):
    made = agent(skip, plan={"horizon": 8 // skip})
    outcomes = run_episodes(Plane, made, 5, together=3)
    assert all(outcome.success for outcome in outcomes)
    assert made.incidents == []
    assert len(made.seconds) == 2 * 14 // skip


def test_one_environment_is_acted_in_observation_by_observation():
    made, world = agent(), Plane()
    observation, info = world.reset(seed=3)
    made.begin([world], [3])
    for _ in range(14):
        observation, _, _, _, info = world.step(made.act(observation, info))
    assert info["success"]


def test_a_soft_zone_costs_and_a_hard_one_is_never_entered():
    straight = run_episodes(Plane, agent(costs=(GOAL,)), 20)
    assert sum(inside(places(outcome), SMALL) for outcome in straight) > 10
    made = agent(costs=(GOAL, CostConfig(**SMALL, weight=0.0, hard=True)), plan={"horizon": 12})
    around = run_episodes(lambda: Plane(24), made, 20)
    assert not any(inside(places(outcome), SMALL) for outcome in around)
    assert sum(outcome.success for outcome in around) >= 15


@pytest.mark.slow
def test_a_hard_limit_is_not_broken_in_a_thousand_episodes():
    made = agent(costs=(GOAL, CostConfig(**SMALL, weight=1.0, hard=True)))
    outcomes = run_episodes(Plane, made, 1000, together=250)
    assert not any(inside(places(outcome), SMALL) for outcome in outcomes)


def test_where_nothing_is_allowed_it_rests_and_says_why():
    everywhere = CostConfig(kind="zone", where={"x": [-9.0, 9.0]}, hard=True)
    made = agent(costs=(GOAL, everywhere))
    outcomes = run_episodes(Plane, made, 2)
    for outcome in outcomes:
        np.testing.assert_array_equal(places(outcome), np.broadcast_to(places(outcome)[0], (15, 2)))
    assert len(made.incidents) == 2 * 14
    assert {incident.reason for incident in made.incidents} == {"every plan breaks a hard limit"}
    assert made.incidents[0].seed == outcomes[0].seed


def test_the_fallback_action_can_be_chosen():
    everywhere = CostConfig(kind="zone", where={"x": [-9.0, 9.0]}, hard=True)
    outcome = run_episodes(Plane, agent(costs=(GOAL, everywhere), fallback=(0.0, 0.1)), 1)[0]
    np.testing.assert_allclose(np.diff(places(outcome), axis=0), np.tile([0.0, 0.1], (14, 1)), atol=1e-6)
    with pytest.raises(UserError, match=r"fallback.*2"):
        run_episodes(Plane, agent(fallback=(0.0, 0.1, 0.2)), 1)


def test_predictions_that_are_no_numbers_end_in_the_fallback_of_that_environment_alone():
    made = agent()
    exact = made.model.predictor.advance

    def broken(state, action, condition=None):
        found = exact(state, action, condition)
        return torch.where(state[:, 1:] > 0, found / 0 * 0, found)

    made.model.predictor.advance = broken
    outcomes = run_episodes(Plane, made, 8)
    resting = [bool((places(outcome) == places(outcome)[0]).all()) for outcome in outcomes]
    assert 0 < sum(resting) < 8
    lost = {incident.seed for incident in made.incidents}
    assert {outcome.seed for outcome, rests in zip(outcomes, resting, strict=True) if rests} <= lost
    assert {incident.reason for incident in made.incidents} == {"the world model's predictions are not numbers"}


def test_the_budget_of_steps():
    made = agent(budget=3)
    outcome = run_episodes(Plane, made, 1)[0]
    moved = np.abs(np.diff(places(outcome), axis=0)).sum(1) > 1e-6
    np.testing.assert_array_equal(moved, [True] * 3 + [False] * 11)
    assert [(incident.step, incident.reason) for incident in made.incidents] == [(3, "the budget of 3 steps is used up")]
    assert len(made.seconds) == 3


class Fragile(Plane):
    """Breaks down at once where it starts above the middle."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.start = self.place[1]
        return observation, info

    def step(self, action):
        if self.start > 0:
            raise RuntimeError("the simulator diverged")
        return super().step(action)


def test_an_environment_that_raises_fails_its_episode_and_no_other():
    outcomes = run_episodes(Fragile, agent(plan={"horizon": 2}), 12, together=4)
    broken = [outcome for outcome in outcomes if outcome.error]
    assert 0 < len(broken) < 12
    assert {outcome.error for outcome in broken} == {"RuntimeError: the simulator diverged"}
    assert not any(outcome.success for outcome in broken)


def test_if_every_episode_breaks_down_that_is_an_error():
    class Broken(Plane):
        def step(self, action):
            raise RuntimeError("no power")

    with pytest.raises(UserError, match="no power"):
        run_episodes(Broken, agent(), 3)


def test_what_was_met_and_what_was_imagined_are_remembered_apart():
    made = agent(skip=2, costs=(GOAL, CostConfig(kind="effort", weight=0.01)))
    outcome = run_episodes(Plane, made, 1)[0]
    met, imagined = made.memory.entries(), made.memory.entries(imagined=True)
    np.testing.assert_allclose(met.state.numpy(), places(outcome)[:-1:2], atol=1e-6)
    np.testing.assert_allclose(met.action.numpy(), np.diff(places(outcome), axis=0).reshape(7, 4), atol=1e-5)
    goal = met.goal[0]
    torch.testing.assert_close(met.cost, (met.state - goal).square().sum(1))
    assert met.time.tolist() == list(range(7))
    # The model is exact: what was imagined a step ahead is what was met then.
    np.testing.assert_allclose(imagined.state[:-1].numpy(), met.state[1:].numpy(), atol=1e-5)
    assert imagined.time.tolist() == list(range(1, 8))


def test_each_term_says_what_it_added():
    made = agent(costs=(GOAL, CostConfig(kind="effort", weight=0.5), CostConfig(**WALL, weight=2.0)))
    made.judged = set()
    run_episodes(Plane, made, 1)
    assert made.judgements == []
    seed = run_episodes(Plane, made, 1)[0].seed
    made.judged = {seed}
    run_episodes(Plane, made, 2)
    assert {judgement.seed for judgement in made.judgements} == {seed}
    assert [judgement.step for judgement in made.judgements] == list(range(14))
    assert set(made.judgements[0].parts) == {"goal", "effort", "wet"}
    assert made.judgements[0].parts["wet"] > 0  # the goal lies behind it
    assert made.judgements[-1].parts["goal"] < 0.05


def test_another_task_within_an_episode():
    made, world = agent(), Plane(40)
    observation, info = world.reset(seed=0)
    made.begin([world], [0])
    for _ in range(12):
        observation, _, _, _, info = world.step(made.act(observation, info))
    assert info["success"]
    made.configure(task(costs=(CostConfig(kind="place", where={"x": -1.0, "y": 0.5}),)))
    for _ in range(14):
        observation, _, _, _, info = world.step(made.act(observation, info))
    np.testing.assert_allclose(world.place, [-1.0, 0.5], atol=0.15)


def test_goals_in_sequence_are_reached_one_after_another():
    """By the agent as by a policy that plans."""
    def make():
        return InSequence(Plane(24), lambda env, rng: [np.array([-1.0, 1.5]), np.array([1.0, 1.5])], [8, 8])

    plain = agent()
    for policy in (agent(), PlanningPolicy(plain.model, plain.inputs, plain.planner, plain.config)):
        for one in run_episodes(make, policy, 3):
            assert one.success
            path = places(one)
            np.testing.assert_allclose(path[[8, 16]], [[-1, 1.5], [1, 1.5]], atol=0.2)


def test_what_is_not_attended_to_changes_nothing():
    plans = []
    for y in (0.0, 3.0):
        made, world = agent(attend=(0,)), Plane()
        world.reset(seed=0)
        made.begin([world], [0])
        plans.append(made.act(np.array([-1, y], np.float32), {"goal": np.array([1, y / 2], np.float32)}))
    np.testing.assert_array_equal(*plans)
    with pytest.raises(UserError, match=r"attend.*2 entries"):
        run_episodes(Plane, agent(attend=(2,)), 1)


def test_mode_1_does_what_mode_2_did_without_planning():
    planning = agent()
    run_episodes(Plane, planning, 60, together=60)
    taught = distil(planning.memory, NetworkConfig(hidden=(64,), steps=400))
    reacting = agent(mode=1, parts={"actor": taught})
    outcomes = run_episodes(Plane, reacting, 20, seed=5)
    assert sum(outcome.success for outcome in outcomes) >= 18
    with pytest.raises(UserError, match="--teach"):
        agent(mode=1)


def test_mode_1_keeps_to_hard_limits():
    planning = agent()
    run_episodes(Plane, planning, 40, together=40)
    taught = distil(planning.memory, NetworkConfig(hidden=(64,), steps=300))
    forbidden = agent(mode=1, parts={"actor": taught}, costs=(GOAL, CostConfig(**WALL, hard=True)))
    outcomes = run_episodes(Plane, forbidden, 10, seed=5)
    assert not any(inside(places(outcome), WALL) for outcome in outcomes)
    assert {incident.reason for incident in forbidden.incidents} == {"the reactive actor would break a hard limit"}
