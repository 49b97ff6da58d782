"""A run of every system that takes seconds on one core: for the tests on several processes, of resuming and of health.

The batch of 10 is no multiple of 4, so that ranks get batches of different sizes; on 36 samples, less those set aside for
health, the order of the data runs over the end of an epoch.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jepakit.collectives import rank
from jepakit.config import RunConfig, default_config, write_config
from jepakit.interop.load import teacher_of
from jepakit.registry import load_system
from jepakit.training.distributed import launched, wait_for_all
from jepakit.training.loop import Trainer
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.pretrain import build_trainer, decide, prepare_system

COMMON: dict[str, Any] = {
    "steps": 4,
    "batch_size": 10,
    "log_every": 1,
    "health_every": 2,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
    "health_samples": 10,
    "lidar_views": 2,
    "workers": 0,
    "threads": 1,
    "precision": "float64",
    "device": "cpu",
}

# Options of `jepakit.pretrain(name, ...)` over COMMON. `system` where the key is not the system's name.
TINY: dict[str, dict[str, Any]] = {
    "i-jepa": {
        "data": "digits", "limit": 40, "patch_size": 2, "predictor_dim": 32, "predictor_depth": 1,
        "masks": {"targets": 3, "target_scale": [0.05, 0.4], "target_aspect": [0.5, 2.0]},
    },
    "lejepa": {"data": "digits", "limit": 40, "augment": {"views": 2}, "sigreg": {"slices": 16}, "projector": [32, 16]},
    "i-jepa and sigreg": {
        "system": "i-jepa", "data": "digits", "limit": 40, "patch_size": 2, "predictor_dim": 32, "predictor_depth": 1,
        "anti_collapse": "sigreg", "sigreg": {"slices": 16}, "projector": [32, 16], "target": "shared",
    },
    "llm-jepa": {
        "data": "regex", "limit": 40, "dim": 16, "depth": 1, "predictor_tokens": 2, "latent_weight": 1.0, "latent_dropout": 0.5,
    },
    "graph-jepa": {"data": "motifs", "limit": 64, "parts": 4, "walk": 6, "dim": 16, "depth": 1, "heads": 2, "targets": 2},
    "v-jepa": {
        "data": "bouncing-digits", "limit": 40, "frames": 4, "image_size": [16, 16], "patch_size": 4, "predictor_dim": 24,
        "predictor_depth": 1, "masks": {"min_keep": 1},
    },
    "v-jepa-2": {
        "data": "bouncing-digits", "limit": 40, "frames": 4, "image_size": [16, 16], "patch_size": 4, "predictor_dim": 24,
        "predictor_depth": 1, "masks": {"min_keep": 1}, "stills": "frames", "stills_ratio": 0.9,
    },
    "v-jepa-2.1": {
        "data": "bouncing-digits", "limit": 40, "frames": 4, "image_size": [16, 16], "stills_ratio": 0.9, "patch_size": 4,
        "predictor_dim": 24, "predictor_depth": 1, "masks": {"min_keep": 1}, "visible": {"ramp": [0.0, 0.5]},
    },
    "mc-jepa": {
        "data": "moving-photographs", "limit": 40, "image_size": [16, 16], "stills": "digits", "stills_ratio": 0.9,
        "still_size": [8, 8], "projector": [16, 8], "finest": 1, "flow": {"dim": 8, "width": 8},
    },
    "mc-jepa of motion": {
        "system": "mc-jepa", "data": "bouncing-digits", "limit": 40, "frames": 4, "image_size": [16, 16], "labels": "none",
        "stills": "none", "finest": 1, "flow": {"dim": 8, "width": 8},
    },
    "lewm": {"data": "pendulum", "limit": 64, "embedding": 8, "projector": [16, 16], "sigreg": {"slices": 16}},
    "pldm": {"data": "pendulum", "limit": 64, "horizon": 2, "embedding": 8, "widths": [2], "inverse_hidden": 16},
    "v-jepa-2-ac": {
        "data": "pendulum-pixels", "limit": 64, "horizon": 2,
        "encoder": str(Path(__file__).parent / "fixtures" / "image_encoder"),
    },
    "pldm with a latent": {
        "system": "pldm", "data": "pendulum", "limit": 64, "horizon": 2, "embedding": 8, "widths": [2], "inverse_hidden": 16,
        "latent": "continuous", "latent_dim": 2, "latent_steps": 2,
    },
    "h-jepa": {
        "data": "pendulum", "limit": 64, "frame_skip": 2, "horizon": 2, "macro": 2, "hidden": 16, "sigreg": {"slices": 16},
        "macro_sigreg": {"slices": 16}, "lower": str(Path(__file__).parent / "fixtures" / "world"),
    },
    "h-jepa with a view of its own": {
        "system": "h-jepa", "data": "pendulum", "limit": 64, "frame_skip": 2, "horizon": 2, "macro": 2, "hidden": 16,
        "sigreg": {"slices": 16}, "macro_sigreg": {"slices": 16}, "embedding": 4,
        "lower": str(Path(__file__).parent / "fixtures" / "world"),
    },
    "pldm with codes": {
        "system": "pldm", "data": "pendulum", "limit": 64, "horizon": 2, "embedding": 8, "widths": [2], "inverse_hidden": 16,
        "latent": "discrete",
    },
    "pixel-world": {"data": "pendulum-pixels", "limit": 64, "horizon": 2, "embedding": 8, "widths": [2]},
    "pixel-world by reconstruction": {
        "system": "pixel-world", "data": "pendulum", "limit": 64, "horizon": 2, "embedding": 8, "widths": [2],
        "perception": "reconstruction",
    },
    "lewm on pixels": {
        "system": "lewm", "data": "pendulum-pixels", "limit": 64, "history": 2, "horizon": 2, "rollout": 1.0, "embedding": 8,
        "projector": [16], "sigreg": {"slices": 16},
    },
}  # fmt: skip


def system_of(name: str) -> str:
    """The system of an entry."""
    return TINY[name].get("system", name)


def options_of(name: str, **options: Any) -> dict[str, Any]:
    """All options of an entry's run, some of them changed."""
    return {**COMMON, **{key: value for key, value in TINY[name].items() if key != "system"}, **options}


