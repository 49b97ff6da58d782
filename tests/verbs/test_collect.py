"""`collect`: every frame once, episodes that depend on (seed, number) alone, and a killed collection that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jepakit
from jepakit.errors import UserError
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.modalities.trajectories.episode_store import EpisodeStore
from jepakit.modalities.trajectories.episode_writer import EpisodeWriter
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.verbs.collect import collect

gymnasium = pytest.importorskip("gymnasium")

COUNTING = '''
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Counting(gymnasium.Env):
    """Observes (number drawn at the reset, steps since), always in the same array; ends after 1 to 9 steps."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Discrete(3, start=5)
    pause = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = np.zeros(2)
        self.seen[0] = self.np_random.uniform()
        self.length = int(self.np_random.integers(1, 10))
        return self.seen, {"state": self.seen}

    def step(self, action):
        time.sleep(self.pause)
        assert self.seen[1] < self.length, "a step after the end"
        self.seen[1] += 1
        ended, odd = bool(self.seen[1] == self.length), bool(self.length % 2)
        return self.seen, float(action), ended and odd, ended and not odd, {"state": self.seen}

    def heuristic_action(self, rng):
        return 5 + int(self.seen[1]) % 3


class Slow(Counting):
    pause = 0.002


gymnasium.register("Counting-v0", Counting, max_episode_steps=50)
gymnasium.register("Slow-v0", Slow, max_episode_steps=50)
'''


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """A folder with a module `counting` that registers the environments."""
    (tmp_path / "counting.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("counting", None)
    yield tmp_path
    for name in ("Counting-v0", "Slow-v0"):
        gymnasium.registry.pop(name, None)


def same(one: EpisodeStore, other: EpisodeStore) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert set(left) == set(right)
        for name, array in left.items():
            np.testing.assert_array_equal(array, right[name])


def test_no_frame_is_lost_or_mixed(counting):
    store = EpisodeStore.open(collect(env="counting:Counting-v0", policy="heuristic", episodes=20, out=counting / "a"))
    assert len(set(store.lengths.tolist())) > 3
    for episode in store:
        steps = len(episode["observations"])
        t = np.arange(steps)
        assert len(set(episode["observations"][:, 0])) == 1
        assert episode["observations"][:, 1].tolist() == t.tolist() == episode["states"][:, 1].tolist()
        action = np.where(t < steps - 1, t % 3, -1)
        assert episode["actions"].tolist() == (action[:, None] == np.arange(3)).astype(int).tolist()
        assert episode["rewards"].tolist() == np.where(t < steps - 1, 5 + t % 3, 0).tolist()
        terminated = np.where(t == steps - 2, (steps - 1) % 2, 0).astype(bool)
        assert episode["terminated"].tolist() == terminated.tolist()
        assert episode["truncated"].tolist() == ((t == steps - 2) & ~terminated).tolist()
    assert len({episode["observations"][0, 0] for episode in store}) == 20
    assert {name: step.dtype.str for name, step in store.arrays.items()} == {
        "observations": "<f8", "actions": "|u1", "rewards": "<f8", "terminated": "|b1", "truncated": "|b1", "states": "<f8",
    }  # fmt: skip


@pytest.mark.parametrize("policy", ["random", "heuristic"])
def test_an_episode_depends_on_seed_and_number_alone(counting, policy):
    made = {"env": "counting:Counting-v0", "policy": policy}
    one = EpisodeStore.open(collect(**made, episodes=12, out=counting / "one"))
    many = EpisodeStore.open(collect(**made, episodes=12, out=counting / "many", environments=5))
    collect(**made, episodes=5, out=counting / "twice", environments=3)
    twice = EpisodeStore.open(collect(**made, episodes=12, out=counting / "twice"))
    same(one, many)
    same(one, twice)
    again = EpisodeStore.open(collect(**made, episodes=7, out=counting / "twice"))  # more are there already
    assert len(again) == 12
    other = EpisodeStore.open(collect(**made, episodes=12, out=counting / "other", seed=1))
    assert one[0]["observations"][0, 0] != other[0]["observations"][0, 0]


def test_the_variables_of_a_state_keep_their_names(counting):
    path = collect(env="pendulum", episodes=2, out=counting / "pendulum", steps=20)
    data = open_trajectories(TrajectoryDataConfig(data=str(path), history=1, horizon=1), 0)
    assert data.test.state_names == ["cos angle", "sin angle", "velocity"]
    unnamed = collect(env="counting:Counting-v0", episodes=2, out=counting / "unnamed")
    assert "state_names" not in EpisodeStore.open(unnamed).about
    collect(env="pendulum", episodes=3, out=path, steps=20)
    assert len(EpisodeStore.open(path)) == 3


def test_what_is_collected_is_trained_from(tmp_path):
    """The frames are those of the environment, stepped by hand with the stored actions."""
    path = collect(env="Pendulum-v1", episodes=6, out=tmp_path / "pendulum", steps=20, environments=2)
    store, env = EpisodeStore.open(path), gymnasium.make("Pendulum-v1").unwrapped
    assert store.lengths.tolist() == [21] * 6
    assert store[0]["truncated"].nonzero()[0].tolist() == [19]
    actions = store.array("actions").reshape(6, 21)
    assert actions[:, :-1].std() > 0.9
    assert (actions[:, -1] == 0).all()
    for episode in store:
        env.reset(seed=0)
        cos, sin, velocity = episode["observations"][0].astype(float)
        env.state = np.array([np.arctan2(sin, cos), velocity])
        for t in range(20):
            observation, reward, *_ = env.step(episode["actions"][t])
            np.testing.assert_allclose(observation, episode["observations"][t + 1], atol=1e-4)
            np.testing.assert_allclose(reward, episode["rewards"][t], atol=1e-4)
    data = open_trajectories(TrajectoryDataConfig(data=str(path), frame_skip=4), 0)
    assert TrajectoryInputs.of(data).action == 4
    assert len(data.train) == 5 * 9


def test_mistakes(tmp_path, counting):
    def told(message, **options):
        given = {"env": "Pendulum-v1", "episodes": 1, "out": tmp_path / "out", **options}
        with pytest.raises(UserError, match=message):
            collect(**given)

    told("episodes must be at least 1", episodes=0)
    told("environments must be at least 1", environments=0)
    told("steps must be at least 1", steps=0)
    told("'Pendulum-v11' cannot be made", env="Pendulum-v11")
    told("'nowhere:Pendulum-v1' cannot be made", env="nowhere:Pendulum-v1")
    told("'randon' is not known. Valid: random, heuristic, or the folder of a run", policy="randon")
    told("config.yaml does not exist", policy=str(tmp_path))
    told("Pendulum-v1 has no heuristic of its own", policy="heuristic")

    class Dicts(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(a=gymnasium.spaces.Box(0, 1))
        action_space = gymnasium.spaces.Discrete(2)

    told("FlattenObservation", env=Dicts, steps=3)
    Dicts.observation_space = gymnasium.spaces.Box(0, 1, (2,))
    told("Dicts has no limit of steps of its own. Give one with --steps", env=Dicts)
    Dicts.action_space = gymnasium.spaces.MultiBinary(2)
    told("those of a Box or a Discrete space", env=Dicts, steps=3)
    Dicts.action_space, Dicts.heuristic_action = gymnasium.spaces.Discrete(2), lambda self, rng: 2
    Dicts.reset = lambda self, seed=None, options=None: (np.zeros(3), {})
    told(r"observations of shape \[3\], its space says \[2\]", env=Dicts, steps=3)
    Dicts.reset = lambda self, seed=None, options=None: (np.zeros(2), {})
    told("outside its space", env=Dicts, steps=3, policy="heuristic")
    Dicts.step = lambda self, action: (np.full(2, np.nan), 0.0, False, False, {})
    told("Dicts gave an observation with NaN or infinite numbers", env=Dicts, steps=3)
    collect(env="Pendulum-v1", episodes=1, steps=3, out=tmp_path / "out")
    told("was collected with steps 3", steps=4)
    told("was collected with steps 3", seed=0)
    told("was collected with environment 'Pendulum-v1', seed 0", env="counting:Counting-v0", steps=3, seed=5)


def test_a_killed_collection_loses_no_finished_episode(counting):
    command = ["collect", "--env", "counting:Slow-v0", "--episodes", "120", "--out", "out", "--environments", "3"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(counting), *sys.path]), "OMP_NUM_THREADS": "1"}
    index = counting / "out" / "episodes.index"

    def rows() -> int:
        return index.stat().st_size if index.exists() else 0

    for _ in range(2):
        before = rows()
        killed = subprocess.Popen(
            [sys.executable, "-m", "jepakit", *command], cwd=counting, env=environment, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while rows() < before + 500 and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.003)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        reached = EpisodeStore.open(counting / "out")
        reached.verify()
        assert before < rows()
        assert len(reached) < 120
    done = subprocess.run(
        [sys.executable, "-m", "jepakit", *command], cwd=counting, env=environment, capture_output=True, text=True, check=True
    )
    assert f"{120 - len(reached)} of them new" in done.stderr
    assert done.stdout.strip() == str(Path("out"))
    whole = EpisodeStore.open(jepakit.collect(env="counting:Slow-v0", episodes=120, out=counting / "whole"))
    same(EpisodeStore.open(counting / "out"), whole)


@pytest.mark.slow
def test_training_from_a_store_is_training_from_arrays(tmp_path):
    """The same metrics, with and without a worker, whatever type of number the store holds."""
    collected = EpisodeStore.open(collect(env="Pendulum-v1", episodes=12, out=tmp_path / "store", steps=60))
    keys = ("observations", "actions")
    with EpisodeWriter(tmp_path / "double") as writer:
        writer.extend({key: episode[key].astype(np.float64) for key in keys} for episode in collected)
    arrays = {key: collected.array(key) for key in keys}
    np.savez(tmp_path / "arrays.npz", **arrays, episode=np.repeat(np.arange(12), collected.lengths))
    lines = {}
    for name, workers in (("arrays.npz", 0), ("store", 1), ("double", 0)):
        run = tmp_path / "runs" / name
        jepakit.pretrain("lewm", data=tmp_path / name, out=run, steps=4, batch_size=32, threads=1, workers=workers)
        read = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
        lines[name] = [{key: value for key, value in line.items() if not key.startswith("time/")} for line in read]
    assert lines["arrays.npz"] == lines["store"] == lines["double"]


def test_two_rooms_from_collecting_to_pictures(tmp_path):
    collect(env="two-rooms", episodes=2, out=tmp_path / "rooms", policy="heuristic", steps=6)
    store = EpisodeStore.open(tmp_path / "rooms")
    assert store.lengths.tolist() == [7, 7]
    assert store[0]["observations"].shape == (7, 2, 65, 65)
    assert store[0]["states"].shape == (7, 4)
    jepakit.inspect(tmp_path / "rooms", picture=tmp_path / "rooms.png")
    assert (tmp_path / "rooms.png").stat().st_size > 1000


def test_a_run_collects_by_planning_whatever_the_number_of_environments(tmp_path):
    run = tmp_path / "run"
    jepakit.pretrain(
        "pldm", data="two-rooms", out=run, steps=1, batch_size=4, limit=16, widths=(2,), embedding=8, test_fraction=0.0
    )
    made = {"env": "two-rooms", "policy": str(run), "episodes": 2, "steps": 4}
    one, two = (collect(**made, out=tmp_path / str(count), environments=count) for count in (1, 2))
    first, second = (EpisodeStore.open(folder) for folder in (one, two))
    np.testing.assert_allclose(first.array("actions"), second.array("actions"), atol=1e-5)
    assert np.abs(first.array("actions")).max() > 0
    random = EpisodeStore.open(collect(**{**made, "policy": "random"}, out=tmp_path / "random"))
    assert (random.array("actions") != first.array("actions")).any()
