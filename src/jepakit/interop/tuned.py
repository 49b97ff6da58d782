"""Tuned models as files: an encoder, its head and what the labels asked, from a run or from what `export` wrote of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepakit.config import from_plain, to_plain
from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.strict_loading import load_strictly
from jepakit.registry import TUNED
from jepakit.training.finetuning import FineTuned, tuned_system
from jepakit.training.finetuning_config import FineTuningConfig
from jepakit.training.weight_files import read_weights, write_weights

HEAD = "head.safetensors"
TUNING = ("head", "predictor", "answers")  # of the config, what an export says


@dataclass(frozen=True)
class Predictions:
    """values: probabilities `[batch, classes]`, or numbers in the labels' unit, `[batch]` or `[batch, numbers]`. classes: their
    names, none of a regression. task: that of the labels."""

    values: Tensor
    classes: tuple[str, ...]
    task: str

    @property
    def names(self) -> list[Any]:
        """The most probable class of each sample; of a multilabel task the list of those above one half."""
        if self.task == "regression":
            raise UserError("The model answers with numbers, which have no names: look at values.")
        if self.task == "multilabel":
            return [[self.classes[number] for number in row.nonzero()[:, 0].tolist()] for row in self.values > 0.5]
        return [self.classes[number] for number in self.values.argmax(1).tolist()]


class TunedEncoder(PretrainedEncoder):
    """The encoder of a tuned run, which can be asked: `model.predict(model.inputs.prepare(samples))`."""

    def __init__(self, tuned: FineTuned, which: str, licence: str | None):
        name = f"{TUNED}{tuned.modality.name}"
        super().__init__(
            tuned.encoder, tuned.inputs, name, which, tuned.modality, predictor=tuned.predictor, licence=licence
        )
        self.tuned = tuned.eval().requires_grad_(False)

    @torch.no_grad()
    def predict(self, inputs: Any) -> Predictions:
        """What the head answers to prepared inputs."""
        self.check_prepared(inputs)
        answers = self.tuned.answers
        return Predictions(answers.values(self.tuned.scores(inputs)), answers.classes, answers.task)

    def describe(self) -> dict[str, Any]:
        config = to_plain(self.tuned.config)
        return {**super().describe(), "tuning": {name: config[name] for name in TUNING}}

    def save_pretrained(self, folder: str | Path, *, predictor: bool = False) -> Path:
        """The encoder's files, the head's `head.safetensors`, and the predictor's where the head reads it."""
        folder = super().save_pretrained(folder, predictor=predictor or self.tuned.predictor is not None)
        write_weights(folder / HEAD, self.tuned.head.state_dict())
        return folder


def untuned(model: PretrainedEncoder) -> PretrainedEncoder:
    """What a run that tunes a model keeps of it: no head that it may have."""
    return PretrainedEncoder(
        model.encoder, model.inputs, model.system, model.which, model.modality, predictor=model.predictor,
        licence=model.licence,
    )  # fmt: skip


def read_tuned(model: PretrainedEncoder, folder: Path, description: object) -> TunedEncoder:
    """The tuned model of an exported encoder, from the head beside it. Errors: a head that does not fit the description."""
    if not isinstance(description, dict) or set(description) != set(TUNING):
        raise UserError(f"{folder}/config.json: tuning must say {', '.join(TUNING)}. Export the run again.")
    config = from_plain(FineTuningConfig, description, "tuning")
    tuned = tuned_system(model.modality.name)(config, model.inputs, encoder=model)
    load_strictly(tuned.head, read_weights(folder / HEAD), folder / HEAD)
    return TunedEncoder(tuned, model.which, model.licence)
