import pickle

import numpy as np
import pytest
import torch

from jepakit.config import from_plain, to_plain
from jepakit.errors import UserError
from jepakit.modalities.modality import Data, Inputs, Samples
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.modalities.trajectories.inputs import TRAJECTORIES, TrajectoryInputs


def episode(number, steps=20, dim=2):
    """Steps that say which they are: observation (number, t), action 100 number + t."""
    t = np.arange(steps, dtype=np.float32)
    return {
        "observations": np.stack([np.full_like(t, number), t], axis=1)[:, :dim],
        "actions": 100.0 * number + t,
        "states": np.stack([t, -t], axis=1),
    }


def opened(episodes=10, steps=20, seed=0, **options):
    config = TrajectoryDataConfig(data="object", **options)
    return open_trajectories(config, seed, [episode(number, steps) for number in range(episodes)])


def test_a_window_is_what_was_seen_and_done():
    data = opened(history=3, horizon=2, frame_skip=2, label_column=1)
    for part in (data.train, data.test):
        for sample in (part[i] for i in range(0, len(part), 5)):
            number, t = sample["observations"][0].tolist()
            assert sample["observations"].tolist() == [[number, t + 2 * k] for k in range(5)]
            first = 100 * number + t
            assert sample["actions"].tolist() == [[first + 2 * k, first + 2 * k + 1] for k in range(4)]
            assert sample["state"].tolist() == [t + 8, -t - 8]
            assert sample["label"] == -t - 8
    assert [part.labels[3] for part in (data.train, data.test)] == [part[3]["label"] for part in (data.train, data.test)]


def test_every_window_of_every_episode_once_and_episodes_on_one_side():
    data = opened(history=3, horizon=1)
    assert len(data.train) + len(data.test) == 10 * 17
    found = {}
    for name, part in (("train", data.train), ("test", data.test)):
        found[name] = {(int(part[i]["observations"][0, 0]), int(part[i]["observations"][0, 1])) for i in range(len(part))}
    numbers = {name: {number for number, _ in windows} for name, windows in found.items()}
    assert not numbers["train"] & numbers["test"]
    assert len(numbers["test"]) == 2
    assert found["train"] | found["test"] == {(number, t) for number in range(10) for t in range(17)}
    ids = [part[i]["id"] for part in (data.train, data.test) for i in range(len(part))]
    assert sorted(ids) == list(range(170))
    assert list(data.train.ids) == [data.train[i]["id"] for i in range(len(data.train))]


def test_the_split_depends_on_the_data_alone_and_the_limit_on_the_seed():
    one, other, limited = opened(), opened(seed=1), opened(limit=7)
    assert list(one.test.ids) == list(other.test.ids) == list(limited.test.ids)
    assert one.fingerprint == other.fingerprint
    assert len(limited.train) == 7
    assert list(limited.train.ids) != list(opened(limit=7, seed=1).train.ids)
    assert len({one.fingerprint, limited.fingerprint, opened(history=2).fingerprint, opened(steps=21).fingerprint}) == 4


def test_subsets_and_pickling_keep_samples():
    data = opened()
    part = pickle.loads(pickle.dumps(data.train.subset([5, 2])))
    assert len(part) == 2
    for i, j in enumerate((5, 2)):
        for name, value in data.train[j].items():
            np.testing.assert_array_equal(part[i][name], value)
    assert list(part.labels) == [data.train.labels[5], data.train.labels[2]]


def test_the_contract_of_a_modality():
    data = opened()
    assert isinstance(data, Data)
    assert isinstance(data.train, Samples)
    assert issubclass(TRAJECTORIES.Inputs, Inputs)
    assert (data.task, data.noun, data.companions, data.config.frame_skip) == ("regression", "windows", {}, 1)
    inputs = TrajectoryInputs.of(data)
    assert from_plain(TrajectoryInputs, to_plain(inputs), "inputs") == inputs
    assert inputs.describe() == "3 + 1 observations of 2 numbers"


