"""Files of a run: atomic, kept by rule, and read without trust."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import pytest
import torch

from jepakit.errors import UserError
from jepakit.files import write_atomic, write_json
from jepakit.training.run_folder import RunFolder, step_of

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def save(folder, steps, keep=2, best=None):
    for step in steps:
        folder.save_checkpoint(step, {"step": step, "weights": torch.full((100,), float(step))}, keep, best)


def steps_kept(folder):
    return [step_of(path) for path in folder.list_checkpoints()]


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


def test_a_checkpoint_that_fails_leaves_the_one_before(folder, monkeypatch):
    save(folder, [5])

    def fail(state, path):
        path.write_bytes(b"PK half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="No space"):
            save(folder, [10])
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000005.pt"]
    assert folder.load_checkpoint(CPU)["step"] == 5


def test_the_newest_few_and_the_best_are_kept(folder):
    save(folder, range(1, 7), keep=2)
    assert steps_kept(folder) == [5, 6]
    save(folder, range(7, 12), keep=3, best=7)
    assert steps_kept(folder) == [7, 9, 10, 11]
    save(folder, [1_000_000_000], keep=1, best=None)  # longer than the padding
    assert folder.load_checkpoint(CPU)["step"] == 1_000_000_000


def test_no_checkpoint_is_none(folder):
    assert folder.load_checkpoint(CPU) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_checkpoint_names_itself_and_the_remedy(folder, share):
    save(folder, [5, 10])
    path = folder.list_checkpoints()[-1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    remedy = r"step-00000010.pt cannot be read .*Delete it to resume from the one before"
    with pytest.raises(UserError, match=remedy) as told:
        folder.load_checkpoint(CPU)
    assert "\n" not in str(told.value)
    path.unlink()
    assert folder.load_checkpoint(CPU)["step"] == 5


@pytest.mark.parametrize("content", [{"format": 99, "step": 1}, {"step": 1}, [1, 2]])
def test_another_format_is_refused_by_name(folder, content):
    torch.save(content, folder.checkpoints / "step-00000001.pt")
    with pytest.raises(UserError, match=r"step-00000001.pt: this jepakit reads checkpoint format 1, found"):
        folder.load_checkpoint(CPU)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_does_not_run(folder, tmp_path, legacy):
    marker = tmp_path / "it ran"
    path = folder.checkpoints / "step-00000001.pt"
    torch.save({"format": 1, "step": Malicious(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"step-00000001.pt cannot be read"):
        folder.load_checkpoint(CPU)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have
    assert marker.exists()


def test_a_plain_pickle_and_a_foreign_zip_are_refused(folder, tmp_path):
    path = folder.checkpoints / "step-00000001.pt"
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "ran"), protocol=2))
    with pytest.raises(UserError, match="cannot be read"):
        folder.load_checkpoint(CPU)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="cannot be read"):
        folder.load_checkpoint(CPU)
    assert not (tmp_path / "ran").exists()


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
