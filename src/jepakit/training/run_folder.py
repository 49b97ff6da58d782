"""The run folder: `config.yaml · metrics.jsonl · checkpoints/ · model.safetensors · evaluation.json · report.html`."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from jepakit.errors import UserError
from jepakit.files import UNFINISHED, read_metrics, write_atomic

FORMAT = 1


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
        self.report = self.path / "report.html"

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

    def remove_unfinished(self) -> None:
        """Remove the files that a killed process was writing."""
        for folder in (self.path, self.checkpoints):
            for path in folder.glob(f".*{UNFINISHED}"):
                path.unlink()

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

    def save_checkpoint(self, step: int, state: dict[str, Any], keep: int, best: int | None) -> Path:
        """Save a checkpoint, then remove all but the newest `keep` and the one of step `best`."""
        path = self.checkpoints / f"step-{step:08d}.pt"
        write_atomic(path, lambda p: torch.save({"format": FORMAT, **state}, p))
        for old in self.list_checkpoints()[:-keep]:
            if step_of(old) != best:
                old.unlink()
        return path

    def list_checkpoints(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted(self.checkpoints.glob("step-*.pt"))

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """The newest checkpoint, None when there is none. It is read with `weights_only`: no code in it runs."""
        paths = self.list_checkpoints()
        if not paths:
            return None
        return read_checkpoint(paths[-1], device)

    def save_model(self, system: torch.nn.Module) -> None:
        """Write the system's weights, `model.safetensors`."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in system.state_dict().items()}
        write_atomic(self.model, lambda p: save_file(tensors, p, metadata={"format": "pt"}))


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was saved after."""
    return int(checkpoint.stem.removeprefix("step-"))


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """One checkpoint, read with `weights_only`: no code in it runs. Errors: cut short, or of another format."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read ({reason}). Delete it to resume from the one before.") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: this jepakit reads checkpoint format {FORMAT}, found {found!r}.")
    return state