def test_inputs_normalise_by_the_training_episodes():
    data = opened(frame_skip=2)
    inputs = TrajectoryInputs.of(data)
    samples = [data.train[i] for i in range(len(data.train))]
    batch = inputs.windows(samples)
    steps = {tuple(o.tolist()) for sample in samples for o in sample["observations"]}
    every = inputs.normalise(torch.tensor(sorted(steps)))
    assert every.mean(0).abs().max() < 0.05
    assert (every.std(0) - 1).abs().max() < 0.1
    assert batch["inputs"].shape == (len(samples), 4, 2)
    assert batch["actions"].shape == (len(samples), 3, 4 // 2)
    assert inputs.action == 2
    torch.testing.assert_close(inputs.prepare(samples), batch["inputs"][:, -1:])
    torch.testing.assert_close(inputs.plain(samples), batch["inputs"][:, -1])
    constant = [{**episode(n), "observations": np.ones((20, 2))} for n in range(4)]
    still = open_trajectories(TrajectoryDataConfig(data="object"), 0, constant)
    assert torch.isfinite(TrajectoryInputs.of(still).prepare([still.train[0]])).all()


def test_what_never_changes_in_pictures_does_not_count_as_deviation():
    """A bright frame around what moves would make that fainter than the same in a channel without a frame."""
    seen = np.zeros((4, 20, 2, 8, 8), dtype=np.uint8)
    seen[:, :, :, 3, 4] = np.random.default_rng(0).integers(0, 256, (4, 20, 1))
    seen[:, :, 1, 0] = 255
    inputs = TrajectoryInputs.of(
        open_trajectories(TrajectoryDataConfig(data="object"), 0, [{**episode(n), "observations": seen[n]} for n in range(4)])
    )
    assert inputs.std[0] == pytest.approx(inputs.std[1])
    assert inputs.std[0] == pytest.approx(np.sqrt((seen[:, :, 0] / 255).var((0, 1)).mean()), rel=0.2)


def test_pictures():
    """uint8 and floats in [0, 1] give the same input, whichever axis the channels stand on."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 6, 5, 3), dtype=np.uint8)
    prepared = []
    for pictures in (pixels, pixels.transpose(0, 1, 4, 2, 3), pixels / 255.0):
        data = open_trajectories(
            TrajectoryDataConfig(data="object"), 0, [{**episode(n), "observations": p} for n, p in enumerate(pictures)]
        )
        inputs = TrajectoryInputs.of(data)
        assert (inputs.shape, len(inputs.mean)) == ((3, 6, 5), 3)
        prepared.append(inputs.windows([data.train[0], data.train[9]])["inputs"])
    assert prepared[0].shape == (2, 4, 3, 6, 5)
    for other in prepared[1:]:
        torch.testing.assert_close(other, prepared[0])
    with pytest.raises(UserError, match="means and"):
        TrajectoryInputs(
            shape=(3, 6, 5), mean=(0.5,), std=(1.0,), action_mean=(0.0,), action_std=(1.0,), history=1, horizon=1
        )


def test_short_episodes_are_named_and_unused():
    config = TrajectoryDataConfig(data="object", test_fraction=0)
    data = open_trajectories(config, 0, [episode(0, 20), episode(1, 3), episode(2, 4)])
    assert len(data.train) == 17 + 0 + 1
    assert data.notes == ["1 of 3 episodes are shorter than a window of 4 steps and unused."]
    assert len(data.test) == 0


@pytest.mark.parametrize(
    ("options", "episodes", "message"),
    [
        ({}, 1, "single episode"),
        ({"history": 30}, 10, "window takes 31 steps"),
        ({"label_column": 2}, 10, "label_column must be at least 0 and at most 1"),
    ],
)
def test_data_that_does_not_fit(options, episodes, message):
    with pytest.raises(UserError, match=message):
        opened(episodes, **options)


@pytest.mark.parametrize("option", ["history", "horizon", "frame_skip", "limit"])
def test_mistakes_in_the_config(option):
    with pytest.raises(UserError, match=f"{option} must be at least 1"):
        TrajectoryDataConfig(data="pendulum", **{option: 0})