def open_once(config: RunConfig) -> Any:
    """The data of a run, which is read only: opened once in a process."""
    return _opened(config.system, config.dataset, config.training.seed)


@cache
def _opened(system: str, dataset: Any, seed: int) -> Any:
    return load_system(system).modality.open(dataset, seed)


def tiny_trainer(name: str, path: Path, **options: Any) -> Trainer:
    """The trainer that `jepakit.pretrain` would build, its folder made; on every rank of a process group, if there is one.

    Where the folder holds a run already, the trainer is ready to `restore()` it.
    """
    chosen = options_of(name, **options)
    config = default_config(system_of(name), chosen["data"]).override(**chosen)
    with launched("cpu") as device:
        data = open_once(config)
        decided = decide(config, data)
        folder = RunFolder(path)
        teacher = teacher_of(decided, folder)
        if rank() == 0 and not folder.config.exists():
            folder.create()
            write_config(folder.config, decided)
            if teacher is not None:
                teacher.save_pretrained(folder.path / teacher.option)
        wait_for_all()
        return build_trainer(decided, folder, data, prepare_system(decided, device, teacher), device)


def words_of(name: str, out: Path, **options: Any) -> list[str]:
    """The same run as words of the command line: `pretrain NAME --data ...`; None leaves an option out."""
    words = ["pretrain", system_of(name), "--out", str(out)]
    for option, value in _flat(options_of(name, **options)).items():
        dashed = option.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{dashed}" if value else f"--no-{dashed}")
        elif value is not None:
            words += [f"--{dashed}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
    return words


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= {f"{name}.{k}": v for k, v in _flat(value).items()} if isinstance(value, dict) else {name: value}
    return flat


def untimed(folder: RunFolder) -> list[dict[str, Any]]:
    """Metrics lines without the timings, the only fields in which equal runs may differ."""
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in folder.read_metrics()]
