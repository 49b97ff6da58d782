"""Packed shards from a stranger, damaged in their index, their tables and their pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.verbs.pack import pack
from tests.robustness.mutations import mutations
from tests.robustness.oracle import outcome, refusal

TABLES = ("samples.npy", "sizes.npy", "labels.npy", "names.npy", "name_starts.npy", "index.json", "shard-00000.bin")
PER_FILE = 30  # damages of each file
CASES = [(file, number) for file in TABLES for number in range(PER_FILE)]

LIES = {
    "a shard outside": lambda index: index["shards"][0].update(file="../secret.bin"),
    "an absolute shard": lambda index: index["shards"][0].update(file="/etc/passwd"),
    "a shard of no samples": lambda index: index["shards"][0].update(samples=0),
    "more samples than there are": lambda index: index["shards"][0].update(samples=10**12),
    "text for a number": lambda index: index.update(channels="three"),
    "a size of nothing": lambda index: index.update(image_size=[0, 0]),
    "no shards": lambda index: index.update(shards=[]),
    "another encoding": lambda index: index.update(encoding="pickle"),
    "an unknown task": lambda index: index.update(task="world domination"),
    "fewer classes": lambda index: index.update(classes=["one"]),
    "a nested note": lambda index: index.update(notes=[["x"]]),
    "a key gone": lambda index: index.pop("named"),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """Twelve pictures of two classes, packed."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    for number in range(12):
        place = folder / "photos" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place)
    pack(folder / "photos", folder / "packed")
    return folder / "packed"


def read(folder: Path) -> list[tuple]:
    """Everything a training would see."""
    data = open_images(ImageDataConfig(data=str(folder)), seed=0)
    parts = [data.train, data.test]
    samples = [part[number] for part in parts for number in range(len(part))]
    return [(sample["id"], int(sample["label"]), sample["image"].numpy().tobytes()) for sample in samples]


def damages(content: bytes) -> list[tuple[str, bytes]]:
    """`PER_FILE` damages, spread over all kinds."""
    found = list(mutations(content, seed=1, header=min(128, len(content) // 2)))
    return [found[int(place)] for place in np.linspace(0, len(found) - 1, PER_FILE)]


@pytest.mark.parametrize("file", TABLES)
def test_a_damaged_file_is_refused_or_only_names_and_labels_differ(file, packed, tmp_path):
    good = read(packed)
    for number, (name, content) in enumerate(damages((packed / file).read_bytes())):
        folder = tmp_path / str(number)
        shutil.copytree(packed, folder)
        (folder / file).write_bytes(content)
        found = outcome(lambda folder=folder: read(folder), str(folder))
        if isinstance(found, UserError):
            continue
        # What is not refused is a name or a label that could as well be real, after which the split may differ.
        pictures = [sorted((sample, image) for sample, _, image in samples) for samples in (found, good)]
        assert pictures[0] == pictures[1], (file, name)


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_refused(lie, packed, tmp_path):
    folder = tmp_path / "packed"
    shutil.copytree(packed, folder)
    index = json.loads((folder / "index.json").read_text())
    LIES[lie](index)
    (folder / "index.json").write_text(json.dumps(index))
    refusal(lambda: read(folder), str(folder))
