"""What a run was made with, and for how long it was trained: `environment.json`."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from pathlib import Path

import torch

from jepakit._version import __version__
from jepakit.config import RunConfig
from jepakit.device import choose_precision
from jepakit.files import read_json, write_json
from jepakit.registry import verb_of
from jepakit.training.run_folder import RunFolder


def write_environment(folder: RunFolder, config: RunConfig, device: torch.device, licence: str | None = None) -> None:
    """What the run was made with, `environment.json`; licence: that of weights it began from, which holds for its own, too."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    write_json(
        folder.environment,
        {
            "command": " ".join(["jepakit", *map(shlex.quote, sys.argv[1:])]) if _from_command_line()
            else f"jepakit {verb_of(config.system)} --config {shlex.quote(str(folder.config))} --out NEW",
            "jepakit": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "device": f"{device} ({name})",
            "precision": str(choose_precision(config.training.precision, device)).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "wall_s": 0.0,
            **({} if licence is None else {"licence": licence}),
        },
    )


def add_wall_time(folder: RunFolder, seconds: float) -> None:
    """Add training seconds to `environment.json`; a resumed run adds up."""
    if folder.environment.exists():
        environment = read_json(folder.environment)
        environment["wall_s"] = environment.get("wall_s", 0.0) + seconds
        write_json(folder.environment, environment)


def _from_command_line() -> bool:
    return Path(sys.argv[0]).name in ("jepakit", "__main__.py")
