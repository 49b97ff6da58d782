"""AdamW over a system's parameter groups, its learning rate and weight decay set for each step."""

from __future__ import annotations

import torch

from jepakit.core.system import System
from jepakit.training.config import TrainingConfig
from jepakit.training.schedules import learning_rate, weight_decay


def build_optimizer(system: System, config: TrainingConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), betas 0.9 and 0.999; groups with `decay: False` have no weight decay."""
    groups = [group for group in system.parameter_groups() if group["params"]]
    # The fused kernels of CUDA and CPU compute the same update in one pass over memory.
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=device.type in ("cuda", "cpu"))


def set_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int, steps: int) -> dict[str, float]:
    """Set the values of optimiser step `step` (0-based); returns them to be logged.

    A group's `lr_scale` multiplies its rate.
    """
    rate, decay = learning_rate(config, step, steps), weight_decay(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
        group["weight_decay"] = decay if group["decay"] else 0.0
    return {"lr": rate, "weight_decay": decay}
