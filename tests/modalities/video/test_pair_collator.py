import pickle

import pytest
import torch

from jepakit.modalities.images.views import ViewConfig
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.modalities.video.pair_collator import PairCollator
from jepakit.modalities.video.samples import pixels_of
from tests.modalities.videos import numbers, write_video

INPUTS = VideoInputs(frames=5, image_size=(16, 16), channels=1, mean=(0.4,), std=(0.3,))
STILLS = VideoInputs(frames=5, image_size=(16, 16), channels=1, mean=(0.4,), std=(0.3,), stills=True)


def samples(clips=range(3), stills=(), epoch=0, size=16):
    """Clips whose frames say their number; stills of `size` pixels."""
    numbered = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 16, 16) / 10
    found = [{"clip": numbered, "id": i, "epoch": epoch, "step": 4, "progress": 0.5} for i in clips]
    for i in stills:
        still = torch.rand(1, 1, size, size + i, generator=torch.Generator().manual_seed(i))
        found.append({"clip": still, "id": i, "epoch": epoch, "step": 4, "progress": 0.5, "stream": "image"})
    return found


def firsts(batch):
    """Which frame each pair begins with."""
    shown = INPUTS.unit(batch["frames"])[:, 0, :, 0, 0] * 10
    torch.testing.assert_close(shown[:, 1] - shown[:, 0], torch.ones(len(shown)))
    return shown[:, 0].round().long().tolist()


def test_pairs_are_neighbours_and_a_function_of_seed_epoch_and_id():
    collate = pickle.loads(pickle.dumps(PairCollator(INPUTS, ViewConfig(), 0)))
    batch = collate(samples(range(200)))
    assert batch["frames"].shape == (200, 1, 2, 16, 16)
    assert set(firsts(batch)) == {0, 1, 2, 3}
    assert firsts(collate(samples([7, 150]))) == [firsts(batch)[7], firsts(batch)[150]]
    assert firsts(collate(samples(range(200), epoch=1))) != firsts(batch)
    assert firsts(PairCollator(INPUTS, ViewConfig(), 1)(samples(range(200)))) != firsts(batch)
    assert {name: batch[name].ndim for name in ("id", "step", "progress")} == {"id": 1, "step": 0, "progress": 0}


@pytest.mark.parametrize("size", [16, 40])
def test_stills_of_any_size_become_views_in_a_stream_of_their_own(size):
    collate = PairCollator(STILLS, ViewConfig(kind="photo", views=3), 0, view_size=(8, 12))
    batch = collate(samples(stills=[1, 5], size=size))
    assert set(batch) == {"video", "image", "step", "progress"}
    assert batch["image"]["views"].shape == (2, 3, 1, 8, 12)
    assert batch["image"]["id"].tolist() == [1, 5]
    torch.testing.assert_close(batch["video"]["frames"], collate(samples(stills=[9]))["video"]["frames"])
    alone = collate(samples(stills=[5], size=size))["image"]["views"]
    torch.testing.assert_close(alone[0], batch["image"]["views"][1])
    assert not torch.equal(collate(samples(stills=[5], epoch=1, size=size))["image"]["views"], alone)


def test_a_process_may_have_no_sample_of_a_stream():
    batch = PairCollator(STILLS, ViewConfig(), 0)(samples())
    assert batch["image"]["views"].shape == (0, 2, 1, 16, 16)
    assert PairCollator(STILLS, ViewConfig(), 0)(samples([], [1]))["video"]["frames"].shape == (0, 1, 2, 16, 16)


def test_views_of_clips_are_of_the_first_frame_of_their_pair():
    collate = PairCollator(STILLS, ViewConfig(kind="glyph", noise=0.0, intensity=0.0), 0, views=4)
    batch = collate(samples(range(20)))
    assert batch["views"].shape == (20, 4, 1, 16, 16)
    shown = INPUTS.unit(batch["views"])[:, :, 0, 8, 8] * 10
    torch.testing.assert_close(shown, torch.tensor(firsts(batch)).float()[:, None].expand(-1, 4), atol=1e-4, rtol=0)
    assert len(batch["id"]) == 20


def test_of_files_the_two_frames_alone_are_decoded(tmp_path):
    """They are neighbours as they were filmed, and those that the whole clip of this epoch would show."""
    for name in "abcdefghij":
        write_video(tmp_path / f"{name}.mkv", frames=12)
    data = open_videos(VideoDataConfig(data=str(tmp_path), stride=1, frames=5, image_size=(48, 64), stills="none"), 0)
    inputs = VideoInputs.of(data)
    samples = [{**data.train[i], "epoch": 2, "step": 0, "progress": 0.0} for i in range(len(data.train))]
    pairs = [PairCollator(inputs, ViewConfig(), 0)._pair(sample) for sample in samples]
    for sample, pair in zip(samples, pairs, strict=True):
        shown = numbers(pair)
        assert shown[1] == shown[0] + 1
        whole = numbers(pixels_of(sample))
        assert shown in [whole[i : i + 2] for i in range(4)]
    assert PairCollator(inputs, ViewConfig(), 0)(samples)["frames"].shape == (len(samples), 3, 2, 48, 64)
