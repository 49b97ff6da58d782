"""The options of fine-tuning."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from jepakit.errors import UserError, check_choice, check_range
from jepakit.training.answers import Answers

METHODS = ("full", "last-blocks", "lora")
# Options of one method or two, with what they are where nothing is said.
OF_METHODS: dict[str, dict[str, Any]] = {
    "layer_decay": {"full": 0.75, "last-blocks": 1.0},
    "blocks": {"last-blocks": 1},
    "rank": {"lora": 8},
    "alpha": {"lora": 16.0},
}


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """What is trained, and what reads its tokens."""

    method: Literal["full", "last-blocks", "lora"] = "full"
    """full: the whole encoder; last-blocks: its last blocks, the others frozen; lora: adapters of low rank beside the layers of
    its blocks, merged into them at the end (extra lora). The head is always trained."""
    layer_decay: float | None = None
    """Of full and last-blocks: each layer learns at this share of the rate of the one above. Default: 0.75 of full, else 1."""
    blocks: int | None = None
    """Of last-blocks: how many are trained; 0 trains what stands on the encoder alone. Default: 1."""
    rank: int | None = None
    """Of lora: rank of an adapter. Default: 8."""
    alpha: float | None = None
    """Of lora: an adapter counts alpha / rank. Default: 16."""
    head: Literal["linear", "attentive"] = "linear"
    """linear: of the mean over tokens; attentive: V-JEPA's probe, a learned query that looks at all tokens."""
    predictor: Literal["dropped", "kept"] = "dropped"
    """kept: the encoder's predictor stays on top of it, is asked for all positions and tuned; the head reads its answers."""
    which: Literal["target", "encoder"] | None = None
    """Which encoder of the run or file is tuned. Default: the one that is evaluated."""

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("head", self.head, ("linear", "attentive"))
        check_choice("predictor", self.predictor, ("dropped", "kept"))
        for name, methods in OF_METHODS.items():
            if getattr(self, name) is not None and self.method not in methods:
                raise UserError(f"{name} is of method {' and '.join(methods)}, this is {self.method}: leave it out.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}.")
        if self.blocks is not None:
            check_range("blocks", self.blocks, 0)
        if self.rank is not None:
            check_range("rank", self.rank, 1, 10_000)
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise UserError(f"alpha must be above 0, got {self.alpha}.")


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig(FineTuningOptions):
    """The same, with what is tuned and what was found in the labels."""

    encoder: str | None = None
    """The run or weights that are tuned."""
    answers: Answers | None = None
    """What the labels were found to be."""

    def settled(self, answers: Answers) -> FineTuningConfig:
        """With every option of the method said, and what was found."""
        said: dict[str, Any] = {name: getattr(self, name) for name in OF_METHODS}
        found: dict[str, Any] = {
            name: OF_METHODS[name].get(self.method) if value is None else value for name, value in said.items()
        }
        return dataclasses.replace(self, answers=answers, **found)


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How the run is watched: its loss and score on some held-out samples and on as many that it is trained on. Nothing is
    chosen by them."""

    watch_every: int | None = None
    """Steps between two looks. Default: ten a run."""
    watch_samples: int = 256
    """Samples of each part that are looked at."""

    def __post_init__(self) -> None:
        if self.watch_every is not None:
            check_range("watch_every", self.watch_every, 1)
        check_range("watch_samples", self.watch_samples, 8)
