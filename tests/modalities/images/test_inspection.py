from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.modalities.images.inspection import inspect_images, render_inspection
from jepakit.modalities.images.near_duplicates import near_duplicates, nearest_pictures
from tests.modalities.photographs import make_photographs, scene


def printed(found) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_inspection(found))
    return console.export_text()


def test_mixed_photographs(tmp_path):
    found = inspect_images(ImageDataConfig(data=str(make_photographs(tmp_path, per_class=10))), seed=0)[0]
    assert (found.train, found.test) == (16, 4)
    assert found.classes == {"moons": (8, 2), "roofs": (8, 2)}
    assert found.modes == {"L": 2, "RGBA": 2, "I;16": 2, "RGB": 10, "P": 2, "CMYK": 2}
    assert found.smallest == found.median == found.largest == (48, 64)
    assert sorted(Path(bad.path).name for bad in found.bad_files) == ["fake.png", "torn.jpg"]
    assert json.loads(json.dumps(found.to_dict()))["image_size"] == [48, 64]
    text = printed(found)
    for expected in (
        "16 to train on, 4 held out",
        "torn.jpg",
        "--on-bad-file skip",
        "I;16 (2)",
        "not images: 1",
        "moons",
    ):
        assert expected in text


def test_copies_across_the_split_are_found_and_other_pictures_are_not(tmp_path):
    for part, numbers in (("train", range(12)), ("test", range(12, 20))):
        (tmp_path / part).mkdir()
        for number in numbers:
            Image.fromarray(scene("moons", 100, number)).save(tmp_path / part / f"{number}.png")
    original = Image.fromarray(scene("moons", 100, 3))
    original.resize((90, 70)).save(tmp_path / "test" / "smaller.jpg", quality=60)
    original.point(lambda level: level * 0.8).save(tmp_path / "test" / "darker.png")
    original.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "test" / "turned.png")
    Image.new("RGB", (100, 100)).save(tmp_path / "train" / "black.png")
    Image.new("RGB", (100, 100)).save(tmp_path / "test" / "black.png")
    config = ImageDataConfig(data=str(tmp_path))
    found = near_duplicates(open_images(config, 0), 0)
    pairs = {(Path(test).name, Path(train).name) for test, train in found.pairs}
    assert pairs == {("smaller.jpg", "3.png"), ("darker.png", "3.png")}
    assert (found.count, found.test, found.train) == (2, 12, 13)
    text = printed(inspect_images(config, 0)[0])
    assert "2 of 12 held-out pictures have a near-duplicate" in text


def test_nearest_pictures_in_pieces(monkeypatch):
    generator = np.random.default_rng(0)
    queries, keys = (generator.normal(size=(count, 8)).astype(np.float32) for count in (50, 30))
    position, likeness = nearest_pictures(queries, keys)
    np.testing.assert_array_equal(position, (queries @ keys.T).argmax(axis=1))
    np.testing.assert_allclose(likeness, (queries @ keys.T).max(axis=1), rtol=1e-6)
    monkeypatch.setattr("jepakit.modalities.images.near_duplicates._PIECE", 100)
    np.testing.assert_array_equal(nearest_pictures(queries, keys)[0], position)


def test_digits_have_no_copies():
    found = inspect_images(ImageDataConfig(data="digits"), 0)[0]
    assert (found.train, found.test, found.near_duplicates.count) == (1200, 597, 0)
    assert found.modes == {"float32": 1797}


@pytest.fixture
def groups(tmp_path) -> ImageDataConfig:
    names = [f"{number}.png" for number in range(20)]
    for number, name in enumerate(names):
        Image.fromarray(scene("roofs", 30, number)[:, : 30 if number else 5]).save(tmp_path / name)
    rows = [f"{name},{number / 4},{number // 2}" for number, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("path,label,roof\n" + "\n".join(rows))
    return ImageDataConfig(data=str(tmp_path), labels=str(tmp_path / "labels.csv"), group_by="roof")


def test_groups_values_and_advice(groups):
    found = inspect_images(groups, 0)[0]
    assert found.groups == (8, 2)
    assert found.values == (0.0, 2.375, 4.75)
    text = printed(found)
    assert "20 pictures are smaller than the 96 x 96" in text
    assert "1 pictures are more than twice as long" in text
    assert "8 to train on, 2 held out" in text
    assert "target" in text
