"""`kill -9` at random moments, then `resume`: the run is the one that was never killed, bit for bit. Every system."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from jepakit.training.run_folder import RunFolder
from tiny_systems import TINY, untimed, words_of

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

OFTEN = {"lejepa": 10}  # kills; others 2, and all of them 1 with workers, which take seconds to start
STEPS_A_KILL = 12
OPTIONS = {"log_every": 3, "checkpoint_every": 7, "keep_checkpoints": 2, "health_every": 12, "precision": "float32"}

# A server that has imported everything forks the runs, so that they start in no time.
SERVER = multiprocessing.get_context("forkserver")


def command(words: list[str], log: Path) -> None:
    with open(log, "ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    from jepakit.cli import main

    sys.exit(main(words))


def start(words: list[str], log: Path) -> BaseProcess:
    SERVER.set_forkserver_preload(["jepakit.verbs.pretrain", "torch.distributed.checkpoint"])
    process = SERVER.Process(target=command, args=(words, log))
    process.start()
    return process


def finish(process: BaseProcess, log: Path) -> None:
    process.join()
    assert process.exitcode == 0, log.read_text()[-5000:]


def kill_at_random(process: BaseProcess, folder: RunFolder, steps: int, chance: random.Random) -> None:
    """Wait until the run wrote a line of a step past `steps`, and a moment more: anywhere in a step or in a write."""
    while process.is_alive():
        lines = folder.read_metrics()
        if lines and lines[-1]["step"] >= steps:
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
        time.sleep(0.002)
    process.join()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", TINY)
def test_kills_leave_no_trace(place: Path, name: str, workers: int) -> None:
    kills = OFTEN.get(name, 2) if workers == 0 else 1
    steps = STEPS_A_KILL * (kills + 1)
    whole, broken = RunFolder(place / f"{name} {steps}"), RunFolder(place / f"{name} {workers} broken")
    log = place / f"{name} {workers}.log"
    options = {**OPTIONS, "steps": steps} | ({"labels": "none"} if TINY[name]["data"] == "digits" else {})  # no evaluation
    if not whole.path.exists():
        finish(start(words_of(name, whole.path, **options), log), log)
    chance = random.Random(f"{name} {workers}")
    places = sorted(chance.sample(range(steps - 8), kills))
    words = ["pretrain", "--config", str(whole.config), "--out", str(broken.path), "--workers", str(workers)]
    process = start(words, log)
    for step in places:
        kill_at_random(process, broken, step, chance)
        assert process.exitcode == -9, log.read_text()[-5000:]
        process = start(["resume", str(broken.path)], log)
    finish(process, log)
    assert untimed(broken) == untimed(whole)
    lines = [(line["kind"], line["step"]) for line in untimed(broken)]
    assert len(lines) == len(set(lines))
    assert broken.model.read_bytes() == whole.model.read_bytes()
    assert [p.name for p in broken.list_checkpoints()] == [p.name for p in whole.list_checkpoints()]
    assert not list(broken.path.rglob("*.writing"))
    if not workers:  # a worker whose parent was killed may say that the pipe broke
        assert "Traceback" not in log.read_text()
