"""`embed`: one row an image, in the order of the data, told apart by the CSV beside it."""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import jepakit
from jepakit.cli import main
from jepakit.errors import UserError
from jepakit.interop.embedding import embed_batches


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle))


@pytest.fixture
def arrays(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (7, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "seven.npy", pixels)
    return pixels


def test_each_row_is_the_image_of_its_index(runs, tmp_path, arrays):
    found = jepakit.embed(runs["lejepa"], data=tmp_path / "seven.npy", out=tmp_path / "a" / "out.npy", batch_size=3)
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "out.npy"), found)
    assert (found.shape, found.dtype) == ((7, 128), np.float32)
    assert rows_of(tmp_path / "a" / "out.csv") == [["row", "index"], *([str(i), str(i)] for i in range(7))]
    model = jepakit.load(runs["lejepa"])
    images = model.inputs.normalise(torch.from_numpy(arrays)[:, None] / 255)
    np.testing.assert_allclose(found, model.embed(images).numpy(), rtol=1e-4, atol=1e-5)


def test_several_levels_stand_side_by_side(runs, tmp_path, arrays):
    options = {"data": tmp_path / "seven.npy", "batch_size": 3}
    last, both = (
        jepakit.embed(runs["i-jepa"], out=tmp_path / f"{len(some)}.npy", levels=some, **options) for some in ((4,), (1, 4))
    )
    np.testing.assert_allclose(last, jepakit.embed(runs["i-jepa"], out=tmp_path / "out.npy", **options), atol=1e-6)
    np.testing.assert_allclose(both[:, 128:], last, atol=1e-6)
    assert np.abs(both[:, :128] - last).max() > 0.1


def test_each_row_is_the_file_of_its_path(runs, tmp_path, arrays):
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    names = ["b.png", "deep/ü, 2.png", "a.png"]
    for name, pixels in zip(names, arrays, strict=False):
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    found = jepakit.embed(runs["lejepa"], data=tmp_path / "photos", out=tmp_path / "out.npy")
    header, *rows = rows_of(tmp_path / "out.csv")
    assert header == ["row", "path"]
    places = {path: int(row) for row, path in rows}
    assert places.keys() == {str(tmp_path / "photos" / name) for name in names}
    whole = jepakit.embed(runs["lejepa"], data=tmp_path / "seven.npy", out=tmp_path / "whole.npy")
    for number, name in enumerate(names):
        np.testing.assert_allclose(found[places[str(tmp_path / "photos" / name)]], whole[number], rtol=1e-4, atol=1e-5)


def test_one_image_is_enough(runs, tmp_path, arrays):
    (tmp_path / "one").mkdir()
    Image.fromarray(arrays[0]).save(tmp_path / "one" / "it.png")
    assert jepakit.embed(runs["i-jepa"], data=tmp_path / "one", out=tmp_path / "out.npy").shape == (1, 128)


def test_tokens_and_which(runs, tmp_path):
    data = tmp_path / "seven.npy"
    np.save(data, np.random.default_rng(1).integers(0, 255, (7, 8, 8), dtype=np.uint8))
    tokens = jepakit.embed(runs["i-jepa"], data=data, out=tmp_path / "t.npy", tokens=True)
    mean = jepakit.embed(runs["i-jepa"], data=data, out=tmp_path / "m.npy")
    assert tokens.shape == (7, 16, 128)
    np.testing.assert_allclose(tokens.mean(1), mean, atol=1e-5)
    for which in ("target", "encoder"):
        assert jepakit.embed(runs["i-jepa"], data=data, out=tmp_path / "w.npy", which=which).shape == (7, 128)
    with pytest.raises(UserError, match=r"which: 'taget' is not known. Did you mean 'target'"):
        jepakit.embed(runs["i-jepa"], data=data, out=tmp_path / "w.npy", which="taget")


def test_bad_files_are_an_error_or_left_out(runs, tmp_path, arrays, capsys):
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(arrays):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "3.png").write_text("no picture")
    with pytest.raises(UserError, match=r"(?s)3.png.*--on-bad-file skip"):
        jepakit.embed(runs["lejepa"], data=tmp_path / "photos", out=tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()
    found = jepakit.embed(runs["lejepa"], data=tmp_path / "photos", out=tmp_path / "out.npy", on_bad_file="skip")
    assert len(found) == 6
    assert "cannot be read: 1: " in capsys.readouterr().err
    assert not any("3.png" in path for _, path in rows_of(tmp_path / "out.csv"))


def test_the_ending_says_the_format(runs, tmp_path):
    with pytest.raises(UserError, match=r"written as .npy or .parquet. Use .*out.npy"):
        jepakit.embed(runs["lejepa"], data="digits", out=tmp_path / "out.csv")


def test_parquet_holds_the_same(runs, tmp_path, arrays):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(arrays):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    found = jepakit.embed(runs["lejepa"], data=tmp_path / "photos", out=tmp_path / "out.npy")
    again = jepakit.embed(runs["lejepa"], data=tmp_path / "photos", out=tmp_path / "out.parquet")
    np.testing.assert_array_equal(found, again)
    table = parquet.read_table(tmp_path / "out.parquet")
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), found)
    assert table["id"].to_pylist() == list(range(7))
    assert table["path"].to_pylist() == [path for _, path in rows_of(tmp_path / "out.csv")[1:]]


