import pickle

import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.modalities.images.arrays import digits
from jepakit.modalities.modality import Data, Samples
from jepakit.modalities.video.bouncing_digits import BouncingDigits
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from tests.modalities.photographs import make_photographs


def opened(data="bouncing-digits", source=None, seed=0, **options):
    return open_videos(VideoDataConfig(data=data, **options), seed, source)


CLIPS = np.random.default_rng(0).integers(0, 256, (40, 6, 10, 12), dtype=np.uint8)
LABELS = np.arange(40) % 4


def test_what_the_verbs_need():
    data = opened()
    assert isinstance(data, Data)
    for part in (data.train, data.test, data.companions["image"].dataset):
        assert isinstance(part, Samples)
        copy = pickle.loads(pickle.dumps(part.subset([3, 1])))
        assert [copy[0]["id"], copy[1]["id"]] == [part[3]["id"], part[1]["id"]]
        assert torch.equal(copy[1]["clip"], part[1]["clip"])
    assert (len(data.train), len(data.test)) == (4000, 1000)
    assert (data.config.frames, data.config.image_size) == (8, (32, 32))
    assert (data.task, len(data.classes)) == ("classification", 10)
    assert VIDEO.inputs(data).stills


def test_bouncing_digits_labels():
    clips = BouncingDigits()
    facts = clips.facts(np.arange(5000))
    for labels, expected in (("digit", facts.digit), ("direction", facts.direction)):
        data = opened(labels=labels)
        np.testing.assert_array_equal(data.test.labels, expected[4000:])
        assert data.train[7]["label"] == expected[7]
        assert np.array_equal(data.train[7]["clip"], clips.read(7))
    for labels, expected in (("velocity", facts.velocity), ("position", facts.position[:, -1]), ("future", facts.future)):
        data = opened(labels=labels)
        assert (data.task, data.classes, data.test.labels.dtype) == ("regression", None, np.float64)
        np.testing.assert_array_equal(data.test.labels, expected[4000:])
    assert opened(labels="none").task is None
    with pytest.raises(UserError, match="Did you mean 'direction'"):
        opened(labels="directions")


