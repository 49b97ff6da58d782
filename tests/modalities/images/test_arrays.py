from __future__ import annotations

import gzip
import pickle
import struct

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jepakit.errors import UserError
from jepakit.modalities.images.arrays import ArrayImages, digits, fashion_mnist_folder, read_arrays, read_idx
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images

GREY = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
COLOUR = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)


def idx(array: np.ndarray, kind: int = 0x08) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    ("array", "channels"), [(GREY, 1), (COLOUR, 3), (COLOUR.transpose(0, 3, 1, 2), 3), (GREY[..., None], 1)]
)
def test_layouts(array, channels):
    images = ArrayImages([array], None)
    assert (images.height, images.width, images.stored_channels) == (5, 6, channels)
    expected = GREY[2][None] if channels == 1 else COLOUR[2].transpose(2, 0, 1)
    np.testing.assert_array_equal(images.read(2), expected)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (5, 6, 3), (2, 3, 5, 3), (2, 5, 6, 4), (0, 5, 6), (2, 2, 2, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(UserError, match="shape"):
        ArrayImages([np.zeros(shape)], None)


def test_values():
    def read(array, value_range=None):
        return ArrayImages([array], value_range).read(0)[0]

    deep = np.array([[[0, 1, 65535, 2]] * 5], dtype=np.uint16)
    np.testing.assert_array_equal(read(deep)[0], np.array([0, 1 / 65535, 1, 2 / 65535], dtype=np.float32))
    unit = np.array([[[0.2, 0.5, 0.9, 0.1]] * 5])
    np.testing.assert_allclose(read(unit)[0], [0.2, 0.5, 0.9, 0.1])
    wide = np.array([[[-100.0, 0.0, 300.0, 100.0]] * 5])
    np.testing.assert_allclose(read(wide)[0], [0, 0.25, 1, 0.5])
    np.testing.assert_allclose(read(wide, (0.0, 200.0))[0], [0, 0, 1, 0.5])
    assert ArrayImages([wide], None).found_range == (-100.0, 300.0)
    assert ArrayImages([unit], None).found_range is None
    np.testing.assert_allclose(read(deep, (0.0, 1.0))[0], [0, 1, 1, 1])
    assert np.isfinite(read(np.full((2, 5, 5), 7.0))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_picture_with_nan_is_named(value):
    array = np.zeros((700, 4, 4), dtype=np.float32)
    array[613, 2, 2] = value
    with pytest.raises(UserError, match="Picture 613 "):
        ArrayImages([array], None)


def test_npy_is_mapped_and_pickles_small(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (500, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    data = open_images(ImageDataConfig(data=str(tmp_path / "x.npy"), test_fraction=0.0), 0)
    assert len(data.train) == 500
    assert data.task is None
    content = pickle.dumps(data.train)
    assert len(content) < array.nbytes / 10
    np.testing.assert_array_equal(pickle.loads(content)[7]["image"], array[7].transpose(2, 0, 1))


def test_npz_with_a_split_and_labels(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=GREY, y_train=np.array([3, 5, 3, 5]), x_test=GREY[:2], y_test=np.array([5, 5]))
    data = open_images(ImageDataConfig(data=str(path)), 0)
    assert (len(data.train), len(data.test), data.classes) == (4, 2, ["3", "5"])
    assert data.test.labels.tolist() == [1, 1]
    assert data.test[0]["id"] == 4
    np.testing.assert_array_equal(data.test[1]["image"][0], GREY[1])
    assert open_images(ImageDataConfig(data=str(path), labels="none"), 0).classes is None


def test_labels_beside_an_array(tmp_path):
    np.save(tmp_path / "x.npy", np.tile(GREY, (5, 1, 1)))
    np.save(tmp_path / "y.npy", np.arange(20) % 2)
    config = {"data": str(tmp_path / "x.npy"), "test_fraction": 0.5}
    data = open_images(ImageDataConfig(**config, labels=str(tmp_path / "y.npy")), 0)
    assert np.bincount(data.train.labels).tolist() == np.bincount(data.test.labels).tolist() == [5, 5]
    np.save(tmp_path / "y.npy", np.arange(19))
    with pytest.raises(UserError, match="19 labels for 20"):
        open_images(ImageDataConfig(**config, labels=str(tmp_path / "y.npy")), 0)
    with pytest.raises(UserError, match="does not fit array data"):
        open_images(ImageDataConfig(**config, labels="labels.csv"), 0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GREY}, "expected the pictures under 'images'"),
        ({"x_train": GREY, "x_test": GREY, "y_train": np.zeros(4)}, "one of its two splits"),
        ({"x_train": GREY, "x_test": GREY[:, :4]}, "differ in shape"),
        ({"x": GREY, "y": np.array([1, 2])}, "2 labels for 4"),
        ({"x": np.array([None])}, "cannot be read"),
    ],
)
def test_mistakes_in_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        open_images(ImageDataConfig(data=str(tmp_path / "x.npz")), 0)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_damaged_arrays(tmp_path, name):
    np.save(tmp_path / "sound.npy", GREY)
    np.savez(tmp_path / "sound.npz", x=GREY)
    whole = (tmp_path / f"sound.{name[2:]}").read_bytes()
    for cut in (0, 3, 50, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:cut])
        with pytest.raises(UserError, match="cannot be read"):
            read_arrays(tmp_path / name)


def test_idx_folder(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(GREY))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([0, 1, 1, 0], dtype=np.uint8))))
    data = open_images(ImageDataConfig(data=str(tmp_path), test_fraction=0.5), 0)
    assert (data.kind, len(data.train), len(data.test)) == ("idx", 2, 2)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(GREY[:1]))
    with pytest.raises(UserError, match="one of its two splits"):
        open_images(ImageDataConfig(data=str(tmp_path)), 0)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([1], dtype=np.uint8)))
    data = open_images(ImageDataConfig(data=str(tmp_path)), 0)
    assert (len(data.train), len(data.test)) == (4, 1)
    np.testing.assert_array_equal(data.train[3]["image"][0], GREY[3])


def test_idx_types_and_damage(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    values = np.linspace(-1, 1, 24).reshape(2, 3, 4)
    path.write_bytes(idx(values.astype(">f4"), 0x0D))
    np.testing.assert_allclose(read_idx(path), values, atol=1e-6)
    whole = idx(GREY)
    for content in (b"", whole[:3], whole[:10], whole[:-1], b"\1" + whole[1:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"idx file|array file"):
            read_idx(path)
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(UserError, match=r"ended before .* write or copy the file again"):
        read_idx(packed)


def test_digits():
    arrays, test = digits()
    assert (len(test), test.sum()) == (1797, 597)
    counts = np.bincount(arrays.labels[0][test])
    assert abs(counts - np.bincount(arrays.labels[0]) * 597 / 1797).max() < 1
    data = open_images(ImageDataConfig(data="digits"), seed=5)
    assert (data.config.image_size, data.config.channels, data.config.value_range) == ((8, 8), 1, None)
    np.testing.assert_allclose(data.train[3]["image"][0] * 16, load_digits().images[data.train[3]["id"]])


def test_fashion_mnist_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPAKIT_DATA", str(tmp_path))
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx(GREY))
    assert fashion_mnist_folder() == folder
    (folder / "train-images-idx3-ubyte").unlink()
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: False)
    with pytest.raises(UserError, match="dataset-fashion-mnist"):
        fashion_mnist_folder()
