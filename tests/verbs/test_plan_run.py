"""`plan-run`: what it prints, what it advises, what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

import jepakit
from jepakit.cli import main
from jepakit.errors import UserError
from jepakit.training.cost_model import MACHINES


def planned(**options):
    return jepakit.plan_run("i-jepa", **{"size": "nano", "gpus": 8, "batch_size": 64, **options})


def test_text_and_json_say_the_same(capsys):
    plan = planned()
    text = capsys.readouterr().out
    assert text.startswith("i-jepa nano on 8 x H100 SXM 80 GB: ddp, bfloat16, batch 64 = 8 x 8 x accumulate 1")
    for part in ("parameters", "activations", "fits", "assumed: 40% of 989.0 TFLOP/s", "GPU-hours", "docs/scaling.md"):
        assert part in text
    assert main(["plan-run", "i-jepa", "--size", "nano", "--gpus", "8", "--batch-size", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(plan.to_dict()))


def test_steps_are_those_of_imagenet_or_as_given():
    assert planned().steps == -(-100 * 1_281_167 // 64)
    assert planned(epochs=2, samples=640).steps == 20
    assert planned(steps=7).steps == 7


def test_more_gpus_need_less_memory_and_time_each():
    few, many = planned(batch_size=256, gpus=8), planned(batch_size=256, gpus=64)
    assert many.expected.memory["activations"] < few.expected.memory["activations"] / 4
    assert many.expected.compute_s < few.expected.compute_s / 4
    assert many.layout.gpus * many.counted.samples == few.layout.gpus * few.counted.samples


@pytest.mark.slow  # counts a large model several times
def test_a_run_that_does_not_fit_is_told_what_to_turn_on(capsys, monkeypatch):
    small = {"gpu": "l40s", "batch_size": 512}
    monkeypatch.setitem(MACHINES, "l40s", replace(MACHINES["l40s"], memory=1.9e9))
    plan = planned(**small)
    assert not plan.fits
    assert "DOES NOT FIT" in capsys.readouterr().out
    found = re.search(r"does not fit: .* of 1.9 GB. Use (--parallel fsdp )?--accumulate (\d+): (.*) GB", plan.advice[0])
    assert found, plan.advice
    better = planned(**small, accumulate=int(found[2]), parallel="fsdp" if found[1] else "ddp")
    assert better.fits
    assert better.expected.memory_bytes / 1e9 == pytest.approx(float(found[3]), rel=0.1)
    with pytest.raises(UserError, match="looks across the batch"):
        planned(**small, anti_collapse="sigreg", accumulate=2)
    assert "Lower --batch-size, use more GPUs" in planned(**small, anti_collapse="sigreg").advice[0]


def test_data_of_other_kinds_is_read():
    plan = jepakit.plan_run("lewm", data="pendulum", gpus=2, batch_size=64, steps=10)
    assert plan.counted.flops > 0
    assert plan.config.training.batch_size == 64


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gpus": 0}, "gpus must be at least 1"),
        ({"gpus": 7}, r"batch_size 64 is no multiple of 7 GPUs times accumulate 1. Use --batch-size 63"),
        ({"gpu": "h10"}, "gpu: 'h10' is not known. Did you mean 'h100'"),
        ({"attained": 2.0}, "attained must be"),
        ({"sise": "huge"}, "Did you mean 'size'"),
    ],
)
def test_mistakes(options, told):
    with pytest.raises(UserError, match=told):
        planned(**options)


def test_systems_of_other_data_need_it():
    with pytest.raises(UserError, match="plan-run needs --data for lewm, which reads trajectories"):
        jepakit.plan_run("lewm")
    with pytest.raises(UserError, match="plan-run needs a system"):
        jepakit.plan_run()
