"""Packed shards: what is wrong with them is said by name, and reading them goes on in the middle of an epoch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

import jepakit
from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.training.order import DrawnDataset, StreamSampler
from tests.modalities.photographs import make_photographs


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    make_photographs(place / "photos", per_class=8, size=96)
    options = {"on_bad_file": "skip", "image_size": (32, 32), "shard_size": "20kB"}
    jepakit.pack(place / "photos", place / "files", encoding="files", **options)
    return jepakit.pack(place / "photos", place / "pixels", **options)


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def opened(folder: Path, **options):
    return open_images(ImageDataConfig(data=str(folder), **options), 0)


def test_a_shard_that_is_missing_or_cut_short_is_named(copy):
    shard = copy / "shard-00001.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-8])
    with pytest.raises(UserError, match=r"shard-00001\.bin has .* bytes instead of"):
        opened(copy)
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00001\.bin is missing"):
        opened(copy)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"version": 99}, "version 99"), ({"format": "other"}, "does not say that it is of the format"), (None, "cannot be read")],
)
def test_another_index_is_refused(copy, change, told):
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text("{" if change is None else json.dumps(index | change))
    with pytest.raises(UserError, match=told):
        opened(copy)


def test_flipped_bytes_are_found(copy):
    shard = copy / "shard-00000.bin"
    content = opened(copy).train.pictures.content
    whole = [content[index] for index in range(len(content))]
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    with pytest.raises(UserError, match=r"shard-00000.bin is damaged: sample 0"):
        content[0]
    assert [content[index] for index in range(1, len(content))] == whole[1:]


def test_a_larger_input_than_was_packed_for_needs_files(packed):
    with pytest.raises(UserError, match=r"reduced for 32 32.*--image-size 64 64"):
        opened(packed, image_size=(64, 64))
    assert opened(packed, image_size=(16, 16)).config.image_size == (16, 16)
    folder = opened(packed.parent / "photos", on_bad_file="skip", image_size=(64, 64))
    files = opened(packed.parent / "files", image_size=(64, 64))
    assert all(files.train[index]["image"].equal(folder.train[index]["image"]) for index in range(len(folder.train)))


def test_labels_and_groups_are_those_of_the_folder(packed, tmp_path):
    photos = packed.parent / "photos"
    rows = [f"{path.relative_to(photos)},{path.parent.name[0]},g{int(path.stem) % 4}" for path in photos.glob("*/0*")]
    (tmp_path / "labels.csv").write_text("path,label,patient\n" + "\n".join(rows))
    options = {"labels": str(tmp_path / "labels.csv"), "group_by": "patient"}
    (photos / "moons" / "torn.jpg").rename(tmp_path / "torn.jpg")  # they have no row
    (photos / "roofs" / "fake.png").rename(tmp_path / "fake.png")
    folder, shards = opened(photos, image_size=(32, 32), **options), opened(packed, **options)
    assert (shards.classes, shards.train.labels.tolist()) == (folder.classes, folder.train.labels.tolist())
    assert shards.test.ids.tolist() == folder.test.ids.tolist()
    assert opened(packed, labels="none").classes is None


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shuffle", ["full", "shards"])
def test_reading_goes_on_exactly_in_the_middle_of_an_epoch(packed, shuffle, workers):
    data = opened(packed, shuffle=shuffle).train
    assert (data.shards is None) == (shuffle == "full")

    def read(start: int, workers: int) -> list[list[tuple[int, int, float]]]:
        sampler = StreamSampler(len(data), 5, 8, seed=1, start=start, shards=data.shards)
        context = "spawn" if workers else None
        loader = DataLoader(
            DrawnDataset(data), batch_sampler=sampler, collate_fn=list, num_workers=workers, multiprocessing_context=context
        )
        return [[(s["id"], s["epoch"], float(np.asarray(s["image"], dtype=float).sum())) for s in batch] for batch in loader]

    assert read(4, workers) == read(0, 0)[4:]
