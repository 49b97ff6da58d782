import gc
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("av")

from jepakit.errors import UserError
from jepakit.modalities.modality import Data, Samples
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos
from jepakit.modalities.video.decoding import decoded_frames, read_frames
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.modalities.video.samples import pixels_of
from jepakit.modalities.video.sources import holds_videos, read_videos
from jepakit.modalities.video.survey import look
from jepakit.modalities.video.timeline import Clock, Timelines
from tests.modalities.videos import numbers, picture, write_video

SIZE = (48, 64)


def opened(place, seed=0, **options):
    return open_videos(VideoDataConfig(data=str(place), **{"frames": 4, "image_size": SIZE, **options}), seed)


def clip_of(data, index=0, epoch=None):
    sample = (data if isinstance(data, Samples) else data.train)[index]
    return pixels_of(sample if epoch is None else {**sample, "epoch": epoch})


@pytest.fixture
def two_classes(tmp_path):
    for kind in ("jump", "walk"):
        for number in range(5):
            write_video(tmp_path / "clips" / kind / f"{number}.mkv", frames=24)
    return tmp_path / "clips"


# --- Which frames a clip has ----------------------------------------------------------------------------------------------


def test_a_clip_is_at_the_frame_rate_asked_for_and_in_the_middle(tmp_path):
    write_video(tmp_path / "a.mkv", frames=40, rate=8)  # 5 s
    assert numbers(clip_of(opened(tmp_path, fps=4))) == [17, 19, 21, 23]
    assert numbers(clip_of(opened(tmp_path, fps=2))) == [14, 18, 22, 26]
    assert numbers(clip_of(opened(tmp_path, fps=16))) == [19, 19, 20, 20]  # above the file's own rate frames repeat
    assert numbers(clip_of(opened(tmp_path, stride=5))) == [12, 17, 22, 27]
    default = opened(tmp_path, frames=None)
    assert (default.config.frames, default.config.fps, default.config.stride) == (16, 4.0, None)


def test_a_variable_frame_rate_shows_what_a_viewer_sees(tmp_path):
    times = [0, 0.1, 0.2, 0.3, 2.0, 2.5, 3.0, 3.1]  # nothing changes between 0.3 and 2 s
    file = write_video(tmp_path / "a.mkv", times=times)
    seen = look(str(file))
    line = Timelines([seen.ticks], [seen.end], [seen.base])
    assert line.variable.tolist() == [True]
    clip = line.clip(0, Clock(frames=7, fps=2.0, stride=None), 0.0)
    assert clip.tolist() == [0, 3, 3, 3, 4, 5, 6]
    assert numbers(read_frames(file, seen.ticks, clip, SIZE)) == clip.tolist()
    assert line.clip(0, Clock(frames=4, fps=None, stride=2), 0.0).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("clock", [Clock(5, 3.0, None), Clock(5, None, 4), Clock(40, 8.0, None), Clock(60, None, 1)])
def test_clips_stay_inside_the_file(clock, place):
    line = Timelines([np.arange(40) * 125], [5000], [1e-3])
    clip = line.clip(0, clock, place)
    assert len(clip) == clock.frames
    assert (np.diff(clip) >= 0).all()
    assert clip[0] >= 0
    assert clip[-1] <= 39
    if clock.frames >= 40:  # as long as the file, or longer: its last frame is held
        assert clip.tolist() == [min(number, 39) for number in range(clock.frames)]
    assert line.short(clock).tolist() == [clock.frames > 40]


