"""What befalls a run from outside ends it with a message that says what, what is kept and what to do; resuming then makes the
run that nothing befell."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jepakit.cli import main
from jepakit.modalities.images import survey as image_survey
from jepakit.training import loop
from jepakit.training.run_folder import RunFolder
from tests.modalities.photographs import make_photographs
from tests.tiny_systems import untimed, words_of

OPTIONS = {"steps": 9, "log_every": 1, "checkpoint_every": 3, "health_every": 4, "precision": "float32", "labels": "none"}
NAME = "lejepa"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    assert main(words_of(NAME, folder.path, **OPTIONS)) == 0
    return folder


def same_run(run: RunFolder, whole: RunFolder) -> None:
    assert untimed(run) == untimed(whole)
    assert run.model.read_bytes() == whole.model.read_bytes()
    assert run.report.exists()
    assert not list(run.path.rglob("*.writing"))


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The message that ended the command; the only one."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jepakit: ")]
    assert len(lines) == 1
    return lines[0]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Something happens when the run has written its metrics line of a step."""
    log = loop.Trainer.log

    def logged(self: loop.Trainer, values: dict) -> None:
        log(self, values)
        if self.step == step:
            act()

    monkeypatch.setattr(loop.Trainer, "log", logged)


@pytest.mark.parametrize("flush", [pytest.param(n, marks=[pytest.mark.slow] * (n not in (0, 5, 9))) for n in range(12)])
def test_a_disk_that_is_full_at_any_flush(tmp_path, capsys, monkeypatch, whole, flush) -> None:
    """Every file is flushed before it counts; each flush in turn finds the disk full."""
    run, done, real = RunFolder(tmp_path / "run"), [], os.fsync

    def full(number: int) -> None:
        done.append(number)
        if len(done) > flush:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(os, "fsync", full)
    status = main(words_of(NAME, run.path, **OPTIONS))
    monkeypatch.undo()
    message = told(capsys)
    assert status == 2
    assert "No space left on device" in message
    if run.config.exists():
        kept = run.list_checkpoints()
        assert (f"is kept: {kept[-1]}" if kept else "No checkpoint had been written yet") in message
        assert message.endswith(f"Free some space, then continue with: jepakit resume {run.path}")
        assert main(["resume", str(run.path)]) == 0
    else:
        assert main(words_of(NAME, run.path, **OPTIONS)) == 0
    same_run(run, whole)


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, 16 MB large."""
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` command")
    (tmp_path / "disk").mkdir()
    mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path / "disk"))
    try:
        yield tmp_path / "disk"
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize("share", [0.02, pytest.param(0.5, marks=pytest.mark.slow), 0.9])
def test_a_disk_that_is_really_full(disk, capsys, monkeypatch, whole, share) -> None:
    """Filled during the run, up to a share of what a checkpoint needs."""
    run, filler = RunFolder(disk / "run"), disk / "filler"
    needed = sum(path.stat().st_size for path in whole.list_checkpoints()[-1].iterdir())

    def fill() -> None:
        left = shutil.disk_usage(disk).free - int(share * needed)
        filler.write_bytes(b"x" * left)

    at_step(monkeypatch, 4, fill)
    assert main(words_of(NAME, run.path, **OPTIONS)) == 2
    monkeypatch.undo()
    message = told(capsys)
    assert "No space left on device" in message
    assert f"is kept: {run.checkpoint(3)}. Free some space" in message
    filler.unlink()
    assert main(["resume", str(run.path)]) == 0
    same_run(run, whole)


def test_a_disk_that_is_read_only(disk, capsys, monkeypatch, whole) -> None:
    run = RunFolder(disk / "run")

    def read_only() -> None:  # a disk cannot be made so while a file is open for writing
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(run.metrics))

    at_step(monkeypatch, 4, read_only)
    assert main(words_of(NAME, run.path, **OPTIONS)) == 2
    monkeypatch.undo()
    kept = f"Read-only file system. The last good state is kept: {run.checkpoint(3)}. Make the disk writable, then"
    assert f"{run.metrics} cannot be written or read: {kept}" in told(capsys)
    mount("-o", "remount,ro", str(disk))
    assert main(["resume", str(run.path)]) == 2
    assert kept in told(capsys)
    assert main(words_of(NAME, disk / "other", **OPTIONS)) == 2
    assert re.search(r"disk may not be written to. Choose another --out", told(capsys))
    mount("-o", "remount,rw", str(disk))
    assert main(["resume", str(run.path)]) == 0
    same_run(run, whole)


@pytest.mark.parametrize("what", ["checkpoints", "run"])
def test_a_folder_removed_under_the_run(tmp_path, capsys, monkeypatch, whole, what) -> None:
    run = RunFolder(tmp_path / "run")
    at_step(monkeypatch, 4, lambda: shutil.rmtree(run.checkpoints if what == "checkpoints" else run.path))
    assert main(words_of(NAME, run.path, **OPTIONS)) == 2
    monkeypatch.undo()
    message = told(capsys)
    assert "was removed while the run used it" in message
    if what == "run":
        assert message.endswith("Nothing is left of the run: start it again.")
        assert main(words_of(NAME, run.path, **OPTIONS)) == 0
    else:
        assert f"No checkpoint had been written yet. Continue with: jepakit resume {run.path}" in message
        assert main(["resume", str(run.path)]) == 0
    same_run(run, whole)


PHOTOS = {**OPTIONS, "limit": None, "image_size": [16, 16], "on_bad_file": "skip"}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("harm", ["vanishes", "is cut short"])
def test_a_picture_that_is_harmed_during_the_run(tmp_path, capsys, monkeypatch, workers, harm) -> None:
    photos = tmp_path / "photos"
    make_photographs(photos, per_class=12)
    shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copy2)
    options = {**PHOTOS, "data": str(photos), "workers": workers}
    run = RunFolder(tmp_path / "run")

    def harmed() -> None:
        for path in (path for path in photos.rglob("*") if path.is_file()):
            path.unlink() if harm == "vanishes" else path.write_bytes(path.read_bytes()[:100])

    if workers:  # which keep small pictures in memory: harmed before they have read all
        watch = loop.Trainer.watch
        monkeypatch.setattr(loop.Trainer, "watch", lambda self: (watch(self), harmed() if self.step == 0 else None))
    else:
        monkeypatch.setattr(image_survey, "_CACHE_BYTES", 0)
        at_step(monkeypatch, 4, harmed)
    assert main(words_of(NAME, run.path, **options)) == 2
    monkeypatch.undo()
    message = told(capsys)
    assert re.search(r"photos\S* cannot be read as an image: ", message), message
    assert "Traceback" not in message
    assert ("No checkpoint had been written yet" if workers else f"is kept: {run.checkpoint(3)}") in message
    assert message.endswith(f"Mend the data, then continue with: jepakit resume {run.path}")
    shutil.rmtree(photos)
    shutil.copytree(tmp_path / "copy", photos, copy_function=shutil.copy2)
    assert main(["resume", str(run.path)]) == 0
    if workers == 0:
        assert main(words_of(NAME, tmp_path / "again", **options)) == 0
        assert untimed(run) == untimed(RunFolder(tmp_path / "again"))


def children() -> list[int]:
    """Worker processes of this one."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text, words = status.read_text(), (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{os.getpid()}\n" in text and b"spawn_main" in words:
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds the workers in /proc")
def test_a_worker_that_is_killed(tmp_path, capsys, monkeypatch, whole) -> None:
    run = RunFolder(tmp_path / "run")
    at_step(monkeypatch, 4, lambda: [os.kill(number, signal.SIGKILL) for number in children()])
    assert main(words_of(NAME, run.path, **{**OPTIONS, "workers": 2})) == 2
    monkeypatch.undo()
    message = told(capsys)
    assert re.search(r"A worker that loads data died \(process \d+", message)
    assert f"is kept: {run.checkpoint(3)}. Where memory is short, lower workers (now 2) in {run.config}" in message
    assert main(["resume", str(run.path)]) == 0
    same_run(run, whole)
