"""What labels ask of a model: how many numbers, what they are called, how wrong an answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepakit.errors import UserError, check_choice, check_range
from jepakit.evaluation.labels import as_array, read_targets


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The task, the number of outputs, the classes' names in the order of the outputs, and of a regression mean and deviation
    of each number over the training part, by which outputs are turned back into the labels' unit."""

    task: Literal["classification", "multilabel", "regression"]
    outputs: int
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choice("answers.task", self.task, ("classification", "multilabel", "regression"))
        check_range("answers.outputs", self.outputs, 1, 1_000_000)  # a stranger's config may claim any number
        names = {"classes": self.classes} if self.task != "regression" else {"mean": self.mean, "scale": self.scale}
        for name, values in names.items():
            if len(values) != self.outputs:
                raise UserError(f"answers.{name}: {self.outputs} outputs need as many, got {len(values)}.")
        if self.task == "regression" and not min(self.scale) > 0:
            raise UserError(f"answers.scale must be above 0, got {list(self.scale)[:8]}.")

    @classmethod
    def of(cls, data: Any) -> Answers:
        """What the labels of opened data ask. Errors: there are none, or they cannot be learned."""
        if data.task is None:
            raise UserError(
                f"{data.name} has no labels to tune on. Put the files into one sub-folder a class, or give --labels a.csv."
            )
        labels = as_array(data.train.labels)
        read_targets(labels, data.test.labels if len(data.test) else labels, data.task)
        if data.task == "regression":
            values = labels.astype(np.float64).reshape(len(labels), -1)
            mean, scale = tuple(values.mean(0).tolist()), tuple(values.std(0).tolist())
            return cls(task="regression", outputs=values.shape[1], mean=mean, scale=scale)
        outputs = labels.shape[1] if data.task == "multilabel" else int(labels.max()) + 1
        names = tuple(map(str, data.classes)) if data.classes else tuple(map(str, range(outputs)))
        return cls(task=data.task, outputs=len(names), classes=names)

    def wanted(self, labels: Tensor) -> Float[Tensor, "batch outputs"]:
        """What each output should be: 1 for a sample's class or its labels, 0 else; of a regression the numbers in standard
        deviations from their mean."""
        if self.task == "classification":
            return F.one_hot(labels.long(), self.outputs).double()
        numbers = labels.double().reshape(len(labels), self.outputs)
        if self.task == "multilabel":
            return numbers
        return (numbers - numbers.new_tensor(self.mean)) / numbers.new_tensor(self.scale)

    def losses(self, scores: Float[Tensor, "batch outputs"], labels: Tensor) -> Float[Tensor, "batch"]:
        """Of each sample: cross-entropy, the mean binary cross-entropy of its labels, or the mean squared error in units of the
        labels' variance."""
        scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
        if self.task == "classification":
            return F.cross_entropy(scores, labels, reduction="none")
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(scores, labels.to(scores), reduction="none").mean(1)
        return (scores - self.wanted(labels).to(scores)).square().mean(1)

    def values(self, scores: Float[Tensor, "batch outputs"]) -> Tensor:
        """What the scores say: probabilities `[batch, outputs]`, or of a regression numbers in the labels' unit, `[batch]` or
        `[batch, outputs]`."""
        scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
        if self.task == "classification":
            return scores.softmax(1)
        if self.task == "multilabel":
            return scores.sigmoid()
        mean, scale = (scores.new_tensor(values) for values in (self.mean, self.scale))
        numbers = scores * scale + mean
        return numbers[:, 0] if self.outputs == 1 else numbers
