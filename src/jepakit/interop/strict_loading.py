"""Tensors of files into modules and folders: all of them or none, and never over what is already there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from jepakit.errors import UserError
from jepakit.files import read_json

Built = TypeVar("Built", bound=nn.Module)


def build_empty(kind: type[Built], *parts: Any, **options: Any) -> Built:
    """A module whose tensors take no memory yet: what describes it may be anyone's, and claim any size."""
    try:
        with torch.device("meta"):
            return kind(*parts, **options)
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise UserError(f"the encoder described cannot be built: {str(error)[:200]}. Check its sizes.") from error


def claim_folder(folder: Path, description: dict[str, Any]) -> None:
    """Make a folder for the exports of the encoder described.

    Errors: the folder holds a run (its weights would be overwritten) or the export of another encoder.
    """
    if (folder / "config.yaml").exists():
        raise UserError(f"{folder} holds a run: an export there would overwrite its weights. Choose another --out.")
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        other = path.exists() and read_json(path) != description
    except (OSError, UserError) as error:
        raise UserError(f"Cannot export into {folder}: {error}. Choose another --out.") from error
    if other:
        raise UserError(f"{folder} holds the export of another encoder. Choose another --out.")


def load_strictly(module: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Load weights into a module, all of them or none. Errors: missing, unexpected, misshapen or unusable tensors, named."""
    check_fit(module, weights, source)
    unusable = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if unusable:
        raise UserError(f"{source} holds NaN or infinity in {_some(unusable)}: a run that diverged, or damage. Use another.")
    module.load_state_dict(weights)


def check_fit(module: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Raise `UserError` unless these are the names, shapes and kinds of numbers of a module's tensors."""
    own = module.state_dict()
    both = sorted(own.keys() & weights.keys())
    wrong = {
        "lacks": sorted(own.keys() - weights.keys()),
        "has unexpected": sorted(weights.keys() - own.keys()),
        "has other shapes for": [name for name in both if own[name].shape != weights[name].shape],
        "has another type of numbers for": [
            name for name in both if own[name].is_floating_point() != weights[name].is_floating_point()
        ],
    }
    for what, names in wrong.items():
        if names:
            raise UserError(f"{source} {what} {_some(names)}: weights of another model or size. Choose those that fit.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:100] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
