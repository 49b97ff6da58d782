"""What the training loop and the health monitor are told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jepakit.collectives import world_size
from jepakit.errors import UserError, check_choice, check_range
from jepakit.training.optimizer import OptimizerConfig

LOGGERS = ("tensorboard", "trackio", "wandb")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Budget, optimiser, schedules, precision, checkpoints."""

    steps: int | None = None
    """Optimiser steps. Default: 100 epochs, but at least 1,000 and at most 5,000 steps."""
    epochs: float | None = None
    """Passes over the data, instead of steps."""
    batch_size: int = 256
    """Samples an optimiser step sees, on all processes together; a smaller data set is one batch."""
    accumulate: int = 1
    """Pieces a step's batch is cut into, for less memory; refused by losses that look across the batch."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr: float | None = None
    """Peak learning rate. Default: the system's for its size."""
    final_lr: float = 1e-3
    """Learning rate at the end, as a share of lr."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises linearly."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Way down from lr after the warm-up; wsd holds it and cools down linearly at the end."""
    cooldown: float = 0.2
    """Share of the steps in which wsd cools down."""
    weight_decay: float = 0.05
    """At the start; biases, norms and tokens have none."""
    weight_decay_end: float | None = None
    """At the end, along a cosine. Default: constant."""
    clip: float | None = 3.0
    """Largest gradient norm, None for no clipping."""
    outlier: float | None = 20.0
    """Leave out an update whose gradient norm is this many times the median of the last 128 (the most seen in healthy runs
    of our systems was 6), and end the run after 16 in a row; None to apply all. After OLMo-core's SkipStepOptimizer."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """auto: bfloat16 autocast where the hardware multiplies bfloat16 natively, else float32. float64: exact comparisons."""
    compile: bool = False
    """Compile the step with torch.compile (needs a C++ compiler; the first step takes minutes)."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: every process holds the whole model (ddp), or its share of it (fsdp: less memory, more traffic)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA, then MPS, then the CPU."""
    threads: int | None = None
    """CPU threads of the training process. Default: all cores."""
    workers: int | None = None
    """Processes that load data; never changes the result. Default: none for arrays, the spare cores for files."""
    seed: int = 0
    """Decides everything that is random."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl, each the mean over its steps."""
    checkpoint_every: int | None = None
    """Steps between checkpoints. Default: ten a run."""
    keep_checkpoints: int = 2
    """The newest ones that are kept, beside the best."""
    keep_best: Literal["none", "knn", "rankme", "lidar"] = "none"
    """Health measure (more is better) by which the best checkpoint is kept."""
    loggers: tuple[str, ...] = ()
    """Also send metrics to tensorboard, trackio, wandb (extras of the same names)."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise UserError(f"Give steps or epochs, not both (steps {self.steps}, epochs {self.epochs}).")
        for name in ("steps", "checkpoint_every", "threads"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1)
        for name in ("batch_size", "accumulate", "log_every", "keep_checkpoints"):
            check_range(name, getattr(self, name), 1)
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise UserError(f"epochs must be above 0, got {self.epochs}.")
        for name in ("lr", "weight_decay", "weight_decay_end", "seed"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 0)
        for name in ("warmup", "cooldown", "final_lr"):
            check_range(name, getattr(self, name), 0, 1)
        if self.workers is not None:
            check_range("workers", self.workers, 0)
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise UserError(f"clip must be above 0 or none, got {self.clip}.")
        if self.outlier is not None and not self.outlier > 1:
            raise UserError(f"outlier must be above 1 (times the median gradient norm) or none, got {self.outlier}.")
        if self.batch_size % self.accumulate:
            raise UserError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}.")
        for logger in self.loggers:
            check_choice("loggers", logger, LOGGERS)


def check_pieces(config: TrainingConfig, joins_batch: bool, streams: Mapping[str, int]) -> None:
    """Whether a step's batch can be cut for ranks and accumulation; `streams`: samples a step draws, by name.

    Errors: a loss that looks across the batch is to be accumulated, or a piece would be empty.
    """
    if config.accumulate > 1 and joins_batch:
        raise UserError(
            f"accumulate {config.accumulate}: this system's loss looks across the whole batch, and pieces of a "
            "batch would be another loss. Leave accumulate at 1 and lower batch_size instead."
        )
    pieces = world_size() * config.accumulate
    for name, samples in streams.items():
        if samples < pieces:
            what = f"the {samples} samples that a step draws from {name}" if name else f"batch_size {samples}"
            raise UserError(
                f"{what} cannot be cut into {pieces} pieces ({world_size()} processes, accumulate {config.accumulate}). "
                "Raise batch_size, or use fewer processes."
            )


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """How the run is watched, on one fixed batch of training images that are set aside."""

    health_every: int | None = None
    """Steps between health lines. Default: as often as all measures together cost less than 3 % of the training."""
    health_samples: int = 256
    """Images set aside and looked at; a tenth of the data at most."""
    lidar_views: int = 8
    """Views of each for LiDAR."""
    stop_on_collapse: bool = False
    """End the run when it has collapsed."""

    def __post_init__(self) -> None:
        if self.health_every is not None:
            check_range("health_every", self.health_every, 1)
        check_range("health_samples", self.health_samples, 8)
        check_range("lidar_views", self.lidar_views, 2)
