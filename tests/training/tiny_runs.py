"""Runs small enough for a test: digits, a nano model, a dozen steps, and no evaluation or report at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jepakit.config import default_config, write_config
from jepakit.modalities.images.data import open_images
from jepakit.training.loop import Trainer
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.pretrain import build_trainer, decide, prepare_system

TRAINING = {
    "data": "digits",
    "limit": 96,
    "steps": 12,
    "batch_size": 16,
    "log_every": 3,
    "health_every": 4,
    "checkpoint_every": 5,
    "health_samples": 8,
    "lidar_views": 2,
    "workers": 0,
    "threads": 1,
    "precision": "float32",
    "device": "cpu",
}
MODEL: dict[str, dict[str, Any]] = {
    "i-jepa": {"patch_size": 2, "predictor_dim": 32, "predictor_depth": 1, "masks": {"targets": 2}},
    "lejepa": {"augment": {"views": 2}, "sigreg": {"slices": 16}},
}


def tiny_trainer(path: Path, system: str = "lejepa", **options: Any) -> Trainer:
    """A trainer at its start, its run folder made; or one that may `restore()` what the folder holds."""
    config = default_config(system, "digits").override(**{**TRAINING, **MODEL[system], **options})
    images = open_images(config.dataset, config.training.seed)
    decided = decide(config, images)
    folder = RunFolder(path)
    if not folder.config.exists():
        folder.create()
        write_config(folder.config, decided)
    device = torch.device("cpu")
    return build_trainer(decided, folder, images, prepare_system(decided, device, None), device)


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics lines without the timings, the only fields in which equal runs may differ."""
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def tiny_words(system: str, out: Path, **options: Any) -> list[str]:
    """The same run as words of the command line; None leaves an option out."""
    chosen = {**TRAINING, **MODEL[system], "out": out, **options}
    words = ["pretrain", system]
    for name, value in chosen.items():
        parts = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        for key, part in parts.items():
            words += [] if part is None else [f"--{key.replace('_', '-')}", str(part)]
    return words
