"""Rows appended until a process is killed, gone on with by the next, and the files that come of it."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.interop.embedding_files import EmbeddingFile

ROWS = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
ORIGIN = {"model": "a", "batch_size": 4}


def a_file(out, rows=ROWS, paths=None, origin=ORIGIN):
    return EmbeddingFile(out, np.arange(len(rows)) + 100, paths, origin)


def write(out, rows=ROWS, until=None, **options):
    """Append the rows from where the file stands, four at a time; stop (as if killed) at `until`."""
    with a_file(out, rows, **options).opened() as file:
        for start in range(file.done, len(rows) if until is None else until, 4):
            file.append(rows[start : start + 4])
        return file.finish() if until is None else None


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_array_is_what_was_appended(tmp_path):
    found = write(tmp_path / "deep" / "a.npy")
    np.testing.assert_array_equal(found, ROWS)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    np.testing.assert_array_equal(np.load(tmp_path / "deep" / "a.npy"), ROWS)
    assert names_in(tmp_path / "deep") == ["a.csv", "a.npy"]
    np.save(tmp_path / "same.npy", ROWS)
    assert (tmp_path / "same.npy").read_bytes() == (tmp_path / "deep" / "a.npy").read_bytes()


def test_progress_is_saved_in_between(tmp_path, monkeypatch):
    with a_file(tmp_path / "a.npy").opened() as file:
        state = tmp_path / "a.npy.part.json"
        for start, every, saved in ((0, 1e9, 4), (4, 1e9, 4), (8, 0, 10)):  # the first batch always
            monkeypatch.setattr("jepakit.interop.embedding_files.SAVE_EVERY", every)
            file.append(ROWS[start : start + 4])
            assert json.loads(state.read_text())["done"] == saved
        file.finish()


@pytest.mark.parametrize("ending", ["npy", "parquet"])
@pytest.mark.parametrize("until", [4, 8, 10])
def test_what_was_cut_short_goes_on(tmp_path, ending, until):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    whole, broken = tmp_path / f"whole.{ending}", tmp_path / f"broken.{ending}"
    write(whole)
    write(broken, until=until)
    part = tmp_path / f"broken.{ending}.part"
    part.write_bytes(part.read_bytes() + b"half a row")  # appended, but not counted yet
    assert not broken.exists()
    with a_file(broken).opened() as file:
        assert file.done == until
    write(broken)
    assert broken.read_bytes() == whole.read_bytes()
    assert not [name for name in names_in(tmp_path) if "part" in name]


def test_what_is_there_already_can_be_read_with_its_ids(tmp_path):
    write(tmp_path / "a.npy", until=4, paths=list("abcdefghij"))
    raw = np.fromfile(tmp_path / "a.npy.part", "<f4", offset=128).reshape(-1, 3)
    np.testing.assert_array_equal(raw, ROWS[:4])
    with open(tmp_path / "a.npy.part.csv", newline="") as handle:
        assert list(csv.reader(handle))[:3] == [["row", "path"], ["0", "a"], ["1", "b"]]


def test_another_origin_is_refused_with_what_differs(tmp_path):
    write(tmp_path / "a.npy", until=4)
    with pytest.raises(UserError, match=r"(?s)begun with another model a, now b; batch_size 4, now 8\. .*another --out"):
        write(tmp_path / "a.npy", origin={"model": "b", "batch_size": 8})
    (tmp_path / "a.npy.part.json").unlink()
    np.testing.assert_array_equal(write(tmp_path / "a.npy", -ROWS, origin={"model": "b"}), -ROWS)


def test_what_cannot_be_gone_on_with_is_said(tmp_path):
    write(tmp_path / "a.npy", until=8)
    part, state = tmp_path / "a.npy.part", tmp_path / "a.npy.part.json"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shorter than .*Delete both"):
        write(tmp_path / "a.npy")
    state.write_text("[]")
    with pytest.raises(UserError, match=r"json cannot be read. Delete it"):
        write(tmp_path / "a.npy")
    state.write_text(json.dumps({"format": 0, "done": 4, "shape": [3], "origin": ORIGIN}))
    with pytest.raises(UserError, match="another format"):
        write(tmp_path / "a.npy")


def test_one_writer_at_a_time(tmp_path):
    with (
        a_file(tmp_path / "a.npy").opened(),
        pytest.raises(UserError, match="being written by another process"),
        a_file(tmp_path / "a.npy").opened(),
    ):
        pass


def test_a_finished_file_is_replaced_only_by_a_whole_one(tmp_path):
    write(tmp_path / "a.npy")
    write(tmp_path / "a.npy", -ROWS, until=4)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), ROWS)
    write(tmp_path / "a.npy", -ROWS)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), -ROWS)


def test_rows_of_another_shape_are_refused(tmp_path):
    with a_file(tmp_path / "a.npy").opened() as file:
        file.append(ROWS[:4])
        with pytest.raises(UserError, match=r"\[3\] came some of \[2\].*--tokens"):
            file.append(ROWS[4:8, :2])


@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_parquet_has_ids_paths_and_lists_of_one_size(tmp_path, shape, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("jepakit.interop.embedding_files.ROW_GROUP_BYTES", 3 * 4 * int(np.prod(shape)))
    rows = np.random.default_rng(1).normal(size=(10, *shape)).astype(np.float32)
    found = write(tmp_path / "a.parquet", rows, paths=[f"ü {i}.png" for i in range(10)])
    np.testing.assert_array_equal(found, rows)
    assert names_in(tmp_path) == ["a.parquet"]
    read = parquet.ParquetFile(tmp_path / "a.parquet")
    assert read.metadata.num_row_groups == 4
    table = read.read()
    assert table.column_names == ["id", "path", "embedding"]
    assert table["id"].to_pylist() == list(range(100, 110))
    assert table["path"].to_pylist() == [f"ü {i}.png" for i in range(10)]
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), rows)
    assert table.schema.field("embedding").type.list_size == shape[0]
    write(tmp_path / "b.parquet", rows)
    assert parquet.read_table(tmp_path / "b.parquet")["path"].null_count == 10


def test_file_names_that_are_no_text(tmp_path):
    paths = ["a\udcff.png", *"bcdefghij"]
    write(tmp_path / "a.npy", paths=paths)
    assert b"a\xff.png" in (tmp_path / "a.csv").read_bytes()
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match=r"a\\udcff.png.*no UTF-8.*\.npy"):
        a_file(tmp_path / "a.parquet", paths=paths)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pyarrow.*jepakit\[parquet\]"):
        a_file(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"written as .npy or .parquet. Use .*a.npy"):
        a_file(tmp_path / "a.txt")
