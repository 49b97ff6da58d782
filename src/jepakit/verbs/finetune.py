"""`finetune`: a trained encoder and a head learn from labels; a run folder like any other is left behind."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from jepakit.config import OBJECT, RunConfig, default_config, read_config
from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.load import load
from jepakit.registry import TUNED, is_tuned
from jepakit.verbs.pretrain import Pretrained, run_config


def finetune(
    run: str | Path | None = None,
    *,
    data: Any = None,
    out: str | Path,
    config: str | Path | None = None,
    **options: Any,
) -> Pretrained:
    """Tune an encoder on labels, then measure what that gained: beside a linear probe of the frozen encoder, the same encoder
    trained from random weights, and answering always the same; write a report.

    Args:
        run: what is tuned: a run folder, a folder that `export` wrote, or released weights (see `jepakit.load`). May be left
            out with `config`.
        data: labelled data, read as the encoder needs it: a folder, a file, a built-in name, or a data set object.
        out: the run folder to create. `jepakit.load(out).predict(inputs)` answers.
        config: a tuned run's `config.yaml`, reproduced; other options override it.
        options: `method` ("full", "last-blocks", "lora") and any other option of the tuning, the data, or the training.
            `jepakit finetune RUN --help` lists them all.

    Errors: `UserError` for whatever is wrong with options, data, labels or weights, before anything is trained.
    """
    source = None if data is None or isinstance(data, str | os.PathLike) else data
    given = None if data is None else OBJECT if source is not None else os.fspath(data)
    if config is not None:
        base = read_tuned_config(config)
        run = base.model.encoder if run is None else run
        which = options.get("which", base.model.which)
    elif run is None or given is None:
        raise UserError("finetune needs a run and labelled data: jepakit finetune runs/a --data ./photos --out runs/tuned")
    else:
        base, which = None, options.get("which")
    model = load(run, which)
    chosen = default_config(tuned_name(model), given or "") if base is None else base
    if base is None:
        options = {**model.inputs.options(), **options}
    if given is not None:
        options["data"] = given
    if options.get("steps") is not None or options.get("epochs") is not None:
        options = {"steps": None, "epochs": None, **options}
    return tune(chosen.override(**options), run, Path(out), model, source)


def tune(chosen: RunConfig, run: str | Path, out: Path, model: PretrainedEncoder, source: Any = None) -> Pretrained:
    """Tune a model, that was loaded from `run`, as a config says."""
    if tuned_name(model) != chosen.system:
        raise UserError(f"{run} reads {model.modality.name}: the run to reproduce is one of {chosen.system}. Give one like it.")
    expected = model.inputs.options()
    for name, value in expected.items():
        if value is not None and getattr(chosen.dataset, name) != value:
            given = getattr(chosen.dataset, name)
            reads = f"{model.inputs.describe()} ({name} {value})"
            raise UserError(f"{name} {given}: the encoder of {run} reads {reads}. Leave it out.")
    described = dataclasses.replace(chosen.model, encoder=str(run))
    return run_config(dataclasses.replace(chosen, model=described), out, source=source, teacher=model)


def tuned_name(model: PretrainedEncoder) -> str:
    """What the run of a tuned model is called in its config. Errors: an encoder that cannot be tuned."""
    model.describe()  # its errors: an encoder that no run folder could keep a copy of
    return f"{TUNED}{model.modality.name}"


def read_tuned_config(path: str | Path) -> RunConfig:
    """The config of a tuned run. Errors: one of a run that was pretrained."""
    found = read_config(path)
    if not is_tuned(found.system):
        raise UserError(f"{path} is a run of {found.system!r}: reproduce it by jepakit pretrain, or tune it without --config.")
    return found
