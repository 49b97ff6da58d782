"""`kill -9` at random moments, then `resume`: the run is the one that was never killed, bit for bit. Every system.

`JEPAKIT_KILLS=50 JEPAKIT_KILL_SEED=7 pytest -m slow tests/end_to_end/test_kill_and_resume.py`: 50 other moments.
"""

from __future__ import annotations

import os
import random
from functools import cache
from pathlib import Path

import pytest

from jepakit.training.run_folder import RunFolder
from tests.kills import Moment, after, finish, kill
from tests.tiny_systems import TINY, untimed, words_of

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

KILLS = int(os.environ.get("JEPAKIT_KILLS", "10"))
SEED = os.environ.get("JEPAKIT_KILL_SEED", "0")
MOMENTS = ("in a step", "in a checkpoint write", "at an epoch boundary", "at any time")
STEPS = 14
OPTIONS = {
    "steps": STEPS, "log_every": 1, "checkpoint_every": 3, "keep_checkpoints": 2, "health_every": 6, "precision": "float32",
}  # fmt: skip

# What a run is worth is not measured at its end: it takes longer than the run, and is no part of what a kill may change.
UNMEASURED = {name: {"test_fraction": 0.0} for name in ("pendulum", "pendulum-pixels", "regex")}


def planned() -> dict[tuple[str, int], list[str]]:
    """The moments of each run, which is a system with 0 or 2 workers: every system gets some, each number half of them."""
    chance = random.Random(SEED)
    names = chance.sample(list(TINY), len(TINY))
    runs = [(name, 2 * (number % 2)) for number, name in enumerate(names)]
    if 2 * len(runs) <= KILLS:
        runs += [(name, 2 - workers) for name, workers in runs]
    plan: dict[tuple[str, int], list[str]] = {}
    kinds = [MOMENTS[number % len(MOMENTS)] for number in range(KILLS)]
    for number, kind in enumerate(chance.sample(kinds, KILLS)):
        plan.setdefault(runs[number % len(runs)], []).append(kind)
    return plan


@cache
def uninterrupted(place: Path, name: str) -> tuple[RunFolder, float]:
    """The run of a system that nobody kills, and its seconds."""
    options = OPTIONS | UNMEASURED.get(TINY[name]["data"], {"labels": "none"})
    whole = RunFolder(place / name)
    return whole, finish(words_of(name, whole.path, **options), place / f"{name}.log")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


def reached(folder: RunFolder, step: int) -> Moment:
    """A metrics line of this step has been written since the command began."""
    before = folder.metrics.stat().st_mtime_ns if folder.metrics.exists() else 0

    def moment() -> bool:
        if not folder.metrics.exists() or folder.metrics.stat().st_mtime_ns == before:
            return False
        lines = folder.read_metrics()
        return bool(lines) and lines[-1]["step"] >= step

    return moment


def writes(folder: RunFolder, step: int) -> Moment:
    """A checkpoint of this step or a later one is being written."""
    return lambda: any(int(path.name.split("-")[1][:8]) >= step for path in folder.checkpoints.glob(".step-*.writing"))


def last_steps_of_epochs(folder: RunFolder) -> list[int]:
    """Steps after which the data begins anew."""
    epochs = [line["epoch"] for line in untimed(folder) if line["kind"] == "train"]
    return [step for step in range(1, len(epochs)) if int(epochs[step - 1]) != int(epochs[step])]


@pytest.mark.parametrize(("run", "moments"), planned().items(), ids=lambda part: "-".join(map(str, part)))
def test_kills_leave_no_trace(place: Path, run: tuple[str, int], moments: list[str]) -> None:
    name, workers = run
    whole, seconds = uninterrupted(place, name)
    broken, log = RunFolder(place / f"{name} {workers} broken"), place / f"{name} {workers}.log"
    chance = random.Random(f"{SEED} {name} {workers}")
    begin = ["pretrain", "--config", str(whole.config), "--out", str(broken.path), "--workers", str(workers)]
    killed = 0
    for number, kind in enumerate(moments):
        words = ["resume", str(broken.path)] if broken.config.exists() else begin
        earliest, end = (STEPS * n // len(moments) for n in (number, number + 1))  # every kill has a part of the run
        if kind == "in a checkpoint write":
            moment, delay = writes(broken, earliest), chance.uniform(0, 0.04)
        elif kind == "at an epoch boundary":
            ends = last_steps_of_epochs(whole)
            step = next((step for step in ends if step >= earliest), ends[-1])
            moment, delay = reached(broken, step), chance.uniform(0, 0.02)
        elif kind == "in a step":
            moment, delay = reached(broken, chance.randint(earliest, end - 2)), chance.uniform(0, 0.05)
        else:
            moment, delay = after(chance.uniform(0, seconds)), 0.0
        killed += kill(words, moment, delay, log)
    assert killed or "at any time" in moments
    finish(["resume", str(broken.path)] if broken.config.exists() else begin, log)
    assert untimed(broken) == untimed(whole)
    lines = [(line["kind"], line["step"]) for line in untimed(broken)]
    assert len(lines) == len(set(lines))
    assert broken.model.read_bytes() == whole.model.read_bytes()
    assert broken.report.exists()
    assert [p.name for p in broken.list_checkpoints()] == [p.name for p in whole.list_checkpoints()]
    assert not list(broken.path.rglob("*.writing"))
    if not workers:  # a worker whose parent was killed may say that the pipe broke
        assert "Traceback" not in log.read_text()
