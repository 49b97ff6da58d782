"""Learning rate and weight decay of each optimiser step: functions of its number, nothing to store or to replay."""

from __future__ import annotations

import torch

from jepakit.core.schedules import cosine, linear
from jepakit.errors import UserError
from jepakit.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Learning rate of optimiser step `step` (0-based) of `steps`."""
    if config.lr is None:
        raise UserError("lr is not decided: give one, or let `pretrain` take the system's for its size.")
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    last = config.lr * config.final_lr
    rest = (step - warmup) / max(1, steps - 1 - warmup)
    match config.schedule:
        case "constant":
            return config.lr
        case "linear":
            return linear(config.lr, last, rest)
        case "cosine":
            return cosine(config.lr, last, rest)
        case "wsd":
            start = (1.0 - config.cooldown) * steps
            return linear(config.lr, last, (step - start) / max(1.0, steps - 1 - start))


def weight_decay(config: TrainingConfig, step: int, steps: int) -> float:
    """Weight decay of optimiser step `step`: constant, or a cosine to its end (I-JEPA: .04 to .4)."""
    if config.weight_decay_end is None:
        return config.weight_decay
    return cosine(config.weight_decay, config.weight_decay_end, step / max(1, steps - 1))


def set_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int, steps: int) -> dict[str, float]:
    """Set the values of optimiser step `step` (0-based); returns them to be logged.

    A group's `lr_scale` multiplies its rate.
    """
    rate, decay = learning_rate(config, step, steps), weight_decay(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
        group["weight_decay"] = decay if group["decay"] else 0.0
    return {"lr": rate, "weight_decay": decay}
