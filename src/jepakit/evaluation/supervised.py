"""The same encoder trained with labels: what its size and this much data allow, to stand beside self-supervision."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor, nn

from jepakit.core.batch import map_tensors
from jepakit.errors import check_range
from jepakit.evaluation.attentive import outputs_of, scaled_targets, task_loss
from jepakit.evaluation.features import Features
from jepakit.evaluation.intervals import interval_of
from jepakit.evaluation.labels import Targets, check_lengths, held_out, read_targets
from jepakit.evaluation.metrics import metrics_for
from jepakit.evaluation.pooling import pool
from jepakit.evaluation.rows import Row
from jepakit.randomness import derive_seed

Augment = Callable[[Any, int, Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """AdamW, warm-up over a tenth, cosine decay; stops `patience` epochs after the validation loss was best."""

    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    validation_fraction: float = 0.1
    patience: int = 10

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, low=1)
        check_range("batch_size", self.batch_size, low=2)
        check_range("learning_rate", self.learning_rate, low=0)
        check_range("weight_decay", self.weight_decay, low=0)
        check_range("validation_fraction", self.validation_fraction, low=0.01, high=0.5)
        check_range("patience", self.patience, low=1)


def train_supervised(
    encoder: nn.Module,
    train_inputs: Any,
    train_labels: ArrayLike | Tensor,
    test_inputs: Any,
    test_labels: ArrayLike | Tensor,
    *,
    task: str | None = None,
    config: SupervisedConfig | None = None,
    augment: Augment | None = None,
    seed: int = 0,
) -> tuple[Features, list[Row]]:
    """Train a copy of `encoder` (inputs -> `Tokens`) with labels: mean over tokens, then a linear layer.

    Give the encoder as it is before pretraining. The epoch whose weights are kept is chosen on a validation part held
    out of the training part. Inputs are moved, a batch at a time, to where the encoder's parameters are.

    Args:
        train_inputs, test_inputs: what the encoder takes, `[n, ...]`: a tensor or a dict of tensors.
        augment: `augment(inputs, epoch, positions) -> inputs` for training batches; positions count the training part.

    Returns:
        The mean-pooled features "supervised" of the trained encoder (no tokens), for the same evaluators as the others;
        and rows of the evaluator "direct": what the trained linear layer itself scores on the test part.
    """
    config = config or SupervisedConfig()
    first = _tensors(train_inputs)[0], _tensors(test_inputs)[0]
    check_lengths("supervised", first, (train_labels, test_labels))
    targets = read_targets(train_labels, test_labels, task)
    device = next(encoder.parameters()).device
    labels, in_units = scaled_targets(targets)
    held = held_out(targets.strata, config.validation_fraction, derive_seed(seed, "supervised validation"))
    fit, check = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "supervised"))
        model = _Classifier(copy.deepcopy(encoder), _rows(train_inputs, slice(2), device), outputs_of(targets)).to(device)
        epochs = _fit(model, train_inputs, labels, fit, check, targets, config, augment, seed)
    scores = in_units(_outputs(model, test_inputs))
    train, test = (_outputs(model, inputs, embedded=True) for inputs in (train_inputs, test_inputs))
    features = Features("supervised", train, test)
    rows = []
    for metric in metrics_for(targets):
        found = interval_of(metric, scores, targets.test, seed)
        detail = {"epochs": epochs, "train": len(fit), "test": len(targets.test)}
        rows.append(Row.of("supervised", "direct", metric, found, detail))
    return features, rows


class _Classifier(nn.Module):
    """Mean over the encoder's tokens, then a linear layer."""

    def __init__(self, encoder: nn.Module, example: Any, outputs: int):
        super().__init__()
        self.encoder = encoder
        with torch.no_grad():
            width = self.encoder.eval()(example).values.shape[-1]
        self.head = nn.Linear(width, outputs)

    def embed(self, inputs: Any) -> Float[Tensor, "batch dim"]:
        return pool(self.encoder(inputs))

    def forward(self, inputs: Any) -> Float[Tensor, "batch outputs"]:
        return self.head(self.embed(inputs))


def _fit(
    model: _Classifier,
    inputs: Any,
    labels: Tensor,
    fit: Int[Tensor, "fit"],
    check: Int[Tensor, "check"],
    targets: Targets,
    config: SupervisedConfig,
    augment: Augment | None,
    seed: int,
) -> int:
    """Train in place and leave the weights of the best epoch in the model; returns that epoch (from 1)."""
    device = model.head.weight.device
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(derive_seed(seed, "supervised order"))
    steps_in_epoch = math.ceil(len(fit) / config.batch_size)
    total = config.epochs * steps_in_epoch
    warm_up = max(1, total // 10)
    step, best_loss, best_epoch = 0, math.inf, 0
    best = copy.deepcopy(model.state_dict())
    for epoch in range(config.epochs):
        model.train()
        order = fit[torch.randperm(len(fit), generator=generator)]
        for batch in torch.tensor_split(order, steps_in_epoch):  # equal parts: no batch of one for a BatchNorm
            progress = max(0.0, (step - warm_up) / max(1, total - warm_up))
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * progress)))
            drawn = _rows(inputs, batch)
            drawn = drawn if augment is None else augment(drawn, epoch, batch)
            loss = task_loss(model(_rows(drawn, slice(None), device)), labels[batch].to(device), targets.task).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
        validation = float(task_loss(_outputs(model, _rows(inputs, check)), labels[check], targets.task).mean())
        if validation < best_loss:
            best_loss, best_epoch, best = validation, epoch + 1, copy.deepcopy(model.state_dict())
        elif epoch + 1 - best_epoch >= config.patience:
            break
    model.load_state_dict(best)
    return best_epoch


@torch.no_grad()
def _outputs(model: _Classifier, inputs: Any, *, embedded: bool = False) -> Tensor:
    """Scores (or embeddings) of all inputs, without gradient, in evaluation mode, on the CPU."""
    model.eval()
    device, count = model.head.weight.device, len(_tensors(inputs)[0])
    parts = (_rows(inputs, slice(start, start + 512), device) for start in range(0, count, 512))
    return torch.cat([(model.embed(part) if embedded else model(part)).cpu() for part in parts])


def _rows(inputs: Any, which: Any, device: torch.device | None = None) -> Any:
    """Some of the inputs, on the device."""
    return map_tensors(lambda tensor: tensor[which].to(device or tensor.device), inputs)


def _tensors(inputs: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(found.append, inputs)
    return found
