"""What the training loop and the health monitor are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jepakit.errors import UserError, check_choice, check_range

LOGGERS = ("tensorboard", "trackio", "wandb")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Budget, optimiser, schedules, precision, checkpoints.

    steps: optimiser steps; or give `epochs`. Neither: 100 epochs, at least 1,000 and at most 10,000 steps.
    batch_size: samples an optimiser step sees; a data set smaller than that is one batch.
    accumulate: micro-batches an optimiser step is cut into (less memory; refused by losses that look across the batch).
    lr: peak learning rate at `batch_size`; warmed up linearly over `warmup` (a share of the steps), then `schedule`
        down to `lr * final_lr`. "wsd" holds it and cools down linearly over the last `cooldown` share.
    weight_decay: goes to `weight_decay_end` along a cosine (None: constant). Biases, norms and positions have none.
    clip: largest gradient norm, None for no clipping.
    precision: "auto" is bfloat16 autocast where the hardware multiplies bfloat16 natively and the model is wide enough
        for it to pay, else float32.
    workers: data-loading processes; None: none for arrays, one a spare core for files. Never changes the result.
    threads: CPU threads of the training process; None: all cores.
    checkpoint_every: steps between checkpoints; None: ten a run. keep_checkpoints: the last few are kept, and the best
        by `keep_best`, a metric of the health line where more is better ("knn", "rankme", "lidar"; "none").
    loggers: also send metrics to these ("tensorboard", "trackio", "wandb"; extras of the same names).
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 256
    accumulate: int = 1
    lr: float = 1e-3
    final_lr: float = 1e-3
    warmup: float = 0.1
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    cooldown: float = 0.2
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    clip: float | None = 3.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = None
    workers: int | None = None
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    keep_best: Literal["none", "knn", "rankme", "lidar"] = "none"
    loggers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise UserError(f"Give steps or epochs, not both (steps {self.steps}, epochs {self.epochs}).")
        for name in ("steps", "checkpoint_every", "threads"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1)
        for name in ("batch_size", "accumulate", "log_every", "keep_checkpoints"):
            check_range(name, getattr(self, name), 1)
        if self.epochs is not None and not self.epochs > 0:
            raise UserError(f"epochs must be above 0, got {self.epochs}.")
        for name in ("lr", "weight_decay", "seed"):
            check_range(name, getattr(self, name), 0)
        for name in ("warmup", "cooldown", "final_lr"):
            check_range(name, getattr(self, name), 0, 1)
        if self.workers is not None:
            check_range("workers", self.workers, 0)
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"clip must be above 0 or none, got {self.clip}.")
        if self.batch_size % self.accumulate:
            raise UserError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}.")
        for logger in self.loggers:
            check_choice("loggers", logger, LOGGERS)


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """How the run is watched. All measures use one fixed batch of held-out samples.

    health_every: steps between health lines; None: as often as costs stay below 3 % of the training.
    health_samples: held-out samples looked at. lidar_views: views of each for LiDAR.
    stop_on_collapse: end the run when it has collapsed.
    """

    health_every: int | None = None
    health_samples: int = 256
    lidar_views: int = 8
    stop_on_collapse: bool = False

    def __post_init__(self) -> None:
        if self.health_every is not None:
            check_range("health_every", self.health_every, 1)
        check_range("health_samples", self.health_samples, 8)
        check_range("lidar_views", self.lidar_views, 2)
