"""Whom `evaluate` measures: a run's encoder, or weights by themselves, beside the same encoder untrained, and on what data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jepakit.config import OBJECT
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.evaluation.flow_error import FLOW, Flow, knows_flow
from jepakit.interop.encoder import Which
from jepakit.interop.load import load
from jepakit.interop.runs import encoder_of
from jepakit.modalities.modality import Data, Modality
from jepakit.nn.flow import FlowPredictor
from jepakit.registry import load_system
from jepakit.training.finetuning import FineTuned
from jepakit.verbs.tuning_evaluation import fresh_encoder


@dataclass(kw_only=True)
class Subject:
    """What is measured.

    encoders: the one in question, then what it is compared with. system, untrained: of a run, and the same at random weights.
    dataset: how its data is read; named: whether that can be opened again. shown: how many samples a tuning looked at.
    """

    encoders: dict[str, nn.Module]
    predictor: nn.Module | None
    inputs: Any
    modality: Modality
    which: str
    dataset: Any
    seed: int = 0
    step: int = 0
    system: System | None = None
    untrained: System | None = None
    named: bool = True
    limited: bool = False
    shown: int = 0


def of_run(run: Run, which: Which | None) -> Subject:
    """A run's encoder; a tuned one's beside the pretrained one that it began with, too."""
    system, untrained, config = run.system, run.untrained, run.config
    seed, dataset = config.training.seed, config.dataset
    encoder, which = encoder_of(system, which)
    encoders = {"encoder": encoder, "random init": encoder_of(untrained, which)[0]}
    if isinstance(untrained, FineTuned):
        encoders["pretrained"] = encoders["random init"]
        encoders["random init"] = fresh_encoder(untrained.encoder, seed).to(run.device).eval()
    else:
        # `limit` is about what was trained on; probes take all labels, so that runs can be compared. Where labels were what was
        # trained on, no probe may have more of them.
        dataset = dataclasses.replace(dataset, limit=None)
    return Subject(
        encoders=encoders, predictor=getattr(system, "predictor", None), inputs=config.inputs, which=which,
        modality=load_system(config.system).modality, dataset=dataset, seed=seed, system=system, untrained=untrained,
        named=config.dataset.data != OBJECT, limited=dataset.limit != config.dataset.limit,
        step=run.step,
        shown=(config.training.steps or 0) * config.training.batch_size,
    )  # fmt: skip


def of_weights(path: Path, which: Which | None, where: torch.device, data: Any) -> Subject:
    """An encoder that is no run's, beside the same one at random weights."""
    model = load(path, which)
    if data is None:
        raise UserError(f"{path} is no run, which would know its data. Give some with labels: --data.")
    known = {field.name for field in dataclasses.fields(model.modality.Config)}
    options = {name: value for name, value in model.inputs.options().items() if name in known}
    encoders = {"encoder": model.encoder.to(where), "random init": fresh_encoder(model.encoder, 0).to(where).eval()}
    return Subject(
        encoders=encoders, predictor=None if model.predictor is None else model.predictor.to(where), inputs=model.inputs,
        which=model.which, modality=model.modality, dataset=model.modality.Config(data=str(data), **options),
    )  # fmt: skip


def open_data(subject: Subject, data: Any, labels: str | None, opened: Data | None) -> Data:
    """The data and labels that were asked for, or else the run's; `opened` where that is them."""
    dataset, kind = subject.dataset, subject.modality
    if data is not None:
        other = {"labels": None} if hasattr(dataset, "labels") else {}  # a CSV is of the run's own data
        dataset = dataclasses.replace(dataset, data=str(data), **other)
    if labels is not None:
        if not hasattr(dataset, "labels"):
            raise UserError(f"labels: those of {kind.name} are in the data. Leave --labels out.")
        dataset = dataclasses.replace(dataset, labels=labels)
    if data is not None:
        return kind.open(dataset, 0)
    if opened is None and not subject.named:
        raise UserError("The run was trained on a data set object, which is not in the run folder: give --data.")
    if opened is None or ((subject.limited or labels is not None) and subject.named):
        return kind.open(dataset, subject.seed)
    return opened


def finds_flow(system: System | None, data: Data) -> bool:
    """Whether a system finds the motion in clips, and that of the data is known."""
    return isinstance(getattr(system, "predictor", None), FlowPredictor) and knows_flow(data.test)


def flows_of(subject: Subject, data: Data) -> dict[str, Flow]:
    """What finds the flow in clips: the system, and the same untrained. Errors: it finds none; the true one is not known."""
    found: Any = {"encoder": subject.system, "random init": subject.untrained}
    if not isinstance(getattr(subject.system, "predictor", None), FlowPredictor):
        raise UserError(f"{FLOW} is of systems that find the motion in clips (mc-jepa with --motion above 0). Leave it out.")
    if not knows_flow(data.test):
        raise UserError(f"{FLOW}: the motion in {data.name} is not known. Evaluate other data: --data moving-photographs.")

    def on_its_device(one: Any) -> Flow:
        where = next(one.parameters()).device
        return lambda first, second: one.flow(first.to(where), second.to(where)).cpu()

    return {name: on_its_device(one) for name, one in found.items()}
