"""The model that `evaluate` measures: a run's, or an encoder by itself, beside the same at random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jepakit.config import OBJECT
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.interop.encoder import Which
from jepakit.interop.load import load
from jepakit.interop.runs import Run, encoder_of
from jepakit.modalities.modality import Data, Modality
from jepakit.randomness import derive_seed
from jepakit.registry import load_system


class EvaluatedModel:
    """An encoder under test, what it is compared with, and the data that it reads. Comparisons are built when first used.

    Args:
        path: where it was read from, for messages.
        encoder: the one in question.
        comparisons: builds the encoders that it is compared with, by name.
        predictor: the encoder's, where there is one.
        dataset: the options by which its data is opened.
        run: the run that it is of; None: an encoder by itself.
        limited: whether the run was trained on fewer samples than `dataset` opens.
    """

    def __init__(
        self,
        *,
        path: Path,
        encoder: nn.Module,
        comparisons: Callable[[], dict[str, nn.Module]],
        predictor: nn.Module | None,
        inputs: Any,
        modality: Modality,
        which: str,
        dataset: Any,
        device: torch.device,
        run: Run | None = None,
        limited: bool = False,
    ):
        self.path, self.encoder, self.comparisons, self.predictor = path, encoder, comparisons, predictor
        self.inputs, self.modality, self.which, self.dataset = inputs, modality, which, dataset
        self.device, self.run, self.limited = device, run, limited

    @classmethod
    def of_run(cls, run: Run, which: Which | None = None) -> EvaluatedModel:
        """A run's encoder, beside the same at random weights; a tuned one's also beside the one that it began with."""
        encoder, chosen = encoder_of(run.system, which)
        dataset = run.config.dataset
        # `limit` is about what was trained on; probes take all labels, so that runs can be compared. Where labels were what was
        # trained on, no probe may have more of them.
        if run.system.answers is None:
            dataset = dataclasses.replace(dataset, limit=None)

        def comparisons() -> dict[str, nn.Module]:
            untrained = encoder_of(run.untrained, chosen)[0]
            if run.system.answers is None:
                return {"random init": untrained}
            fresh = fresh_encoder(untrained, run.config.training.seed).to(run.device).eval()
            return {"random init": fresh, "pretrained": untrained}

        return cls(
            path=run.path, encoder=encoder, comparisons=comparisons, predictor=getattr(run.system, "predictor", None),
            inputs=run.config.inputs, modality=load_system(run.config.system).modality, which=chosen, dataset=dataset,
            device=run.device, run=run, limited=dataset.limit != run.config.dataset.limit,
        )  # fmt: skip

    @classmethod
    def of_weights(cls, path: Path, which: Which | None, device: torch.device, data: Any) -> EvaluatedModel:
        """An encoder that is no run's. Errors: no data, which only a run knows by itself."""
        model = load(path, which)
        if data is None:
            raise UserError(f"{path} is no run, which would know its data. Give some with labels: --data.")
        known = {field.name for field in dataclasses.fields(model.modality.Config)}
        options = {name: value for name, value in model.inputs.options().items() if name in known}
        return cls(
            path=path, encoder=model.encoder.to(device),
            comparisons=lambda: {"random init": fresh_encoder(model.encoder, 0).to(device).eval()},
            predictor=None if model.predictor is None else model.predictor.to(device), inputs=model.inputs,
            modality=model.modality, which=model.which, dataset=model.modality.Config(data=str(data), **options),
            device=device,
        )  # fmt: skip

    @cached_property
    def encoders(self) -> dict[str, nn.Module]:
        """The encoder in question, then those that it is compared with."""
        return {"encoder": self.encoder, **self.comparisons()}

    @property
    def system(self) -> System | None:
        """The run's system with its weights; None of an encoder by itself."""
        return None if self.run is None else self.run.system

    @property
    def systems(self) -> dict[str, System]:
        """The run's system in eval mode and the same at random weights; empty of an encoder by itself."""
        return {} if self.run is None else {"encoder": self.run.system.eval(), "random init": self.run.untrained.eval()}

    @property
    def seed(self) -> int:
        """The run's seed, which decides what evaluation draws."""
        return 0 if self.run is None else self.run.config.training.seed

    @property
    def step(self) -> int:
        """The step at which the run ended."""
        return 0 if self.run is None else self.run.step

    @property
    def samples_seen(self) -> int:
        """How many samples the run was trained on, counting repetitions."""
        return 0 if self.run is None else (self.run.config.training.steps or 0) * self.run.config.training.batch_size

    def open_data(self, data: Any = None, labels: str | None = None) -> Data:
        """The data and labels asked for, or else the run's."""
        dataset, kind = self.dataset, self.modality
        if data is not None:
            other = {"labels": None} if hasattr(dataset, "labels") else {}  # a CSV is of the run's own data
            dataset = dataclasses.replace(dataset, data=str(data), **other)
        if labels is not None:
            if not hasattr(dataset, "labels"):
                raise UserError(f"labels: those of {kind.name} are in the data. Leave --labels out.")
            dataset = dataclasses.replace(dataset, labels=labels)
        if data is not None or self.run is None:
            return kind.open(dataset, 0)
        opened, named = self.run.opened_data, self.run.config.dataset.data != OBJECT
        if opened is None and not named:
            raise UserError("The run was trained on a data set object, which is not in the run folder: give --data.")
        if opened is None or ((self.limited or labels is not None) and named):
            return kind.open(dataset, self.seed)
        return opened


def fresh_encoder(encoder: nn.Module, seed: int) -> nn.Module:
    """An encoder of the same shape at random weights."""
    torch.manual_seed(derive_seed(seed, "random baseline"))
    kind: Any = type(encoder)
    return kind(encoder.config)
