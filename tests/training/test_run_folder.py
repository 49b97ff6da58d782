"""Files of a run: atomic, kept by rule, and read without trust."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from jepakit.errors import UserError
from jepakit.files import write_atomic, write_json
from jepakit.training.run_folder import RunFolder, step_of


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]
    write_json(path, {"name": "é"})
    assert "é" in path.read_text(encoding="utf-8")


def test_the_newest_few_and_the_best_are_kept(folder):
    def steps_after(saved, keep, best=None):
        for step in saved:
            folder.checkpoint(step).mkdir()
            folder.prune_checkpoints(keep, best)
        return [step_of(path) for path in folder.list_checkpoints()]

    assert steps_after(range(1, 7), keep=2) == [5, 6]
    assert steps_after(range(7, 12), keep=3, best=7) == [7, 9, 10, 11]
    assert steps_after([1_000_000_000], keep=1) == [1_000_000_000]  # longer than the padding
    (folder.checkpoints / ".step-00000012.writing").mkdir()
    assert len(folder.list_checkpoints()) == 1


def test_a_folder_with_a_run_is_refused_and_says_how_to_go_on(folder):
    folder.create()  # an empty folder is welcome
    folder.config.write_text("format: 1\n")
    with pytest.raises(UserError, match=r"already holds a run.*jepakit resume .*another --out"):
        folder.create()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"a.txt is a file"):
        RunFolder(tmp_path / "a.txt" / "run").check_free()
    with pytest.raises(UserError, match=r"a.txt is a file"):
        RunFolder(tmp_path / "a.txt").check_free()


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(UserError, match=r"may not be written to. Choose another --out"):
        RunFolder(tmp_path / "new" / "run").check_free()
    assert not (tmp_path / "new").exists()


def test_metrics_are_cut_by_step_and_survive_a_torn_line(folder):
    for step in range(5):
        folder.append_metrics({"kind": "train", "step": step, "loss": 0.1 + 0.2})
    with open(folder.metrics, "a") as handle:
        handle.write('{"step": 9, "lo')
    assert [line["step"] for line in folder.read_metrics()] == [0, 1, 2, 3, 4]
    folder.cut_metrics(2)
    assert [line["step"] for line in folder.read_metrics()] == [0, 1, 2]
    assert folder.read_metrics()[0]["loss"] == 0.1 + 0.2  # to the last bit
    folder.cut_metrics(-1)
    assert folder.read_metrics() == []


def test_a_run_has_one_writer_and_a_dead_one_frees_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    with folder.held(), pytest.raises(UserError, match="is being trained by another process"), RunFolder(folder.path).held():
        pass
    code = "import os, sys; from jepakit.training.run_folder import *; RunFolder(sys.argv[1]).held().__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(folder.path)]).returncode == 9
    with folder.held():
        pass


def test_a_run_with_checkpoints_of_the_first_format_is_not_begun_again(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    (folder.checkpoints / "step-00000100.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000100.pt is of an earlier checkpoint format.*--out NEW"):
        folder.list_checkpoints()
