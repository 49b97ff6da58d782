"""Watches a run that is trained with labels: its loss and score on held-out samples, and on samples it is trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepakit.device import choose_precision, to_device
from jepakit.evaluation.labels import Targets, as_array
from jepakit.evaluation.metrics import metrics_for
from jepakit.modalities.modality import Samples
from jepakit.randomness import derive_seed
from jepakit.training.config import TrainingConfig
from jepakit.training.finetuning import FineTuned
from jepakit.training.finetuning_config import WatchConfig

PIECE = 64  # samples looked at together


class AnswerMonitor:
    """Measures a tuned system's answers in eval mode: `held-out/loss`, `held-out/accuracy` (or what the task is measured by)
    and the same of `training/`. Nothing is chosen by them.

    Args:
        training, held_out: the parts, of which some samples are drawn with the seed; nothing may be held out.
    """

    def __init__(
        self,
        system: FineTuned,
        training: Samples,
        held_out: Samples,
        config: WatchConfig,
        options: TrainingConfig,
        device: torch.device,
    ):
        self.system, self.config, self.device = system, config, device
        self.dtype = choose_precision(options.precision, device)
        self.every = config.watch_every or max(1, math.ceil((options.steps or 0) / 10))
        self.parts = {
            name: self._some(part, derive_seed(options.seed, "watched", name))
            for name, part in (("held-out", held_out), ("training", training))
            if len(part)
        }

    def due(self, step: int, last: bool) -> bool:
        """Whether there is a look after `step` optimiser steps."""
        return last or step % self.every == 0

    def state_dict(self) -> dict[str, float]:
        """Nothing: every look stands for itself."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Nothing to put back."""

    @torch.no_grad()
    def measure(self, step: int, steps: int) -> dict[str, Any]:
        """Loss and main metric of each part."""
        was_training = self.system.training
        self.system.eval()
        values: dict[str, Any] = {}
        for name, pieces in self.parts.items():
            moved = (to_device(inputs, self.device, self.dtype) for inputs, _ in pieces)
            scores = torch.cat([self.system.scores(inputs).float().cpu() for inputs in moved])
            labels = torch.cat([labels for _, labels in pieces])
            values[f"{name}/loss"] = float(self.system.answers.losses(scores, labels).mean())
            values |= {f"{name}/{metric}": value for metric, value in self._score(scores, labels).items()}
        self.system.train(was_training)
        return values

    def _score(self, scores: Tensor, labels: Tensor) -> dict[str, float | None]:
        answers, known = self.system.answers, labels.numpy()
        targets = Targets(task=answers.task, train=known, test=known, classes=answers.classes)
        metric = metrics_for(targets)[0]
        found = metric(answers.values(scores).double().numpy(), known)
        return {metric.name: found if math.isfinite(found) else None}

    def _some(self, part: Samples, seed: int) -> list[tuple[Any, Tensor]]:
        """Prepared inputs and labels, in pieces."""
        order = np.random.default_rng(seed).permutation(len(part))[: self.config.watch_samples]
        samples = [part[int(number)] for number in order]
        labels = labels_of(samples)
        prepare = self.system.inputs.prepare
        starts = range(0, len(samples), PIECE)
        return [(prepare(samples[start : start + PIECE]), labels[start : start + PIECE]) for start in starts]


def labels_of(samples: Sequence[dict[str, Any]]) -> Tensor:
    """`[samples, ...]`"""
    return torch.as_tensor(np.stack([as_array(sample["label"]) for sample in samples]))


def some_prepared(
    inputs: Any, part: Samples, device: torch.device, dtype: torch.dtype, most: int = 2048
) -> Iterator[tuple[Any, Tensor]]:
    """The first samples of a part (which is in random order) as prepared inputs on the device and labels, in pieces."""
    for start in range(0, min(most, len(part)), PIECE):
        samples = [part[number] for number in range(start, min(start + PIECE, most, len(part)))]
        yield to_device(inputs.prepare(samples), device, dtype), labels_of(samples)
