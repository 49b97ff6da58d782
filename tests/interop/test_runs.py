"""A run is opened once: no file of it is read twice on the way through a verb."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

import jepakit
from jepakit import config as run_config
from jepakit import registry
from jepakit.errors import UserError
from jepakit.interop.runs import Run
from jepakit.systems.v_jepa_2_ac import VJEPA2AC
from jepakit.training import weight_files
from tests.end_to_end.test_written_before import SMALL

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUNS = FIXTURES / "written_by_0_1" / "trained"


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    """Let nano be what it was when the runs were written."""
    monkeypatch.setitem(registry.SIZES, "nano", SMALL)


@pytest.fixture
def reads(monkeypatch):
    """Count how often each weight file and each config is read."""
    counted: Counter[str] = Counter()
    safe_open, read_yaml = weight_files.safe_open, run_config.read_yaml

    def count_weights(path, *arguments):
        counted[str(path)] += 1
        return safe_open(path, *arguments)

    def count_config(path):
        counted[str(path)] += 1
        return read_yaml(path)

    monkeypatch.setattr(weight_files, "safe_open", count_weights)
    monkeypatch.setattr(run_config, "read_yaml", count_config)
    return counted


@pytest.mark.parametrize("name", ["pldm", "h-jepa", "v-jepa-2-ac"])
@pytest.mark.parametrize("verb", ["load", "stream", "open"])
def test_no_file_is_read_twice(name, verb, reads, tmp_path):
    run = Path(shutil.copytree(RUNS / name, tmp_path / name))
    if verb == "load":
        jepakit.load(run)
    elif verb == "stream":
        jepakit.stream(run)
    else:
        opened = Run(run)
        assert opened.system is not opened.untrained
        assert opened.encoder().inputs == opened.config.inputs
    kept = {
        "pldm": set(),
        "h-jepa": {"lower/model.safetensors", "lower/config.yaml"},
        "v-jepa-2-ac": {"encoder/model.safetensors"},
    }
    assert reads == Counter({str(run / file): 1 for file in {"model.safetensors", "config.yaml"} | kept[name]})


def test_acting_reads_the_world_model_once(reads, tmp_path):
    run = Path(shutil.copytree(FIXTURES / "world", tmp_path / "world"))
    jepakit.act(run, env="pendulum", episodes=1, planner="random", horizon=2, replan=2, population=2, record=0)
    assert reads == {str(run / "model.safetensors"): 1, str(run / "config.yaml"): 1}


def test_pretraining_on_a_frozen_encoder_reads_it_twice_and_builds_three_systems(reads, tmp_path, monkeypatch):
    """The system that is trained, the one that its weights are read into, and the untrained baseline: the encoder is read from
    its own folder and then from the run's copy, whatever number of verbs follow."""
    built, initialise = [], VJEPA2AC.__init__

    def count(self, *arguments, **named):
        built.append(type(self).__name__)
        initialise(self, *arguments, **named)

    monkeypatch.setattr(VJEPA2AC, "__init__", count)
    options = {"steps": 1, "batch_size": 8, "workers": 0, "threads": 1, "device": "cpu", "health_samples": 8, "limit": 64}
    run = tmp_path / "run"
    jepakit.pretrain(
        "v-jepa-2-ac", data="pendulum-pixels", out=run, horizon=2, encoder=str(FIXTURES / "image_encoder"), **options
    )
    assert len(built) == 3
    assert reads[str(FIXTURES / "image_encoder" / "model.safetensors")] == 1
    assert reads[str(run / "encoder" / "model.safetensors")] == 1
    assert reads[str(run / "model.safetensors")] == 1


def test_the_untrained_system_does_not_move_with_the_trained_one(tmp_path):
    """They share a frozen encoder, and nothing else."""
    run = Run(RUNS / "v-jepa-2-ac")
    shared = {id(parameter) for parameter in run.system.parameters()} & {id(other) for other in run.untrained.parameters()}
    frozen = {id(parameter) for parameter in run.teacher.parameters()}
    assert shared == frozen
    trained, untrained = (dict(system.named_parameters()) for system in (run.system, run.untrained))
    assert any(not torch.equal(trained[name], untrained[name]) for name in trained if id(trained[name]) not in frozen)


@pytest.mark.parametrize(("name", "copy"), [("h-jepa", "lower"), ("v-jepa-2-ac", "encoder")])
def test_a_run_without_its_copy_of_what_it_stands_on_says_so(name, copy, tmp_path):
    run = Path(shutil.copytree(RUNS / name, tmp_path / name))
    shutil.rmtree(run / copy)
    with pytest.raises(UserError, match=rf"{copy} is missing: .* Copy the whole run folder"):
        jepakit.stream(run)


def test_a_run_moves_to_a_device_with_what_was_built_of_it():
    run = Run(RUNS / "pldm")
    system = run.system
    assert run.to(torch.device("meta")).system is system
    assert {parameter.device.type for parameter in system.parameters()} == {"meta"}
    assert next(run.untrained.parameters()).device.type == "meta"
