"""The run folder: `config.yaml · metrics.jsonl · checkpoints/ · model.safetensors · evaluation.json · report.html`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from jepakit.errors import UserError
from jepakit.files import UNFINISHED, read_metrics, write_atomic
from jepakit.training.checkpoints import remove_checkpoint
from jepakit.training.distributed import full, is_main
from jepakit.training.weight_files import write_weights


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model.safetensors"
        self.evaluation = self.path / "evaluation.json"
        self.environment = self.path / "environment.json"
        self.state_probe = self.path / "state_probe.safetensors"  # of a world model: states read linearly off embeddings
        self.state_reader = self.path / "state_reader.safetensors"  # the same by a small network, for agents
        self.acting = self.path / "acting.json"
        self.recordings = self.path / "acting"  # episodes that were recorded while acting
        self.actor = self.path / "actor.safetensors"  # the reactive actor that `act --teach` distilled, and its critic
        self.critic = self.path / "critic.safetensors"
        self.report = self.path / "report.html"
        self.encoder = self.path / "encoder"  # a copy of the frozen encoder that was given, where one was
        self.lower = self.path / "lower"  # a copy of the world model that the system stands on, where it does: a run folder

    def check_free(self) -> None:
        """Refuse a folder that already holds a run, or that cannot be made."""
        if self.config.exists():
            raise UserError(
                f"{self.path} already holds a run. Continue it with `jepakit resume {self.path}`, or choose another "
                "--out."
            )
        parent = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            what = "may not be written to" if parent.is_dir() else "is a file"
            raise UserError(f"Cannot make the run folder {self.path}: {parent} {what}. Choose another --out.")

    def create(self) -> None:
        """Make the folder; refuse one that already holds a run."""
        self.check_free()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot make the run folder {self.path}: {error.strerror}. Choose another --out."
            ) from None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains this run while it is entered; rank 0's alone to ask. The system frees it when a process dies.

        Errors: another process does.
        """
        if self.checkpoints.is_symlink() or self.metrics.is_symlink():
            raise UserError(
                f"checkpoints or metrics.jsonl in {self.path} is a link: what it leads to would be changed. Put the file or "
                "folder itself there, or link the whole run folder."
            )
        lock = FileLock(self.checkpoints / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"{self.path} is being trained by another process. End that first (workers of a torchrun that was killed with "
                "-9 live on), or wait for it."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def remove_unfinished(self) -> None:
        """Remove what a killed process was writing."""
        for folder in (self.path, self.checkpoints):
            for path in folder.glob(f".*{UNFINISHED}"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        with open(self.metrics, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of `metrics.jsonl` (a last line cut by a crash is left out)."""
        return read_metrics(self.metrics)

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        write_atomic(self.metrics, lambda p: p.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8"))

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step-{step:08d}"

    def list_checkpoints(self) -> list[Path]:
        """Checkpoints, oldest first. Errors: there are only some of a format that is no longer read."""
        found = sorted(self.checkpoints.glob("step-*"))
        kept = [path for path in found if path.is_dir()]
        if found and not kept:
            raise UserError(
                f"{found[-1]} is of an earlier checkpoint format, from which this jepakit cannot continue. Start anew: "
                f"jepakit pretrain --config {self.config} --out NEW."
            )
        return kept

    def prune_checkpoints(self, keep: int, best: int | None) -> None:
        """Remove all checkpoints but the newest `keep` and the one of step `best`."""
        for old in self.list_checkpoints()[:-keep]:
            if step_of(old) != best:
                remove_checkpoint(old)

    def save_model(self, system: torch.nn.Module) -> None:
        """Write the system's weights, `model.safetensors`; where they lie in shards, every rank calls this."""
        tensors = {name: full(t.detach()) for name, t in system.state_dict().items()}
        if is_main():
            write_weights(self.model, tensors)


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was saved after."""
    return int(checkpoint.name.removeprefix("step-"))
