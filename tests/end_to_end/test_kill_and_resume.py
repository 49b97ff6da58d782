"""`kill -9` at random moments, ten times over, then `resume`: the run is the one that was never killed, bit for bit."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jepakit.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

KILLS = 10
STEPS = 330
COMMON = (
    f"--data digits --limit 200 --labels none --steps {STEPS} --batch-size 16 --log-every 3 --checkpoint-every 7 "
    "--health-every 20 --health-samples 16 --lidar-views 2 --keep-best rankme --threads 1"
)
MODELS = {
    "i-jepa": "--patch-size 2 --predictor-dim 32 --predictor-depth 1 --masks.targets 2",
    "lejepa": "--augment.views 2 --sigreg.slices 16",
}


def start(words: list[str], log: Path) -> subprocess.Popen:
    with open(log, "ab") as handle:
        return subprocess.Popen([sys.executable, "-m", "jepakit", *words], stdout=handle, stderr=handle)


def kill_at_random(process: subprocess.Popen, folder: RunFolder, steps: int, chance: random.Random) -> None:
    """Wait until the run wrote a line of a step past `steps`, and a moment more: anywhere in a step or in a write."""
    while process.poll() is None:
        lines = folder.read_metrics()
        if lines and lines[-1]["step"] >= steps:
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
        time.sleep(0.002)
    process.wait()


def untimed(folder: RunFolder) -> list[dict]:
    return [{n: v for n, v in line.items() if not n.startswith("time/")} for line in folder.read_metrics()]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("system", MODELS)
def test_ten_kills_leave_no_trace(tmp_path, system, workers):
    words = ["pretrain", system, *COMMON.split(), *MODELS[system].split()]
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    log = tmp_path / "log"
    assert start([*words, "--out", str(whole.path), "--workers", "0"], log).wait() == 0, log.read_text()
    chance = random.Random(f"{system} {workers}")
    places = sorted(chance.sample(range(STEPS - 20), KILLS))
    words = ["pretrain", "--config", str(whole.config), "--out", str(broken.path), "--workers", str(workers)]
    process = start(words, log)
    killed = []
    for place in places:
        kill_at_random(process, broken, place, chance)
        assert process.returncode == -9, log.read_text()
        killed.append(broken.read_metrics()[-1]["step"])
        process = start(["resume", str(broken.path)], log)
    assert process.wait() == 0, log.read_text()
    assert len(killed) == KILLS
    assert killed[-1] < STEPS
    assert untimed(broken) == untimed(whole)
    steps = [(line["kind"], line["step"]) for line in untimed(broken)]
    assert len(steps) == len(set(steps))
    assert broken.model.read_bytes() == whole.model.read_bytes()
    assert [p.name for p in broken.list_checkpoints()] == [p.name for p in whole.list_checkpoints()]
    assert not list(broken.path.rglob("*.writing"))
    if not workers:  # a worker whose parent was killed may say that the pipe broke
        assert "Traceback" not in log.read_text()
