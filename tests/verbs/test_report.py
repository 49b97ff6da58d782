"""`report`: a page of a finished run, and of whatever there is of an unfinished one."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

import jepakit
from jepakit.config import default_config
from jepakit.errors import UserError
from jepakit.interop.runs import build_system
from jepakit.modalities.video.data import open_videos
from jepakit.pages.data import ReportData
from jepakit.pages.markup import serialise
from jepakit.pages.page import build_page
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.pretrain import decide
from jepakit.verbs.report import picture_run


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


@pytest.mark.parametrize("system", ["v-jepa-2", "v-jepa-2.1", "mc-jepa"])
def test_clips_are_shown_at_their_middle_frame(system):
    """Of 4 frames the third, which is in the second token of time; places that one mask hides and leaves are all there are."""
    options = {"frames": 4, "image_size": (16, 16), "patch_size": 4, "labels": "digit"} if system != "mc-jepa" else {}
    data = "moving-photographs" if system == "mc-jepa" else "bouncing-digits"
    config = default_config(system, data).override(steps=1, stills="none", **options)
    opened = open_videos(config.dataset, 0)
    held_out = opened.test.subset(range(24))
    opened = dataclasses.replace(opened, test=held_out)
    built = build_system(decide(config, opened)).eval()
    found = picture_run(built, opened, 0)
    clips = torch.stack([torch.as_tensor(held_out[i]["clip"]) for i in range(24)]).float() / 255
    middle = built.inputs.frames // 2
    for image in torch.from_numpy(found["images"]):
        assert (clips[:, middle] - image).abs().flatten(1).amax(1).min() < 1e-5
    assert found["of_clips"]
    page = serialise(build_page(ReportData(name="clips", **found))).decode()
    assert "Clips are shown at their middle frame" in page
    assert ("What moves" in page) == (system == "mc-jepa")
    if system == "mc-jepa":
        assert found["flows"].shape == found["true_flows"].shape == (8, 2, 64, 64)
        moving = torch.from_numpy(found["moving"])
        assert torch.equal(moving[:, 1], torch.from_numpy(found["images"])[:8])
        assert found["true_flows"].std() > 1  # they do move
        return
    assert found["grid"] == (4, 4)
    assert found["tokens"].shape[:2] == (8, 16)
    for context, (target,) in found["masks"]:
        assert sorted(context + target) == list(range(16))
        assert target
