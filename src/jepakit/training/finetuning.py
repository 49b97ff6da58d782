"""Fine-tuning: a trained encoder, with its predictor or without, and a head that learn to answer with labels.

No JEPA, but a `System` for the same loop, so that a tuned run resumes, loads and exports like any other. Layer-wise decay of
the learning rate is BEiT's (arXiv 2106.08254, appendix), as in MAE; low-rank adapters are LoRA (arXiv 2106.09685) by `peft`;
the predictor on top of the encoder, asked for all positions, is IWM's (arXiv 2403.00504, section 4).
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.core.batch import Batch, count_of
from jepakit.core.energies import mean_over_tokens
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.modalities.modality import Inputs, sample_facts
from jepakit.nn.predictor import MaskedPredictor
from jepakit.nn.tokens import Ids, Tokens
from jepakit.registry import load_modality
from jepakit.training.finetuning_config import FineTuningConfig, FineTuningOptions, WatchConfig
from jepakit.training.lora import add_adapters, merge_adapters
from jepakit.training.tuning_heads import make_head

BLOCK = re.compile(r"(?:^|[._])blocks\.(\d+)\.")
FIXED = "pos_embed"  # tables of positions end so, in encoder and predictor


class FineTuned(System):
    """An encoder, where it is kept its predictor, and a head. Batch: `inputs [batch, ...]`, `label [batch, ...]`.

    Args:
        encoder: the `PretrainedEncoder` to tune; it is copied.

    Errors: labels that were not looked at; more blocks than there are; a predictor that is no predictor of masked tokens.
    """

    Config: ClassVar[type] = FineTuningConfig
    inputs: Inputs
    Options: ClassVar[type] = FineTuningOptions
    Health: ClassVar[type] = WatchConfig
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 64}
    joins_batch = False

    def __init__(self, config: FineTuningConfig, inputs: Inputs, seed: int = 0, encoder: Any = None):
        super().__init__()
        if encoder is None or config.answers is None:
            raise UserError("A tuned run says what it was tuned from (encoder) and on (answers): `jepakit finetune` writes it.")
        self.config, self.inputs, self.answers = config, inputs, config.answers
        self.encoder = copy.deepcopy(encoder.encoder)
        self.predictor = copy.deepcopy(_kept(encoder)) if config.predictor == "kept" else None
        width = self.encoder.dim if self.predictor is None else self.predictor.predictor_proj.out_features
        self.head = make_head(config.head, width, self.answers.outputs)
        self.depth = _depth(self.encoder)
        self.levels = _levels(self.encoder, self.predictor)
        if (config.blocks or 0) > self.depth:
            raise UserError(f"blocks {config.blocks}: the encoder has {self.depth}. Train fewer, or all by --method full.")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._learns(name))

    @staticmethod
    def peak_lr(config: FineTuningConfig) -> float:
        """Measured on digits and Fashion-MNIST, see docs/finetuning.md: adapters start at zero and bear a higher one."""
        return 2e-3 if config.method == "lora" else 1e-3

    def _learns(self, name: str) -> bool:
        """Before adapters are added, which learn by themselves."""
        if name.endswith(FIXED):
            return False
        if name.startswith("head."):
            return True
        if self.config.method == "lora":
            return False
        if self.config.method == "full" or name.startswith("predictor."):
            return True
        blocks = self.config.blocks or 0
        return blocks > 0 and self.layer_of(name) > self.depth - blocks

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 what is below the encoder's blocks, from 1 these, then their norm with the predictor's
        first layer, the predictor's blocks, and `top`, the head."""
        part, _, rest = name.partition(".")
        block = BLOCK.search(rest)
        if part == "encoder":
            if block is not None:
                return int(block[1]) + 1
            return self.depth + 1 if rest.startswith(("norm.", "norms_block.")) else 0
        if part == "head" or rest.startswith(("predictor_norm", "predictor_proj")):
            return self.top
        return self.depth + 1 if block is None else self.depth + 2 + int(block[1])

    @property
    def top(self) -> int:
        """The layer of the head."""
        return self.depth + 1 + (0 if self.predictor is None else 1 + _depth(self.predictor))

    def parameter_groups(self) -> list[dict[str, Any]]:
        layers = {id(parameter): self.layer_of(name) for name, parameter in self.named_parameters()}
        groups: list[dict[str, Any]] = []
        for group in super().parameter_groups():
            for layer in range(self.top + 1):
                chosen = [parameter for parameter in group["params"] if layers[id(parameter)] == layer]
                scale = (self.config.layer_decay or 1.0) ** (self.top - layer)
                groups.append({"params": chosen, "decay": group["decay"], "lr_scale": scale})
        return groups

    def train(self, mode: bool = True) -> FineTuned:
        """What is frozen stays in eval mode."""
        super().train(mode)
        for module in self.modules():
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    def begin_training(self) -> None:
        if self.config.method == "lora":
            for part in (self.encoder, self.predictor):
                if part is not None:
                    add_adapters(part, BLOCK, int(self.config.rank or 8), self.config.alpha or 16.0)

    def end_training(self) -> None:
        if self.config.method == "lora":
            for part in (self.encoder, self.predictor):
                if part is not None:
                    merge_adapters(part)

    @torch.no_grad()
    def begin_head(self, batches: Iterable[tuple[Any, Tensor]], seed: int) -> None:
        """Let the head begin from what it will read of these prepared inputs and their labels; once, before training."""
        was_training = self.training
        self.eval()
        read, labels = zip(*((self.head.read(self.read(inputs)), labels) for inputs, labels in batches), strict=True)
        self.head.begin(torch.cat(read), torch.cat(labels), self.answers, seed)
        self.train(was_training)

    def read(self, inputs: Any) -> Tokens:
        """The tokens that the head reads: the encoder's, or what its predictor answers at all positions."""
        context = self.encoder(inputs) if self.levels is None else self.encoder(inputs, levels=self.levels)
        if self.predictor is None:
            return context
        batch, tokens = context.values.shape[:2]
        everywhere = torch.arange(tokens, device=context.values.device).expand(batch, -1)
        read = self.predictor(context, Ids(everywhere, context.lengths), positions=context.positions)
        return Tokens(read, context.positions, context.lengths)

    def scores(self, inputs: Any) -> Float[Tensor, "batch outputs"]:
        """Logits, or the numbers of a regression in standard deviations from their mean."""
        return self.head(self.read(inputs))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        losses = self.answers.losses(self.scores(batch["inputs"]), batch["label"])
        return {"loss": mean_over_tokens(losses, count=count_of(batch, "samples"))}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"samples": torch.tensor(len(batch["label"]), device=batch["label"].device)}

    def encode(self, inputs: Any, keep: Ids | None = None) -> Tokens:
        return self.encoder(inputs) if keep is None else self.encoder(inputs, keep=keep)

    def encoders(self) -> dict[str, nn.Module]:
        return {"target": self.encoder, "encoder": self.encoder}

    def collator(self, seed: int, views: int | None = None) -> LabelledCollator:
        return LabelledCollator(self.inputs)


