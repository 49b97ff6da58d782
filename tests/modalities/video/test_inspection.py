import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from jepakit.errors import UserError
from jepakit.masks.tubes import TubeConfig, Tubes
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.inspection import inspect_videos
from jepakit.modalities.video.pictures import context_places, draw_strips, washed_out
from jepakit.randomness import Draws
from jepakit.verbs.inspect import inspect
from tests.modalities.videos import picture, write_video


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    for number in range(4):
        write_video(folder / "walk" / f"{number}.mkv", frames=16 + 8 * number)
        write_video(folder / "jump" / f"{number}.mp4", frames=24, codec="libx264", size=(96, 64))
    write_video(folder / "walk" / "phone.mkv", frames=16, rotation=90)
    write_video(folder / "jump" / "slides.mkv", times=[0, 1, 1.5, 4, 4.1, 6])
    (folder / "jump" / "torn.mp4").write_bytes(b"torn")
    return folder


def test_what_is_said_of_videos(videos):
    found, data = inspect_videos(VideoDataConfig(data=str(videos), frames=8, clips=2), 0)
    assert found.files == (8, 2)
    assert found.clips == (16, 4)
    assert found.classes == {"jump": (4, 1), "walk": (4, 1)}
    assert found.codecs == {"ffv1": 6, "h264": 4}
    assert (found.smallest, found.largest) == ((48, 48), (96, 64))
    assert found.frame_counts == (6, 24, 40)
    assert found.durations[0] == pytest.approx(2.0, abs=0.01)
    assert found.durations[2] == pytest.approx(6.5, abs=1)
    assert found.rates[1] == pytest.approx(8, abs=0.1)
    assert found.variable == ["jump/slides.mkv"]
    assert found.turned == ["walk/phone.mkv"]
    assert [bad.path for bad in found.bad_files] == ["jump/torn.mp4"]
    assert any("fewer than 4 frames a second" in note for note in found.notes)
    assert json.loads(json.dumps(found.to_dict()))["fps"] == 4.0
    assert len(data.train) == 16


def test_inspect_recognises_videos_and_draws_strips(videos, tmp_path, capsys):
    place = tmp_path / "strips.png"
    found = inspect(videos, picture=place, frames=8)
    said = capsys.readouterr().out
    for words in ("h264", "variable in 1 (jump/slides.mkv)", "walk/phone.mkv", "1 files cannot be read", "jump/torn.mp4"):
        assert words in said
    assert found.frames == 8
    assert Image.open(place).size[0] > 500
    masked = inspect(videos, system="v-jepa-2.1", picture=place, stride=2, frames=4)
    assert (masked.fps, masked.stride) == (None, 2)
    with pytest.raises(UserError, match="looks at video files"):
        inspect("bouncing-digits", system="v-jepa-2.1", picture=place)


def test_pictures_are_images_unless_a_system_of_video_is_named(tmp_path):
    for kind in ("a", "b"):
        for number in range(10):
            place = tmp_path / kind / f"clip{number % 2}" / f"{number // 2}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).save(place)
    assert inspect(tmp_path, picture=tmp_path / "one.png").kind == "folder"
    found = inspect(tmp_path, system="v-jepa-2.1", frames=4, picture=tmp_path / "two.png")
    assert (found.kind, found.durations, found.frame_counts) == ("frames", None, (5, 5, 5))


def test_what_is_hidden_is_hidden_in_the_strip():
    tubes = Tubes(TubeConfig(), (1, 8, 10))
    kept = context_places(tubes, Draws(0, "masks", 0, np.arange(3)))
    drawn = tubes(Draws(0, "masks", 0, np.arange(3))).batch()
    assert kept.shape == (3, 2, 8, 10)
    assert kept.sum((2, 3)).tolist() == drawn["context_lengths"].tolist()
    frame = np.zeros((16, 20, 3), dtype=np.float32)
    view = washed_out(frame, kept[1, 0])
    assert ((view == 0)[::2, ::2, 0] == kept[1, 0]).all()


def test_strips_of_small_frames(tmp_path):
    write_video(tmp_path / "a.mkv", size=(16, 24))
    _, data = inspect_videos(VideoDataConfig(data=str(tmp_path), frames=3), 0)
    assert len(draw_strips(data, TubeConfig(long_blocks=0), 0).axes) == 3 * 2