def test_rounded_clocks_lose_no_frame():
    for rate in (24, 25, 30, 60, 240):
        ticks = np.round(np.arange(400) * 1000 / rate).astype(np.int64)  # as Matroska stores them
        line = Timelines([ticks], [int(ticks[-1]) + 1000 // rate], [1e-3])
        assert not line.variable[0]
        assert line.clip(0, Clock(300, float(rate), None), 0.0).tolist() == list(range(300))


def test_a_constant_rate_costs_no_number_for_each_frame():
    lines = Timelines([np.arange(100_000) * 512 + 7] * 20, [100_000 * 512 + 7] * 20, [1 / 15360] * 20)
    assert len(pickle.dumps(lines)) < 5_000
    assert lines.ticks(3)[-1] == 99_999 * 512 + 7
    assert lines.take([4]).ticks(0)[1] == 519
    np.testing.assert_allclose(lines.rates, 30)


def test_training_begins_a_clip_anew_in_every_epoch_whoever_reads_it(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mkv", frames=40, rate=8)
    data, again = opened(tmp_path, fps=4, test_fraction=0), opened(tmp_path, fps=4, test_fraction=0)
    starts = [[numbers(clip_of(data, index, epoch))[0] for epoch in range(12)] for index in range(3)]
    copy = pickle.loads(pickle.dumps(again.train.subset([2, 0])))
    assert [numbers(clip_of(copy, 1, epoch))[0] for epoch in range(12)] == starts[0]
    assert len({tuple(row) for row in starts}) == 3
    assert all(len(set(row)) > 5 for row in starts)
    other = opened(tmp_path, seed=1, fps=4, test_fraction=0)
    assert [numbers(clip_of(other, 0, epoch))[0] for epoch in range(12)] != starts[0]


def test_several_clips_of_a_file_lie_in_parts_of_it(two_classes):
    data = opened(two_classes, clips=3, stride=2, test_fraction=0.4)
    assert (len(data.train), len(data.test)) == (18, 12)
    assert not set(data.train.ids // 3) & set(data.test.ids // 3)  # whole files are held out
    assert [numbers(clip_of(data, part))[0] for part in range(3)] == [3, 9, 15]  # of the 18 beginnings there are
    for epoch in range(5):
        assert [numbers(clip_of(data, part, epoch))[0] // 6 for part in range(3)] == [0, 1, 2]
    assert data.train.paths[0] == data.train.paths[2] != data.train.paths[3]
    assert data.train.labels[:3].tolist() == [0, 0, 0]


def test_files_shorter_than_a_clip(tmp_path):
    write_video(tmp_path / "long.mkv", frames=40)
    write_video(tmp_path / "short.mkv", frames=5)
    held = opened(tmp_path, fps=4, test_fraction=0)
    assert numbers(clip_of(held, 1)) == [0, 2, 4, 4]
    assert "1 of 2 files are shorter than a clip and hold their last frame" in held.notes[-1]
    skipped = opened(tmp_path, fps=4, test_fraction=0, on_short_file="skip")
    assert [Path(path).name for path in skipped.train.paths] == ["long.mkv"]
    assert "left out" in skipped.notes[-1]
    with pytest.raises(UserError, match="every file is shorter than a clip of 99 frames"):
        opened(tmp_path, frames=99, on_short_file="skip")


# --- What the verbs need --------------------------------------------------------------------------------------------------


def test_a_folder_is_data_with_labels_and_a_split(two_classes):
    data = opened(two_classes)
    assert isinstance(data, Data)
    assert (data.classes, data.task, data.kind) == (["jump", "walk"], "classification", "folder")
    assert np.bincount(data.test.labels).tolist() == [1, 1]
    other = opened(two_classes, seed=5)
    np.testing.assert_array_equal(data.test.ids, other.test.ids)
    assert len(opened(two_classes, limit=3).train) == 3
    assert opened(two_classes, labels="none").task is None
    others = ({"limit": 3}, {"fps": 2}, {"clips": 2}, {"frames": 5})
    assert len({data.fingerprint, *(opened(two_classes, **options).fingerprint for options in others)}) == 5
    assert data.fingerprint == other.fingerprint
    inputs = VideoInputs.of(data)
    assert inputs.options() == {"frames": 4, "image_size": SIZE, "fps": 4.0, "stride": None}
    assert inputs.prepare([data.train[0], data.train[1]]).shape == (2, 3, 4, *SIZE)
    assert inputs.prepare([data.companions["image"].dataset[3]]).shape == (1, 3, 1, *SIZE)


def test_folders_that_are_a_split_and_labels_from_a_table(tmp_path):
    for side, count in (("train", 3), ("val", 2)):
        for number in range(count):
            write_video(tmp_path / side / f"{'ab'[number % 2]}{number}.mkv", frames=8)
    table = tmp_path / "labels.csv"
    rows = ["train/a0.mkv,x,1", "train/b1.mkv,y,2", "train/a2.mkv,x,1", "val/a0.mkv,x,3", "val/b1.mkv,y,3"]
    table.write_text("path,label,scene\n" + "\n".join(rows) + "\n")
    data = opened(tmp_path, labels=str(table), group_by="scene")
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.train.labels.tolist() == [0, 0, 1]
    table.write_text("path,label,scene\n" + "\n".join(rows).replace("y,3", "y,2") + "\n")
    with pytest.raises(UserError, match="both sides"):
        opened(tmp_path, labels=str(table), group_by="scene")


def test_statistics_are_those_of_the_pixels(two_classes):
    data = opened(two_classes, frames=24, fps=8)
    expected = torch.from_numpy(np.stack([picture(12)])).double() / 255  # one frame, the middle one, of every file
    torch.testing.assert_close(torch.tensor(data.mean).double(), expected.mean((0, 1, 2)), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.tensor(data.std).double(), expected.std((0, 1, 2)), atol=1e-3, rtol=0)


def test_stills_are_frames_of_training_clips(two_classes):
    data = opened(two_classes, fps=4)
    stills = data.companions["image"].dataset
    assert len(stills) == len(data.train) * 4
    clip = numbers(clip_of(data, 2))
    assert [numbers(pixels_of(stills[2 * 4 + frame]))[0] for frame in range(4)] == clip
    drawn = {numbers(pixels_of({**stills[9], "epoch": epoch}))[0] for epoch in range(10)}
    assert len(drawn) > 4
    assert opened(two_classes, stills="none").companions == {}


@pytest.mark.parametrize("layout", ["txt", "v-jepa", "table", "tsv"])
def test_lists_of_files(tmp_path, layout):
    names = ["in here/a b.mkv", "b.mkv", str(tmp_path / "elsewhere" / "c.mkv")]
    for name in names:
        write_video(tmp_path / name, frames=8)
    lines = {
        "txt": names,
        "v-jepa": [f"{name} {number % 2}" for number, name in enumerate(names)],
        "table": ["label,path", *(f'{"xy"[number % 2]},"{name}"' for number, name in enumerate(names))],
        "tsv": ["path\tlabel", *(f"{name}\t{number % 2}" for number, name in enumerate(names))],
    }[layout]
    place = tmp_path / {"txt": "list.txt", "v-jepa": "list.csv", "table": "list.csv", "tsv": "list.tsv"}[layout]
    place.write_text("\n".join(lines) + "\n")
    assert holds_videos(str(place))
    data = opened(place, test_fraction=0)
    assert [Path(path).name for path in data.train.paths] == ["a b.mkv", "b.mkv", "c.mkv"]
    assert (None if data.train.labels is None else data.train.labels.tolist()) == (None if layout == "txt" else [0, 1, 0])
    assert data.kind == "list"


def test_lists_that_do_not_fit(tmp_path):
    write_video(tmp_path / "a.mkv", frames=8)
    place = tmp_path / "list.csv"
    for text, message in (
        ("a.mkv\n./a.mkv\n", "twice"),
        ("", "lists no files"),
        ("name,label\na.mkv,1\n", "one of them must be 'path'"),
        ("a.mkv 1\nb.mkv\n", "cannot be read"),
    ):
        place.write_text(text)
        with pytest.raises(UserError, match=message):
            opened(place)
    place.write_text("a.mkv\ngone.mkv\n")
    assert [bad.reason for bad in opened(place, on_bad_file="skip").bad_files] == ["it does not exist"]


def test_one_file_with_several_clips(tmp_path):
    file = write_video(tmp_path / "a.mkv", frames=40)
    data = opened(file, clips=5)
    assert (len(data.train), len(data.test), data.kind) == (5, 0, "file")


def test_folders_of_numbered_pictures(tmp_path):
    for kind, clip, count in (("jump", "one", 12), ("jump", "two", 9), ("walk", "three", 12)):
        for number in range(count):
            place = tmp_path / kind / clip / f"frame_{number}.png"  # frame_10 stands before frame_2 in order of names
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).save(place)
    assert not holds_videos(str(tmp_path))  # as it may be images, too
    data = opened(tmp_path, stride=3, test_fraction=0)
    assert (data.kind, data.config.stride, data.train.labels.tolist()) == ("frames", 3, [0, 0, 1])
    assert [numbers(clip_of(data, index)) for index in range(3)] == [[1, 4, 7, 10], [0, 3, 6, 8], [1, 4, 7, 10]]
    np.testing.assert_array_equal(clip_of(data)[0].permute(1, 2, 0), picture(1))
    assert opened(tmp_path).config.stride == 1
    with pytest.raises(UserError, match="do not say how long"):
        opened(tmp_path, fps=4)
    (tmp_path / "walk" / "three" / "frame_3.png").write_text("no picture")
    with pytest.raises(UserError, match="1 of 3 folders of pictures cannot be read"):
        opened(tmp_path)


# --- Pixels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "ffv1"),
        ("a.mp4", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("b.avi", "libx264"),
        ("a.mpg", "mpeg2video"),
    ],
)
def test_searched_frames_are_those_of_decoding_from_the_start(tmp_path, name, codec):
    file = write_video(tmp_path / name, codec=codec, rate=25 if codec == "mpeg2video" else 8)
    seen, everything = look(str(file)), np.stack(list(decoded_frames(file))).transpose(0, 3, 1, 2)
    assert len(everything) == len(seen.ticks) == 40
    for first in (0, 7, 10, 19, 33, 39):
        chosen = np.minimum([first, first, first + 2, first + 9], 39)
        np.testing.assert_array_equal(read_frames(file, seen.ticks, chosen, SIZE), everything[chosen])
    if codec == "ffv1":
        np.testing.assert_array_equal(everything[11].transpose(1, 2, 0), picture(11))


@pytest.mark.parametrize(("rotation", "flip", "turn"), [
    (90, False, lambda p: np.rot90(p)),
    (-90, False, lambda p: np.rot90(p, -1)),
    (180, False, lambda p: np.rot90(p, 2)),
    (0, True, lambda p: p[:, ::-1]),
])  # fmt: skip
def test_the_rotation_a_file_asks_for_is_applied(tmp_path, rotation, flip, turn):
    file = write_video(tmp_path / "a.mkv", frames=12, rotation=rotation, flip=flip)
    upright = turn(picture(7))
    seen = look(str(file))
    assert (seen.height, seen.width, seen.turned) == (*upright.shape[:2], True)
    pixels = read_frames(file, seen.ticks, np.array([7]), upright.shape[:2])[0]
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), upright)
    np.testing.assert_array_equal(list(decoded_frames(file, upright=True))[7], upright)
    np.testing.assert_array_equal(list(decoded_frames(file))[7], picture(7))  # as LeRobot's data needs it


def test_frames_are_scaled_and_cut_at_the_centre_as_prepare_does(tmp_path):
    file = write_video(tmp_path / "a.mkv", frames=4, size=(96, 160))
    seen = look(str(file))
    small = read_frames(file, seen.ticks, np.arange(4), (24, 24))
    assert small.shape == (4, 3, 24, 24)
    data = opened(file, image_size=(24, 24), test_fraction=0)
    whole = np.stack([picture(number, (96, 160)) for number in range(4)]).transpose(0, 3, 1, 2)
    prepared = VideoInputs.of(data).prepare([{"clip": torch.from_numpy(whole), "id": 0}])
    ours = VideoInputs.of(data).prepare([{"clip": torch.from_numpy(small), "id": 0}])
    assert (prepared - ours).abs().mean() < 0.1  # of a deviation of 1: filters differ at edges
    assert read_frames(file, seen.ticks, np.arange(2), (200, 300)).shape == (2, 3, 200, 300)  # enlarged
    assert opened(file, image_size=None).config.image_size == (96, 96)
    assert opened(write_video(tmp_path / "b.mkv", size=(40, 30)), image_size=None).config.image_size == (40, 30)


# --- Bad files ------------------------------------------------------------------------------------------------------------


def damaged(folder):
    """One sound file and every kind of bad one."""
    write_video(folder / "sound.mkv", frames=24)
    whole = {
        "cut.mp4": write_video(folder / "whole.mp4", codec="libx264", faststart=True),
        "cut.mkv": write_video(folder / "whole.mkv"),
        "cut.avi": write_video(folder / "whole.avi", codec="mpeg4"),
    }
    for name, file in whole.items():
        content = file.read_bytes()
        (folder / name).write_bytes(content[: len(content) * (9 if name == "cut.avi" else 6) // 10])
        file.unlink()
    late = write_video(folder / "late.mp4", codec="libx264")  # its index comes last
    late.write_bytes(late.read_bytes()[:-400])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is no video.\n" * 100)
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:4,\nsound.mkv\n#EXT-X-ENDLIST\n")
    Image.fromarray(picture(3)).save(folder / "picture.png")
    (folder / "picture.png").rename(folder / "picture.mp4")
    os.mkfifo(folder / "pipe.mp4")


def test_bad_files_are_found_before_training(tmp_path):
    damaged(tmp_path)
    names = ["cut.avi", "cut.mkv", "cut.mp4", "empty.mp4", "late.mp4", "picture.mp4", "pipe.mp4", "playlist.mp4", "text.mp4"]
    with pytest.raises(UserError) as raised:
        opened(tmp_path)
    message = str(raised.value)
    assert "9 of 10 video files cannot be read:" in message
    assert all(f"  {name}: " in message for name in names)
    assert "--on-bad-file skip" in message
    data = opened(tmp_path, on_bad_file="skip")
    assert [bad.path for bad in data.bad_files] == names
    reasons = {bad.path: bad.reason for bad in data.bad_files}
    assert "cut short" in reasons["cut.mp4"]
    assert "cut short: 2." in reasons["cut.mkv"]
    assert len(data.train) == 1
    (tmp_path / "sound.mkv").unlink()
    with pytest.raises(UserError, match="None of the 9 video files can be read"):
        opened(tmp_path, on_bad_file="skip")


def test_a_file_damaged_in_the_middle_stops_by_name(tmp_path):
    file = write_video(tmp_path / "a.mkv", frames=40)
    content = bytearray(file.read_bytes())
    seen = look(str(file))
    middle = len(content) // 2
    content[middle : middle + 900] = os.urandom(900)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mkv cannot be decoded"):
        read_frames(file, seen.ticks, np.arange(40), SIZE)
    file.unlink()
    with pytest.raises(UserError, match="it does not exist"):
        read_frames(file, seen.ticks, np.arange(3), SIZE)


def test_places_without_videos(tmp_path):
    (tmp_path / "notes.txt").write_text("no list\n")
    with pytest.raises(UserError, match=r"no video files under .* \(1 other files there\)"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"gone\.mp4' does not exist"):
        opened(tmp_path / "gone.mp4")
    assert not holds_videos(str(tmp_path))
    assert not holds_videos(str(tmp_path / "notes.txt"))


def test_options_that_do_not_fit(tmp_path):
    for options, message in (
        ({"fps": 4, "stride": 4}, "not both"),
        ({"fps": 0}, "fps must be above 0"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"clips": 0}, "clips must be at least 1"),
        ({"on_short_file": "stretch"}, "on_short_file"),
        ({"on_bad_file": "ignore"}, "on_bad_file"),
    ):
        with pytest.raises(UserError, match=message):
            VideoDataConfig(data="x", **options)
    for options, message in (({"clips": 2}, "clips is for video files"), ({"group_by": "path:0"}, "group_by is for video")):
        with pytest.raises(UserError, match=message):
            open_videos(VideoDataConfig(data="bouncing-digits", **options), 0)
    assert "fps and stride" in open_videos(VideoDataConfig(data="bouncing-digits", fps=4), 0).notes[0]


# --- Nothing leaks --------------------------------------------------------------------------------------------------------


def test_many_reads_leave_no_file_open_and_memory_flat(tmp_path):
    write_video(tmp_path / "a.mp4", codec="libx264", frames=12, size=(144, 192))
    data = opened(tmp_path, test_fraction=0)

    def read(times):
        for epoch in range(times):
            clip_of(data, 0, epoch)
        next(iter(decoded_frames(tmp_path / "a.mp4", 1.0)))  # left in the middle
        gc.collect()
        return len(os.listdir("/proc/self/fd")), resident()

    read(40)  # what is kept once is kept by now
    files, memory = read(1)
    after_files, after_memory = read(300)
    assert after_files == files
    assert after_memory - memory < 30 * 2**20  # a decoder of these frames that is not closed holds more than 1 MB


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_what_is_found_pickles_small(two_classes):
    collection = read_videos(VideoDataConfig(data=str(two_classes)))
    assert len(pickle.dumps(opened(two_classes).train)) < 6_000
    assert len(collection) == 10
