"""Behaviour cloning learns to go where it is told, from moves that were recorded without a goal."""

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from gymnasium import spaces

from jepakit.errors import UserError
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.worlds.acting import RandomPolicy, run_episodes
from jepakit.worlds.behaviour_cloning import BehaviourCloningConfig, clone
from tests.worlds.test_acting import LIMIT, Plane


def data(pictures=False):
    """Points that keep to a random direction for some steps: what was done tells where they came."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(60):
        actions = np.repeat(rng.uniform(-LIMIT, LIMIT, (4, 2)), 6, axis=0).astype(np.float32)
        places = np.concatenate([rng.uniform(-1, 1, (1, 2)), actions[:-1]]).cumsum(0).astype(np.float32)
        seen = np.tile(np.clip(places[:, :1, None], 0, 1), (1, 4, 4)) if pictures else places
        episodes.append({"observations": seen, "actions": actions})
    return open_trajectories(TrajectoryDataConfig(data="object"), 0, source=episodes)


CONFIG = BehaviourCloningConfig(steps=900, hidden=(64, 64), reach=10)


def test_it_goes_to_goals_where_chance_does_not():
    opened = data()
    policy = clone(opened.train, TrajectoryInputs.of(opened), CONFIG)
    reached = np.mean([outcome.success for outcome in run_episodes(Plane, policy, 20)])
    assert reached > np.mean([outcome.success for outcome in run_episodes(Plane, RandomPolicy(), 20)]) + 0.2


def test_it_is_a_function_of_the_seed_and_keeps_to_the_bounds():
    opened = data()
    inputs = TrajectoryInputs.of(opened)
    quick = BehaviourCloningConfig(steps=5, hidden=(8,))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, second, other = (clone(opened.train, inputs, quick, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    infos = [{"goal": np.full(2, 100, dtype=np.float32)}]
    seen = []
    for policy in (first, second, other):
        policy.begin([Plane()], [0])
        seen.append(policy.act([np.zeros(2, dtype=np.float32)], infos))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()
    assert np.abs(seen[0]).max() <= LIMIT


def test_no_step_of_held_out_episodes_is_copied():
    opened = data()
    episodes = opened.train.episodes
    poisoned = np.unique(np.searchsorted(episodes.starts, opened.test.begins, side="right") - 1)
    for number in poisoned:
        episodes.actions[episodes.starts[number] : episodes.starts[number + 1]] = np.nan
    policy = clone(opened.train, TrajectoryInputs.of(opened), BehaviourCloningConfig(steps=5, hidden=(8,)))
    assert all(bool(parameter.isfinite().all()) for parameter in policy.network.parameters())


def test_pictures_are_seen_too():
    opened = data(pictures=True)
    policy = clone(opened.train, TrajectoryInputs.of(opened), BehaviourCloningConfig(steps=3, hidden=(8,)))
    policy.begin([Plane()], [0])
    picture = np.zeros((1, 4, 4), dtype=np.float32)
    assert policy.act([picture], [{"goal": picture}]).shape == (1, 2)


def test_what_does_not_fit_is_named():
    opened = data()
    policy = clone(opened.train, TrajectoryInputs.of(opened), BehaviourCloningConfig(steps=1, hidden=(4,)))
    with pytest.raises(UserError, match="goal"):
        policy.act([np.zeros(2, dtype=np.float32)], [{}])

    class Chosen(Plane):
        action_space = spaces.Discrete(3)

    with pytest.raises(UserError, match=r"2 numbers.*Discrete"):
        policy.begin([Chosen()], [0])
    with pytest.raises(UserError, match="steps"):
        BehaviourCloningConfig(steps=0)
    with pytest.raises(UserError, match="hidden"):
        BehaviourCloningConfig(hidden=(0,))
