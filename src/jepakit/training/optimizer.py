"""The optimiser of a system's parameter groups: AdamW, SGD with momentum, or LARS."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch

from jepakit.core.system import System
from jepakit.errors import UserError, check_choice, check_range
from jepakit.training.lars import LARS

# The options that each optimiser reads.
OPTIONS = {"adamw": ("betas", "eps"), "sgd": ("momentum", "nesterov"), "lars": ("momentum", "trust")}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """What turns gradients into updates. Another one than adamw needs an lr of its own."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """adamw (Loshchilov and Hutter 2019); sgd with momentum; lars, for large batches (You et al. 2017), which leaves biases and
    norms to sgd. weight_decay is part of the gradient in sgd and lars, and smaller there (1e-4, 1e-6)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of adamw: how long the mean of gradients and that of their squares remember."""
    eps: float = 1e-8
    """Of adamw: added to the root of the mean square."""
    momentum: float = 0.9
    """Of sgd and lars."""
    nesterov: bool = False
    """Of sgd: look ahead along the momentum."""
    trust: float = 1e-3
    """Of lars: the step of a layer as a share of its weights, at an lr of 1."""

    def __post_init__(self) -> None:
        check_choice("optimizer.name", self.name, OPTIONS)
        for name, share in (*(("betas", beta) for beta in self.betas), ("momentum", self.momentum)):
            if not 0 <= share < 1:
                raise UserError(f"optimizer.{name} must be at least 0 and below 1, got {share}.")
        check_range("optimizer.eps", self.eps, 0)
        if not 0 < self.trust < math.inf:
            raise UserError(f"optimizer.trust must be above 0, got {self.trust}.")
        if self.nesterov and self.momentum == 0:
            raise UserError("optimizer.nesterov looks ahead along the momentum, got momentum 0. Give a momentum.")
        for field in fields(self):
            if field.name not in ("name", *OPTIONS[self.name]) and getattr(self, field.name) != field.default:
                owners = " and ".join(name for name, options in OPTIONS.items() if field.name in options)
                raise UserError(
                    f"optimizer.{field.name} belongs to {owners} and does nothing for {self.name!r}: leave it out."
                )

    @property
    def moments(self) -> int:
        """Numbers it keeps for each weight."""
        return 2 if self.name == "adamw" else int(self.momentum > 0)


def build_optimizer(system: System, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of a system's groups; those with `decay: False` have no weight decay, and no share of LARS."""
    groups = [group for group in system.parameter_groups() if group["params"]]
    if config.name == "sgd":
        # Not fused: a first step that the outlier guard leaves out would leave its momentum unwritten.
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov)
    if config.name == "lars":
        groups = [{**group, "adapt": group["decay"]} for group in groups]
        return LARS(groups, momentum=config.momentum, trust=config.trust)
    # The fused kernels of CUDA and CPU compute the same update in one pass over memory.
    fused = device.type in ("cuda", "cpu")
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=fused)


def optimizer_name(optimizer: torch.optim.Optimizer) -> str:
    """The name by which a config chooses it."""
    return type(optimizer).__name__.lower()
