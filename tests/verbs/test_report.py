"""`report`: a page of a finished run, and of whatever there is of an unfinished one."""

from __future__ import annotations

import shutil

import pytest

import jepakit
from jepakit.errors import UserError
from jepakit.training.run_folder import RunFolder


@pytest.mark.parametrize("system", ["i-jepa", "lejepa"])
def test_a_finished_run_shows_pictures(runs, system):
    path = jepakit.report(runs[system])
    page = path.read_text("utf-8")
    assert path == runs[system] / "report.html"
    assert "data:image/png;base64," in page
    assert system in page


def test_an_unfinished_run_shows_what_there_is(runs, tmp_path):
    shutil.copytree(runs["lejepa"], tmp_path / "run", ignore=lambda folder, names: ["model.safetensors", "report.html"])
    RunFolder(tmp_path / "run").append_metrics({"kind": "train", "step": 1, "progress": 0.5, "loss": 1.25, "lr": 0.1})
    with open(tmp_path / "run" / "metrics.jsonl", "a") as handle:
        handle.write('{"kind": "tr')  # killed while writing
    page = jepakit.report(tmp_path / "run").read_text("utf-8")
    assert "data:image/png;base64," not in page
    assert "<html" in page


def test_no_run_no_report(tmp_path):
    with pytest.raises(UserError, match=r"does not exist. A run folder holds config.yaml"):
        jepakit.report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
