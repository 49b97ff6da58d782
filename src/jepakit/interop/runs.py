"""Opens runs: config, system, weights and what the system stands on are each read once, and handed on as a `Run`."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from jepakit.config import OBJECT, RunConfig, read_config, write_config
from jepakit.core.dynamics import Dynamics
from jepakit.core.hierarchy import Hierarchy
from jepakit.core.system import System
from jepakit.errors import UserError, check_choice
from jepakit.files import read_json
from jepakit.interop.encoder import PretrainedEncoder, Which
from jepakit.interop.strict_loading import load_strictly
from jepakit.interop.tuned import TunedEncoder
from jepakit.modalities.modality import Data
from jepakit.randomness import derive_seed
from jepakit.registry import is_tuned, load_system
from jepakit.training.checkpoints import read_checkpoint
from jepakit.training.run_folder import RunFolder
from jepakit.training.weight_files import read_weights, write_weights


def is_run(path: Path) -> bool:
    """Return whether this is a run folder, or a checkpoint inside one."""
    return (path / "config.yaml").exists() or is_run_checkpoint(path)


def is_run_checkpoint(path: Path) -> bool:
    """Return whether this is a checkpoint inside a run folder."""
    return path.is_dir() and path.parent.name == "checkpoints" and (path.parents[1] / "config.yaml").exists()


class Run:
    """A finished run, or one of its checkpoints (`RUN/checkpoints/step-N`). Each part is read when it is first asked for, and
    kept: verbs that work on the same run hand the `Run` on.

    Args:
        path: the run folder or the checkpoint.
        device: where the systems are; None: the CPU.
        data: the run's data, where it is open already.

    Errors: no run folder, or a config that no run wrote.
    """

    def __init__(self, path: str | Path, device: torch.device | None = None, data: Data | None = None):
        self.path, self.device = Path(path), device or torch.device("cpu")
        self.of_checkpoint = is_run_checkpoint(self.path)
        self.folder = RunFolder(self.path.parents[1] if self.of_checkpoint else self.path)
        self.config = read_config(self.folder.path)
        if data is not None:
            self.data = data

    @classmethod
    def of(cls, run: str | Path | Run, device: torch.device | None = None) -> Run:
        """Return the run, opened if it is a path."""
        return run if isinstance(run, Run) else cls(run, device)

    @cached_property
    def teacher(self) -> PretrainedEncoder | PretrainedWorld | None:
        """What the system stands on, from the copy that the run keeps."""
        return copied_teacher(self.config, self.folder)

    @cached_property
    def system(self) -> System:
        """The system with its weights, in eval mode. Errors: weights that do not fit the config."""
        if self.config.inputs is None:
            raise UserError(f"{self.folder.path}/config.yaml has no inputs section: it was not written by a run.")
        state = read_checkpoint(self.path, torch.device("cpu")) if self.of_checkpoint else None
        system = build_system(self.config, self.teacher)
        if state is not None:
            system.begin_training()
            load_strictly(system, state["system"], self.path)
            system.end_training()
        else:
            load_strictly(system, self.weights(), self.folder.model)
        return system.to(self.device).eval()

    @cached_property
    def untrained(self) -> System:
        """The same system at random weights, which the seed decides: the baseline of every evaluation."""
        torch.manual_seed(derive_seed(self.config.training.seed, "random baseline"))
        return build_system(self.config, self.teacher).to(self.device).eval()

    @cached_property
    def data(self) -> Data:
        """The data that it was trained on. Errors: it was a data set object, which is not in the run folder."""
        if self.config.dataset.data == OBJECT:
            raise UserError("The run was trained on a data set object, which is not in the run folder: give --data.")
        return load_system(self.config.system).modality.open(self.config.dataset, self.config.training.seed)

    def weights(self) -> dict[str, torch.Tensor]:
        """The system's tensors by name, as they were when its training ended."""
        return dict(self.system.state_dict()) if self.of_checkpoint else read_weights(self.folder.model)

    @property
    def has_data(self) -> bool:
        """Whether `data` is open, or can be opened by its name."""
        return self.opened_data is not None or self.config.dataset.data != OBJECT

    @property
    def opened_data(self) -> Data | None:
        """`data` where it is open already."""
        return self.__dict__.get("data")

    def to(self, device: torch.device) -> Run:
        """Move the systems that were built, and those to come, to a device."""
        self.device = device
        for name in ("system", "untrained"):
            if name in self.__dict__:
                self.__dict__[name].to(device)
        return self

    @property
    def licence(self) -> str | None:
        """The licence of the weights that it began from; None where it began at random."""
        path = self.folder.environment
        licence = read_json(path).get("licence") if path.exists() else None
        return None if licence is None else str(licence)

    @property
    def step(self) -> int:
        """The last step in its metrics."""
        return max((line.get("step", 0) for line in self.folder.read_metrics()), default=0)

    def encoder(self, which: Which | None = None) -> PretrainedEncoder:
        """The encoder, frozen; with the answers of its head where the run was tuned on labels."""
        encoder, chosen = encoder_of(self.system, which)
        if is_tuned(self.config.system):
            return TunedEncoder(self.system, chosen, self.licence)  # type: ignore[arg-type]
        return PretrainedEncoder(
            encoder, self.config.inputs, self.config.system, chosen, load_system(self.config.system).modality,
            predictor=getattr(self.system, "predictor", None), licence=self.licence,
        )  # fmt: skip


