"""Metrics go to other programs as they go to metrics.jsonl."""

from __future__ import annotations

import contextlib
import importlib
import types

import pytest

from jepakit.config import default_config
from jepakit.errors import UserError
from jepakit.training.loggers import numbers, open_loggers
from jepakit.training.run_folder import RunFolder
from tests.training.tiny_runs import tiny_trainer


def test_only_numbers_are_drawn():
    line = {"kind": "health", "step": 3, "progress": 0.5, "health/rankme": 4, "loss": 0.5, "health/message": "fine"}
    assert numbers(line) == {"health/rankme": 4.0, "loss": 0.5}


def test_tensorboard_events_are_the_metrics_and_resuming_hides_what_is_written_again(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run(trainer, stop=None):
        send = trainer.loggers[0].log

        def log(line):
            if stop is not None and line["step"] > stop:
                raise KeyboardInterrupt
            send(line)

        trainer.loggers[0].log = log
        with contextlib.suppress(KeyboardInterrupt):
            trainer.train()
        trainer.loggers[0].close()

    run(tiny_trainer(tmp_path, loggers=("tensorboard",)), stop=8)
    resumed = tiny_trainer(tmp_path, loggers=("tensorboard",))
    resumed.restore()
    assert resumed.step == 5
    run(resumed)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [line for line in resumed.folder.read_metrics() if line["kind"] == "train"]
    drawn = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in drawn] == [3, 6, 9, 12]
    assert [value for _, value in drawn] == pytest.approx([line["loss"] for line in lines], rel=1e-6)
    assert "health/rankme" in events.Tags()["scalars"]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_config_and_lines_and_is_closed(tmp_path, monkeypatch, name):
    calls = []
    module = types.SimpleNamespace(
        init=lambda **options: calls.append(("init", options)),
        log=lambda values, step: calls.append(("log", values, step)),
        finish=lambda: calls.append(("finish",)),
    )
    config = default_config("lejepa", "digits")
    monkeypatch.setattr(importlib, "import_module", lambda package: {name: module}[package])
    [logger] = open_loggers((name,), RunFolder(tmp_path / "my run"), config)
    logger.log({"kind": "train", "step": 2, "loss": 0.5})
    logger.close()
    assert calls[0][1]["name"] == "my run"
    assert calls[0][1]["config"]["training"]["lr"] == config.training.lr
    assert calls[1:] == [("log", {"loss": 0.5}, 2), ("finish",)]


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    def missing(package):
        raise ImportError(package)

    config = default_config("lejepa", "digits")
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"--loggers wandb needs the package 'wandb'.*pip install 'jepakit\[wandb\]'"):
        open_loggers(("wandb",), RunFolder(tmp_path), config)
