import pickle

import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.modalities.video.arrays import ArrayClips, read_clips, read_stills

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5, 8, 6), dtype=np.uint8)


@pytest.mark.parametrize("layout", ["grey", "first", "last"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_layouts_and_types(layout, dtype):
    stored = GREY if dtype is np.uint8 else GREY / 255
    shown = stored[:, :, None] if layout == "grey" else np.stack([stored, stored, 0 * stored], axis=2)
    array = {"grey": stored, "first": shown, "last": np.moveaxis(shown, 2, -1)}[layout]
    clips = ArrayClips([array])
    assert (len(clips), clips.frames, clips.channels, clips.image_size) == (7, 5, 1 if layout == "grey" else 3, (8, 6))
    clip = clips.read(3)
    assert clip.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    np.testing.assert_allclose(clip, shown[3], atol=1e-7)
    np.testing.assert_allclose(clips.read(3, frame=2), shown[3, 2:3], atol=1e-7)


def test_a_mapped_file_pickles_without_its_pixels(tmp_path):
    path = tmp_path / "clips.npy"
    np.save(path, np.repeat(GREY, 100, axis=0))
    clips, labels, test = read_clips(str(path), None, None)
    assert labels is None
    assert test is None
    packed = pickle.dumps(clips)
    assert len(packed) < 2000
    np.testing.assert_array_equal(pickle.loads(packed).read(699), clips.read(699))


def test_labels_and_the_files_own_split(tmp_path):
    path = tmp_path / "clips.npz"
    np.savez(path, x_train=GREY[:5], x_test=GREY[5:], y_train=list("abcab"), y_test=list("bc"))
    clips, labels, test = read_clips(str(path), None, None)
    assert test.tolist() == [False] * 5 + [True] * 2
    assert labels.classes == ["a", "b", "c"]
    assert labels.values.tolist() == [0, 1, 2, 0, 1, 1, 2]
    np.testing.assert_array_equal(clips.read(6)[:, 0], GREY[6])
    assert read_clips(str(path), "none", None)[1] is None
    np.save(tmp_path / "other.npy", np.arange(7))
    assert read_clips(str(path), str(tmp_path / "other.npy"), None)[1].values.tolist() == list(range(7))
    np.savez(path, clips=GREY, labels=np.arange(7))
    assert len(read_clips(str(path), None, None)[0]) == 7


def test_objects(tmp_path):
    clips, labels, _ = read_clips("object", None, (GREY, np.arange(7) % 2))
    assert len(clips) == 7
    assert labels.values.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert read_clips("object", None, GREY)[1] is None


def test_stills(tmp_path):
    np.save(tmp_path / "stills.npy", GREY[:, 0])
    stills = read_stills(str(tmp_path / "stills.npy"))
    assert (len(stills), stills.frames, stills.channels) == (7, 1, 1)
    np.testing.assert_array_equal(stills.read(4)[0, 0], GREY[4, 0])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (GREY[0], "is not a set of clips"),
        (np.zeros((2, 3, 4, 5, 6)), "is not a set of clips"),
        (GREY.astype(np.int64), "expected uint8, or floats"),
        (GREY.astype(np.float32), "outside [0, 1]"),
        (np.where(GREY / 255 > 0.99, np.nan, GREY / 255), "hold NaN or values outside"),
    ],
)
def test_arrays_that_are_not_clips(array, message):
    with pytest.raises(UserError) as raised:
        ArrayClips([array])
    assert message in str(raised.value)


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="or the name bouncing-digits"):
        read_clips(str(tmp_path / "none.mp4"), None, None)
    np.savez(tmp_path / "clips.npz", clips=GREY, labels=np.arange(6))
    with pytest.raises(UserError, match="\\[6\\] for 7 clips"):
        read_clips(str(tmp_path / "clips.npz"), None, None)
    with pytest.raises(UserError, match="differ"):
        ArrayClips([GREY, GREY[:, :3]])
