"""Adapters of low rank (LoRA, Hu et al. 2021, arXiv 2106.09685) by `peft`: put in, trained, merged into their layers."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from torch import nn

from jepakit.errors import UserError, missing_extra


def check_peft() -> None:
    """Raise `UserError` unless `peft` is installed."""
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft", "lora", "Fine-tuning by method lora")


def add_adapters(module: nn.Module, blocks: re.Pattern[str], rank: int, alpha: float) -> None:
    """Put an adapter beside every linear and convolutional layer of the blocks, in place: all that is trained of the module.

    An adapter adds `alpha / rank * B A x`, A `[rank, in]` at random and B `[out, rank]` at zero: nothing changes at first.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    layers = (nn.Linear, nn.Conv2d)
    names = [name for name, part in module.named_modules() if isinstance(part, layers) and blocks.search(f"{name}.")]
    if not names:
        raise UserError(f"A {type(module).__name__} has no blocks whose layers an adapter could stand at. Use --method full.")
    scaled: Any = alpha  # peft's own annotation allows whole numbers only
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=scaled, lora_dropout=0.0, target_modules=names), module)


def merge_adapters(module: nn.Module) -> None:
    """Add the adapters to the layers they stand at and take them away: the same outputs (to rounding), the names of before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            adapted: Any = layer
            adapted.merge()
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, adapted.get_base_layer())
