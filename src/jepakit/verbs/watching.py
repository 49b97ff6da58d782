"""What watches a run: its health, or of a run that learns from labels its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jepakit.config import RunConfig
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.modalities.modality import Data
from jepakit.training.finetuning import FineTuned
from jepakit.training.health import KNN_BANK, HealthMonitor, Monitor
from jepakit.training.watch import AnswerMonitor, some_prepared


def monitor_of(
    system: System, data: Data, training_set: Any, held_out: Sequence[dict[str, Any]], config: RunConfig, device: torch.device
) -> Monitor:
    """The monitor of a run; the head of what learns from labels begins from training samples, too.

    held_out: training samples set aside for the health monitor.
    """
    training, watched = config.training, config.health
    if isinstance(system, FineTuned):
        if training.keep_best != "none":
            raise UserError(f"keep_best {training.keep_best} is of pretraining: tuning keeps its last weights. Leave it out.")
        answers: Any = watched
        monitor = AnswerMonitor(system, training_set, data.test, answers, training, device)
        system.begin_head(some_prepared(system.inputs, training_set, device, monitor.dtype), training.seed)
        return monitor
    if training.keep_best == "knn" and data.task is None:
        raise UserError(f"keep_best knn needs labels, and {data.name} has none. Keep the best by rankme or lidar.")
    bank = [training_set[i] for i in range(min(KNN_BANK, len(training_set)))] if data.task else []
    return HealthMonitor(system, held_out, bank, data.task, watched, training, device)
