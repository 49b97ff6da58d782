"""Stopping: once is polite, twice is at once, and the data workers are no victims."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from jepakit.training.run_folder import RunFolder
from jepakit.training.signals import Signals
from tests.training.tiny_runs import tiny_words, untimed

STEPS = 150  # of a run that gets a signal: it lasts longer than the signal takes to come


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_the_handlers_come_back(number):
    before, said = signal.getsignal(number), []
    with Signals(said.append) as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert signal.getsignal(number) is before
    assert said == ["Finishing this step and saving (once more to stop at once) ..."]


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_the_second_signal_stops_at_once(number, raised):
    before = signal.getsignal(number)
    signals = Signals(lambda text: None)
    with signals:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(raised) as stopped:
            os.kill(os.getpid(), number)
    if raised is SystemExit:
        assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(number) is before


def start(words):
    return subprocess.Popen(
        [sys.executable, "-m", "jepakit", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def lines_of(folder):
    return len(folder.read_metrics())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("early", [True, False])
def test_a_signal_to_the_whole_process_group_leaves_a_run_to_resume(tmp_path, number, early):
    """As Ctrl-C at a terminal, `timeout` and schedulers do: the workers get it too, some while still importing."""
    options = {"labels": "none", "steps": STEPS, "health_every": STEPS, "checkpoint_every": STEPS, "workers": 2}
    folder = RunFolder(tmp_path / "run")
    process = start(tiny_words("lejepa", folder.path, **options))
    try:
        while lines_of(folder) < (1 if early else 10):  # the line of step 0 comes just as the workers start
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(random.Random(number).uniform(0, 0.3))
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert f"Continue with: jepakit resume {folder.path}" in said
    [checkpoint] = folder.list_checkpoints()
    assert f"Saved at step {int(checkpoint.stem[5:])}." in said
    resumed = start(["resume", str(folder.path)])
    _, said = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    steps = [line["step"] for line in untimed(folder.read_metrics()) if line["kind"] == "train"]
    assert steps == list(range(3, STEPS + 1, 3))
    assert json.loads(folder.environment.read_text())["wall_s"] > 0