def test_workers_change_nothing(runs, tmp_path, arrays):
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(arrays):
        Image.fromarray(pixels).resize((20 + number, 31)).save(tmp_path / "photos" / f"{number}.jpg")
    for workers in (0, 1):
        jepakit.embed(
            runs["i-jepa"], data=tmp_path / "photos", out=tmp_path / f"{workers}.npy", batch_size=3, workers=workers
        )
    assert (tmp_path / "0.npy").read_bytes() == (tmp_path / "1.npy").read_bytes()


def test_workers_are_started_where_there_is_something_to_decode(runs, tmp_path, arrays, monkeypatch):
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(arrays):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    asked = []

    def spy(*given):
        asked.append(given[-1])
        return embed_batches(*given[:-1])

    monkeypatch.setattr("jepakit.verbs.embed.embed_batches", spy)
    monkeypatch.setattr("jepakit.verbs.embed.available_cores", lambda: 2)
    for data, batch_size in (("seven.npy", 3), ("photos", 3)):  # arrays; pictures that were decoded to check them
        jepakit.embed(runs["lejepa"], data=tmp_path / data, out=tmp_path / "out.npy", batch_size=batch_size)
    monkeypatch.setattr("jepakit.modalities.images.survey._CACHE_BYTES", 0)
    for batch_size in (1, 4, 7):
        jepakit.embed(runs["lejepa"], data=tmp_path / "photos", out=tmp_path / "out.npy", batch_size=batch_size)
    assert asked == [0, 0, 2, 1, 0]
    with pytest.raises(UserError, match="workers must be at least 0, got -1"):
        jepakit.embed(runs["lejepa"], data=tmp_path / "photos", out=tmp_path / "out.npy", workers=-1)


def test_what_was_begun_with_something_else_is_refused(runs, tmp_path, arrays, monkeypatch):
    class Killed(Exception):
        pass

    def die(self):
        raise Killed

    options = {"data": tmp_path / "seven.npy", "out": tmp_path / "out.npy", "batch_size": 3}
    with monkeypatch.context() as patched:
        patched.setattr("jepakit.interop.embedding_files.EmbeddingFile.finish", die)
        with pytest.raises(Killed):
            jepakit.embed(runs["lejepa"], **options)
    np.save(tmp_path / "other.npy", arrays[::-1])
    for changed, words in (
        ({"model": runs["i-jepa"]}, "another model"),
        ({"data": tmp_path / "other.npy"}, "another data"),
        ({"batch_size": 4}, "another batch_size 3, now 4"),
        ({"tokens": True}, "another tokens False, now True"),
    ):
        with pytest.raises(UserError, match=words):
            jepakit.embed(**{"model": runs["lejepa"], **options, **changed})
    assert len(jepakit.embed(runs["lejepa"], **options)) == 7
    assert not list(tmp_path.glob("out.npy.part*"))


# A server that has imported everything forks the processes to be killed, so that they start in no time.
SERVER = multiprocessing.get_context("forkserver")


def command(words, log):
    with open(log, "ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    sys.exit(main(words))


def start(words, log):
    SERVER.set_forkserver_preload(["jepakit.verbs.embed", "jepakit.cli"])
    process = SERVER.Process(target=command, args=([str(word) for word in words], log))
    process.start()
    return process


def kill_after(process, part, size, chance):
    """Wait until so many bytes are written, and a moment more: anywhere in a batch or in a write."""
    while process.is_alive():
        if part.exists() and part.stat().st_size >= size:
            time.sleep(chance.uniform(0, 0.01))
            process.kill()
        time.sleep(0.001)
    process.join()


@pytest.mark.parametrize(
    ("kills", "ending", "workers"),
    [
        (1, "npy", 0),
        pytest.param(10, "npy", 0, marks=pytest.mark.slow),
        pytest.param(10, "parquet", 0, marks=pytest.mark.slow),
        pytest.param(3, "npy", 2, marks=pytest.mark.slow),
    ],
)
def test_kills_leave_no_trace(runs, tmp_path, kills, ending, workers):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    whole, broken, log = tmp_path / f"whole.{ending}", tmp_path / f"broken.{ending}", tmp_path / "log"
    expected = jepakit.embed(runs["lejepa"], data="digits", out=whole, batch_size=8)
    words = ["embed", runs["lejepa"], "--data", "digits", "--out", broken, "--batch-size", "8", "--workers", workers]
    chance = random.Random(f"{kills} {ending} {workers}")
    process = start(words, log)
    for size in sorted(chance.sample(range(expected.nbytes * 9 // 10), kills)):
        kill_after(process, tmp_path / f"broken.{ending}.part", size, chance)
        assert process.exitcode == -9, log.read_text()[-5000:]
        assert not broken.exists()
        process = start(words, log)
    process.join()
    assert process.exitcode == 0, log.read_text()[-5000:]
    assert broken.read_bytes() == whole.read_bytes()
    # One that was killed again at once, for so much was there already, did not come to say it.
    assert 0 < log.read_text().count("Going on after") <= kills
    assert {path.stem for path in tmp_path.iterdir()} == {"whole", "broken", "log"}, list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(runs, tmp_path, arrays, capsys):
    (tmp_path / "file").write_text("")
    words = ["embed", runs["lejepa"], "--data", tmp_path / "seven.npy", "--out", tmp_path / "file" / "a.npy"]
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jepakit: ")
    assert str(tmp_path / "file") in said
    assert said.count("\n") == 1


def test_an_export_embeds_as_its_run(runs, tmp_path, arrays):
    jepakit.export(runs["i-jepa"], out=tmp_path / "exported")
    data = tmp_path / "seven.npy"
    one, other = (jepakit.embed(m, data=data, out=tmp_path / "o.npy") for m in (runs["i-jepa"], tmp_path / "exported"))
    np.testing.assert_array_equal(one, other)
