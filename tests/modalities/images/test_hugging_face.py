from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images

datasets = pytest.importorskip("datasets")

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 9, 11, 3), dtype=np.uint8)
CONFIG = ImageDataConfig(data="in memory")


def made(labels: list, feature, count: int = 10, column: str = "label"):
    features = datasets.Features({"picture": datasets.Image(), column: feature})
    images = [Image.fromarray(pixels) for pixels in PIXELS[:count]]
    return datasets.Dataset.from_dict({"picture": images, column: labels}, features=features)


def named():
    return made([0, 1] * 5, datasets.ClassLabel(names=["cat", "dog"]), column="animal")


def test_a_data_set_in_memory():
    data = open_images(CONFIG, 0, named())
    assert (data.kind, data.classes, data.config.image_size) == ("hf", ["cat", "dog"], (9, 11))
    assert (len(data.train), len(data.test)) == (8, 2)
    for part in (data.train, data.test):
        for index in range(len(part)):
            sample = part[index]
            np.testing.assert_array_equal(sample["image"].numpy().transpose(1, 2, 0), PIXELS[sample["id"]])
            assert sample["label"] == sample["id"] % 2
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data.train))[0]["image"], data.train[0]["image"])


def test_splits_and_saved_to_disk(tmp_path):
    both = datasets.DatasetDict(train=named(), validation=named().select([1, 3]))
    both.save_to_disk(str(tmp_path / "saved"))
    for data in (open_images(CONFIG, 0, both), open_images(ImageDataConfig(data=f"hf:{tmp_path}/saved"), 0)):
        assert (len(data.train), len(data.test)) == (10, 2)
        assert data.test.labels.tolist() == [1, 1]
        np.testing.assert_array_equal(data.test[1]["image"].numpy().transpose(1, 2, 0), PIXELS[3])
    with pytest.raises(UserError, match=f"hf:{tmp_path}/saved"):
        open_images(ImageDataConfig(data=f"{tmp_path}/saved"), 0)


def test_other_labels():
    assert open_images(CONFIG, 0, made([0.5] * 10, datasets.Value("float32"))).task == "regression"
    assert open_images(CONFIG, 0, made(["b", "a"] * 5, datasets.Value("string"))).classes == ["a", "b"]
    several = datasets.Sequence(datasets.ClassLabel(names=["red", "round"]))
    data = open_images(CONFIG, 0, made([[0, 1], [], [1], [0], []] * 2, several, column="labels"))
    assert (data.task, data.classes) == ("multilabel", ["red", "round"])
    assert open_images(ImageDataConfig(data="in memory", labels="none"), 0, named()).task is None


def test_bad_rows_are_named():
    images = [{"bytes": b"no picture", "path": None}, None] + [Image.fromarray(pixels) for pixels in PIXELS[:4]]
    source = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    with pytest.raises(UserError, match="2 of 6 image files"):
        open_images(CONFIG, 0, source)
    data = open_images(ImageDataConfig(data="in memory", on_bad_file="skip"), 0, source)
    assert [bad.path for bad in data.bad_files] == ["row 0 of train", "row 1 of train"]
    assert len(data.train) + len(data.test) == 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: [1, 2], "got list"),
        (lambda: datasets.Dataset.from_dict({"x": [1]}), "no column of images"),
        (lambda: datasets.DatasetDict(a=named(), b=named()), "'train' and one of"),
        (lambda: made([0, -1] * 5, datasets.ClassLabel(names=["cat"])), "-1"),
    ],
)
def test_mistakes_are_named(source, message):
    with pytest.raises(UserError, match=message):
        open_images(CONFIG, 0, source())


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"jepakit\[datasets\]"):
        open_images(CONFIG, 0, object())
