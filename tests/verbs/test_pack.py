"""`pack`: what is trained from shards is what is trained from the folder, and a killed packing goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jepakit
from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.verbs.pack import shard_bytes
from tests.modalities.photographs import make_photographs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("photographs"), per_class=12)


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("shards")
    return {
        encoding: jepakit.pack(photographs, place / encoding, encoding=encoding, on_bad_file="skip", shard_size="20kB")
        for encoding in ("pixels", "files")
    }


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def test_what_is_read_from_shards_is_what_is_read_from_the_folder(photographs, shards):
    folder = open_images(ImageDataConfig(data=str(photographs), on_bad_file="skip"), 0)
    for packed in shards.values():
        found = open_images(ImageDataConfig(data=str(packed)), 0)
        assert (found.mean, found.std, found.classes, found.task) == (folder.mean, folder.std, folder.classes, folder.task)
        assert (found.config.image_size, found.config.channels) == (folder.config.image_size, folder.config.channels)
        assert [Path(bad.path).name for bad in found.bad_files] == [Path(bad.path).name for bad in folder.bad_files]
        for part, other in ((found.train, folder.train), (found.test, folder.test)):
            assert part.ids.tolist() == other.ids.tolist()
            assert part.labels.tolist() == other.labels.tolist()
            assert [str(photographs / path) for path in part.paths] == other.paths
            samples = [(part[i]["image"], other[i]["image"]) for i in range(len(part))]
            assert all(one.dtype == two.dtype and one.equal(two) for one, two in samples)


@pytest.mark.slow
def test_training_from_shards_is_training_from_the_folder(photographs, shards, tmp_path):
    options = {"steps": 3, "batch_size": 8, "threads": 1, "workers": 0}
    jepakit.pretrain("lejepa", data=photographs, on_bad_file="skip", out=tmp_path / "folder", **options)
    expected = metrics(tmp_path / "folder")
    for encoding, packed in shards.items():
        jepakit.pretrain("lejepa", data=packed, out=tmp_path / encoding, **options)
        assert metrics(tmp_path / encoding) == expected


def test_a_folder_that_is_not_empty_or_finished_is_refused(photographs, shards, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        jepakit.pack(photographs, tmp_path, on_bad_file="skip")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="finished packing"):
        jepakit.pack(photographs, shards["pixels"], on_bad_file="skip")


def test_bad_files_stop_it_by_name_before_anything_is_written(photographs, tmp_path):
    with pytest.raises(UserError, match=r"(?s)torn\.jpg.*--on-bad-file skip"):
        jepakit.pack(photographs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arrays_have_no_files(tmp_path):
    with pytest.raises(UserError, match="are arrays, not files"):
        jepakit.pack("digits", tmp_path / "out", encoding="files")
    assert not (tmp_path / "out").exists()
    packed = open_images(ImageDataConfig(data=str(jepakit.pack("digits", tmp_path / "out"))), 0)
    arrays = open_images(ImageDataConfig(data="digits"), 0)
    assert np.array_equal(packed.train.ids, arrays.train.ids)
    assert all(np.array_equal(packed.train[i]["image"], arrays.train[i]["image"]) for i in range(50))
    assert packed.train.labels.tolist() == arrays.train.labels.tolist()


@pytest.mark.parametrize("size", ["", "5", "0MB", "-1MB", "1TB", "MB"])
def test_sizes_that_are_none(size):
    with pytest.raises(UserError, match="shard_size"):
        shard_bytes(size)
    assert (shard_bytes("512MB"), shard_bytes("1.5 gb"), shard_bytes("20kB")) == (512_000_000, 1_500_000_000, 20_000)


def test_a_killed_packing_goes_on(tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "big.npy", generator.integers(0, 255, (3_000, 40, 40), dtype=np.uint8))
    command = [sys.executable, "-m", "jepakit", "pack", "big.npy", "out", "--shard-size", "100kB"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    work = tmp_path / "out" / ".packing"
    deadline = time.monotonic() + 120
    while len(list(work.glob("*.npy"))) < 3 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    if not (tmp_path / "out" / "index.json").exists():  # it may have been quicker than the signal
        done = {file.name: file.stat().st_mtime_ns for file in work.glob("*.npy")}
        assert len(done) >= 3
        with pytest.raises(UserError, match="was not finished"):
            open_images(ImageDataConfig(data=str(tmp_path / "out")), 0)
        with pytest.raises(UserError, match="differs in per_shard"):
            jepakit.pack(tmp_path / "big.npy", tmp_path / "out", shard_size="50kB")
        kept = {name.removesuffix(".npy"): (tmp_path / "out" / name.removesuffix(".npy")).stat().st_mtime_ns for name in done}
        jepakit.pack(tmp_path / "big.npy", tmp_path / "out", shard_size="100kB")
        assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept
    packed = open_images(ImageDataConfig(data=str(tmp_path / "out")), 0)
    whole = np.load(tmp_path / "big.npy")
    assert all(np.array_equal(packed.train.pictures.read(i)[0], whole[i]) for i in range(0, 3_000, 7))
    assert not (tmp_path / "out" / ".packing").exists()