def test_stills_are_the_frames_of_training_clips():
    data = opened(limit=20)
    stills = data.companions["image"].dataset
    assert len(stills) == 20 * 8
    for index in (0, 13, 159):
        clip = data.train[index // 8]["clip"]
        assert torch.equal(stills[index]["clip"], clip[index % 8 : index % 8 + 1])
    assert len({stills[i]["id"] for i in range(160)}) == 160
    assert set(np.asarray(stills.ids) // 8) == set(data.train.ids)
    assert opened(stills="none").companions == {}


def test_stills_from_a_file(tmp_path):
    np.save(tmp_path / "stills.npy", CLIPS[:, 0])
    data = opened("object", (CLIPS, LABELS), stills=str(tmp_path / "stills.npy"), stills_ratio=2.5)
    companion = data.companions["image"]
    assert (len(companion.dataset), companion.ratio) == (40, 2.5)
    assert torch.equal(companion.dataset[3]["clip"][0, 0], torch.from_numpy(CLIPS[3, 0]))
    np.save(tmp_path / "colour.npy", np.zeros((4, 10, 12, 3), np.uint8))
    with pytest.raises(UserError, match="3 channels, the clips 1"):
        opened("object", CLIPS, stills=str(tmp_path / "colour.npy"))


def test_the_split_is_by_class_and_not_by_seed():
    first, other = opened("object", (CLIPS, LABELS)), opened("object", (CLIPS, LABELS), seed=5)
    np.testing.assert_array_equal(first.test.ids, other.test.ids)
    assert np.bincount(first.test.labels).tolist() == [2, 2, 2, 2]
    assert not set(first.train.ids) & set(first.test.ids)
    few = opened("object", (CLIPS, LABELS), limit=10)
    assert len(few.train) == 10
    assert len({d.fingerprint for d in (first, few, opened("object", (CLIPS[::-1], LABELS)))}) == 3
    assert first.fingerprint == other.fingerprint


def test_fewer_frames_are_spread_over_the_clip():
    data = opened("object", CLIPS, frames=3)
    assert data.train.frames.tolist() == [0, 2, 5]
    number = data.train[0]["id"]
    assert torch.equal(data.train[0]["clip"][:, 0], torch.from_numpy(CLIPS[number][[0, 2, 5]]))
    with pytest.raises(UserError, match="have only 6"):
        opened("object", CLIPS, frames=7)


def test_prepared_clips_are_normalised_and_of_one_size():
    data = opened("object", CLIPS)
    inputs = VideoInputs.of(data)
    samples = [data.train[i] for i in range(len(data.train))]
    prepared = inputs.prepare(samples)
    assert prepared.shape == (len(samples), 1, 6, 10, 12)
    torch.testing.assert_close(prepared.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(prepared.std(), torch.tensor(1.0), atol=1e-4, rtol=0)
    pixels = (samples[4]["clip"].float() / 255 - inputs.mean[0]) / inputs.std[0]
    torch.testing.assert_close(prepared[4].transpose(0, 1), pixels)
    assert inputs.plain(samples).shape == (len(samples), 6 * 10 * 12)
    still = data.companions["image"].dataset[2]
    torch.testing.assert_close(inputs.prepare([still])[0, :, 0], prepared[0, :, 2])
    small = VideoInputs.of(opened("object", CLIPS, image_size=(5, 6)))
    halved = small.prepare(samples)
    assert halved.shape == (len(samples), 1, 6, 5, 6)
    means = torch.nn.functional.avg_pool2d(pixels, 2)  # halving is averaging
    torch.testing.assert_close(halved[4, 0], means[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "frames must be at least 2"),
        ({"stills_ratio": 0.0}, "--stills none"),
        ({"image_size": (0, 32)}, "two positive numbers"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"limit": 0}, "limit"),
        ({"stills": "film"}, "or frames or none"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        opened(**options)


def test_moving_photographs_and_their_labels():
    data = opened("moving-photographs", stills="none")
    assert (len(data.train), len(data.test), data.channels, data.task) == (4000, 1000, 3, None)
    assert data.train[0]["clip"].shape == (2, 3, 64, 64)
    data = opened("moving-photographs", labels="motion", frames=3, image_size=(32, 32))
    facts = data.train.clips.facts(np.asarray([7]))
    assert data.task == "regression"
    np.testing.assert_allclose(data.train[7]["label"], [*facts.shift[0], facts.turn[0]])
    with pytest.raises(UserError, match="labels"):
        opened("moving-photographs", labels="digit")


def test_stills_from_pictures(tmp_path):
    """Of a built-in set its training part alone, of a folder all; in the clips' number of channels."""
    data = opened("moving-photographs", stills="digits", stills_ratio=3.0)
    stills = data.companions["image"]
    assert (len(stills.dataset), stills.ratio) == (1200, 3.0)
    assert stills.dataset[0]["clip"].shape == (1, 3, 8, 8)
    assert not set(stills.dataset.ids) & set(np.flatnonzero(digits()[1]))
    make_photographs(tmp_path)
    for source, channels in (("moving-photographs", 3), ("bouncing-digits", 1)):
        opened_beside = opened(source, stills=str(tmp_path), on_bad_file="skip", image_size=(32, 32))
        pictures = opened_beside.companions["image"].dataset
        samples = [pictures[i] for i in range(len(pictures))]
        assert {sample["clip"].shape[1] for sample in samples} == {channels}
        assert VideoInputs.of(opened_beside).prepare(samples).shape == (len(samples), channels, 1, 32, 32)
    with pytest.raises(UserError, match="stills: "):
        opened(stills=str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="stills: "):
        opened(stills=str(tmp_path / "empty"))