class PretrainedWorld:
    """A world model in eval mode, with the config of its run and what it expects of its input."""

    option: ClassVar[str] = "lower"  # of a system's config, and the folder of its run that keeps the copy

    def __init__(self, model: Dynamics, config: RunConfig, run: Path):
        self.model, self.config, self.run = model, config, run
        self.inputs: Any = config.inputs

    @classmethod
    def of_run(cls, path: str | Path) -> PretrainedWorld:
        """From a run folder or one of its checkpoints. Errors: a run that predicts nothing of actions, or a hierarchy."""
        run = Run(path)
        if not isinstance(run.system, Dynamics) or isinstance(run.system, Hierarchy):
            raise UserError(f"lower: {path} is a run of {run.config.system!r}. Give one of a single world model: pldm or lewm.")
        return cls(run.system, run.config, run.folder.path)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a run folder from which it can be loaded: config, weights, and the frozen encoder where it has one."""
        kept, source = RunFolder(folder), RunFolder(self.run)
        kept.path.mkdir(parents=True, exist_ok=True)
        write_config(kept.config, self.config)
        write_weights(kept.model, self.model.state_dict())
        if source.encoder.is_dir():
            shutil.copytree(source.encoder, kept.encoder)
        return kept.path


def copied_teacher(config: RunConfig, folder: RunFolder) -> PretrainedEncoder | PretrainedWorld | None:
    """What a run's system stands on, from the copy in its folder: a frozen encoder (`--encoder`), a whole world model
    (`--lower`), or nothing. Errors: the copy is missing."""
    if getattr(config.model, "lower", None) is not None:
        if not (folder.lower / "config.yaml").exists():
            raise UserError(f"{folder.lower} is missing: the world model that the run stands on. Copy the whole run folder.")
        return PretrainedWorld.of_run(folder.lower)
    if getattr(config.model, "encoder", None) is not None:
        if not (folder.encoder / "config.json").exists():
            raise UserError(f"{folder.encoder} is missing: the encoder that the run stands on. Copy the whole run folder.")
        return check_teacher(PretrainedEncoder.from_pretrained(folder.encoder), config)
    return None


def check_teacher(teacher: PretrainedEncoder, config: RunConfig) -> PretrainedEncoder:
    """Return the encoder. Errors: it reads another kind of data than the system takes encoders of."""
    kind = load_system(config.system)
    allowed = kind.encoder_modalities or (kind.modality.name,)
    if teacher.modality.name not in allowed:
        raise UserError(
            f"encoder {config.model.encoder} reads {teacher.modality.name}, {config.system} takes one of "
            f"{' or '.join(allowed)}. Give the encoder of another run."
        )
    return teacher


def build_system(config: RunConfig, teacher: Any = None) -> System:
    """The system of a run's config, at random weights but for its teacher's. Errors: it does not fit into memory."""
    given = {} if teacher is None else {teacher.option: teacher}
    try:
        return load_system(config.system)(config.model, config.inputs, config.training.seed, **given)
    except (RuntimeError, MemoryError, OverflowError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error) and "Storage size" not in str(error):
            raise
        raise UserError(f"{config.system} of these sizes does not fit into memory: {str(error)[:99]}. Lower --size.") from error


def encoder_of(system: System, which: Which | None = None) -> tuple[nn.Module, Which]:
    """The encoder of a system: "target" is the one its papers evaluate (the EMA copy where there is one)."""
    both: dict[str, nn.Module] = system.encoders()
    which = which or "target"
    check_choice("which", which, both)
    return both[which], which
