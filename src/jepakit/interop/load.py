"""`load`: the encoder of a run, of exported or of released weights; and systems that begin from such weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepakit.config import RunConfig
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder, Which, read_description
from jepakit.interop.released.checkpoints import Variant
from jepakit.interop.released.load import HUB_NAME, from_hub, is_released, load_released
from jepakit.interop.runs import PretrainedWorld, Run, check_teacher, copied_teacher, is_run, is_run_checkpoint
from jepakit.interop.strict_loading import load_strictly
from jepakit.interop.tuned import read_tuned
from jepakit.registry import name_of
from jepakit.training.run_folder import RunFolder


def load(path: str | Path, which: Which | None = None, variant: Variant | None = None) -> PretrainedEncoder:
    """The encoder of a run folder, of a folder that `export` wrote or of released weights: frozen, ready to use.

    Args:
        path: the folder, one of a run's `checkpoints/step-N`, an authors' file of I-JEPA, V-JEPA, V-JEPA 2, 2.1 or 2-AC, a
            folder in `transformers`' or timm's layout, or the name of one on the Hugging Face Hub (facebook/...).
        which: "target" (default: what is evaluated) or "encoder" (the context encoder), where there are both.
        variant: of an authors' file that may be of V-JEPA or V-JEPA 2.
    """
    if HUB_NAME.fullmatch(str(path)) and not Path(path).exists():
        path = from_hub(str(path))
    path = Path(path)
    if not is_run_checkpoint(path) and is_released(path):
        return load_released(path, which, variant)
    if variant is not None:
        raise UserError(f"variant is of authors' checkpoints (.pt, .pth.tar), and {path} is none. Leave it out.")
    if is_run(path):
        return Run(path).encoder(which)
    description = read_description(path)
    model = PretrainedEncoder.from_pretrained(path, description)
    if "tuning" in description:
        model = read_tuned(model, path, description["tuning"])
    if which is not None and which != model.which:
        raise UserError(f"{path} holds the {model.which!r} weights only. Export the run again with --which {which}.")
    return model


def teacher_of(config: RunConfig, folder: RunFolder) -> Any:
    """What a system asks for of another run: its frozen encoder (`--encoder`, a `PretrainedEncoder`), a whole world model
    (`--lower`, a `PretrainedWorld`), or nothing (None).

    A run keeps its own copy of it, which counts once it is there.
    """
    below, wanted = getattr(config.model, "lower", None), getattr(config.model, "encoder", None)
    if (folder.lower / "config.yaml").exists() or (folder.encoder / "config.json").exists():
        return copied_teacher(config, folder)
    if below is not None:
        return PretrainedWorld.of_run(below)
    if wanted is None:
        return None
    return check_teacher(load(wanted, getattr(config.model, "which", None)), config)


def initialise(system: System, source: str | Path) -> str | None:
    """Start a system from weights: a run of the same system gives all its parts, any other source its encoder. Returns the
    licence of the weights, where they have one.

    Errors: weights that do not fit, with the first tensors named. Nothing is loaded in part.
    """
    source = Path(source)
    run = Run(source) if is_run(source) else None
    if run is not None and run.config.system == name_of(type(system)):
        load_strictly(system, run.weights(), source if run.of_checkpoint else run.folder.model)
        return run.licence
    model = load(source) if run is None else run.encoder()
    for part in system.encoders().values():
        load_strictly(part, dict(model.encoder.state_dict()), source)
    return model.licence
