"""Metrics to TensorBoard, trackio and wandb, beside `metrics.jsonl`; each is an extra."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, runtime_checkable

from jepakit.config import RunConfig, to_plain
from jepakit.errors import missing_extra
from jepakit.training.distributed import is_main
from jepakit.training.run_folder import RunFolder, step_of


@runtime_checkable
class Logger(Protocol):
    """Takes metrics lines, until it is closed."""

    def log(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """The values of a metrics line that can be drawn."""
    skip = ("step", "progress")
    return {name: float(v) for name, v in line.items() if isinstance(v, int | float) and name not in skip}


class TensorBoard:
    """Event files in the run folder's `tensorboard/`; those of steps that a resumed run takes again are hidden."""

    def __init__(self, module: Any, folder: RunFolder, config: RunConfig):
        kept = folder.list_checkpoints()
        again = step_of(kept[-1]) + 1 if kept else None
        self.writer = module.SummaryWriter(folder.path / "tensorboard", purge_step=again)

    def log(self, line: dict[str, Any]) -> None:
        for name, value in numbers(line).items():
            self.writer.add_scalar(name, value, line["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Tracker:
    """trackio and wandb: the same calls."""

    def __init__(self, module: Any, folder: RunFolder, config: RunConfig):
        self.module = module
        module.init(project="jepakit", name=folder.path.name, config=to_plain(config))

    def log(self, line: dict[str, Any]) -> None:
        self.module.log(numbers(line), step=line["step"])

    def close(self) -> None:
        self.module.finish()


LOGGERS: dict[str, tuple[str, Any]] = {
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
    "trackio": ("trackio", Tracker),
    "wandb": ("wandb", Tracker),
}


def open_loggers(names: tuple[str, ...], folder: RunFolder, config: RunConfig) -> list[Logger]:
    """The loggers asked for, on rank 0. Errors: a package that is not installed, with its extra."""
    opened: list[Logger] = []
    for name in names if is_main() else ():
        package, kind = LOGGERS[name]
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            raise missing_extra(name, name, f"--loggers {name}") from error
        opened.append(kind(module, folder, config))
    return opened