@functools.cache
def tuned_system(modality: str) -> type[FineTuned]:
    """The class that tunes encoders of a modality, by the modality's name. Errors: an unknown one."""
    return type(FineTuned.__name__, (FineTuned,), {"modality": load_modality(modality), "__module__": __name__})


@dataclass(frozen=True)
class LabelledCollator:
    """Samples prepared for the encoder, without chance, and their labels."""

    inputs: Inputs

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        return {"inputs": self.inputs.prepare(samples), **sample_facts(samples)}


def _depth(module: nn.Module) -> int:
    found = [BLOCK.search(name) for name, _ in module.named_parameters()]
    return 1 + max((int(block[1]) for block in found if block is not None), default=-1)


def _kept(encoder: Any) -> MaskedPredictor:
    has = "has none" if encoder.predictor is None else f"has a {type(encoder.predictor).__name__}"
    if isinstance(encoder.predictor, MaskedPredictor):
        if encoder.predictor.condition_embed is None:
            return encoder.predictor
        has = "has one that expects a condition"
    raise UserError(
        f"predictor kept needs a predictor of masked tokens, as i-jepa's and v-jepa's, and this {encoder.system or 'encoder'} "
        f"{has}. Use --predictor dropped."
    )


def _levels(encoder: nn.Module, predictor: MaskedPredictor | None) -> tuple[int, ...] | None:
    """The depths of the encoder that its predictor reads side by side (V-JEPA 2.1), None: its output."""
    if predictor is None or not getattr(encoder, "level_norms", ()):
        return None
    return encoder.level_norms  # type: ignore[return-value]
