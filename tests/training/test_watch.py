"""A tuned run's loss and score, on some samples of either part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepakit.training.config import TrainingConfig
from jepakit.training.finetuning_config import WatchConfig
from jepakit.training.watch import AnswerMonitor, some_prepared
from tests.training.test_finetuning import tuned

CPU = torch.device("cpu")


class Images:
    """Random pictures of three classes."""

    paths = None

    def __init__(self, count, seed):
        self.ids = np.arange(count)
        self.labels = self.ids % 3
        self.pixels = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"image": self.pixels[index], "id": int(index), "label": self.labels[index]}

    def subset(self, indices):
        raise NotImplementedError


def monitor(system, held_out=40, **options):
    options = TrainingConfig(steps=50, precision="float32", seed=1, **options)
    return AnswerMonitor(system, Images(90, 0), Images(held_out, 1), WatchConfig(watch_samples=80), options, CPU)


def test_both_parts_are_measured_in_eval_mode_and_the_system_trains_on():
    system = tuned().train()
    system.head.linear.weight.data.normal_()
    watch = monitor(system)
    found = watch.measure(0, 50)
    assert found.keys() == {f"{part}/{name}" for part in ("held-out", "training") for name in ("loss", "accuracy")}
    assert system.training
    part = Images(40, 1)
    scores = system.eval().scores(system.inputs.prepare([part[n] for n in range(40)]))
    right = (scores.argmax(1) == torch.as_tensor(part.labels)).float().mean()
    assert found["held-out/accuracy"] == pytest.approx(float(right))
    assert watch.measure(3, 50) == found
    assert watch.state_dict() == {}


def test_looks_come_ten_times_a_run_and_at_its_end():
    watch = monitor(tuned())
    assert [step for step in range(51) if watch.due(step, last=step == 50)] == list(range(0, 51, 5))
    assert watch.due(7, last=True)


def test_nothing_held_out_is_nothing_measured_there():
    assert {name.partition("/")[0] for name in monitor(tuned(), held_out=0).measure(0, 50)} == {"training"}


def test_the_first_samples_are_prepared_in_pieces():
    pieces = list(some_prepared(tuned().inputs, Images(90, 0), CPU, torch.float32, most=70))
    assert [(len(inputs), labels.tolist()[:4]) for inputs, labels in pieces] == [(64, [0, 1, 2, 0]), (6, [1, 2, 0, 1])]
