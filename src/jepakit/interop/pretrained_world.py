"""A trained world model as a part of another system: loaded from its run, and kept in the run of what is built on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from jepakit.config import RunConfig, write_config
from jepakit.core.dynamics import Dynamics
from jepakit.core.hierarchy import Hierarchy
from jepakit.errors import UserError
from jepakit.interop.pretrained import is_run_checkpoint, load_run_system
from jepakit.training.run_folder import RunFolder
from jepakit.training.weight_files import write_weights


class PretrainedWorld:
    """A world model in eval mode, with the config of its run and what it expects of its input."""

    option: ClassVar[str] = "lower"  # of a system's config, and the folder of its run that keeps the copy

    def __init__(self, model: Dynamics, config: RunConfig, run: Path):
        self.model, self.config, self.run = model, config, run
        self.inputs: Any = config.inputs

    @classmethod
    def of_run(cls, run: str | Path) -> PretrainedWorld:
        """From a run folder or one of its checkpoints. Errors: a run that predicts nothing of actions, or a hierarchy."""
        system, config = load_run_system(run)
        if not isinstance(system, Dynamics) or isinstance(system, Hierarchy):
            raise UserError(f"lower: {run} is a run of {config.system!r}. Give one of a single world model: pldm or lewm.")
        run = Path(run)
        return cls(system, config, run.parents[1] if is_run_checkpoint(run) else run)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a run folder from which it can be loaded: config, weights, and the frozen encoder where it has one."""
        kept, source = RunFolder(folder), RunFolder(self.run)
        kept.path.mkdir(parents=True, exist_ok=True)
        write_config(kept.config, self.config)
        write_weights(kept.model, self.model.state_dict())
        if source.encoder.is_dir():
            shutil.copytree(source.encoder, kept.encoder)
        return kept.path
