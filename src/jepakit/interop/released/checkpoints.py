"""Checkpoints that the authors of the JEPAs released: what family a file is of, what it holds, and its licence.

Layouts are those that the released code writes and reads; no released file could be opened here, so that they are verified on
files written in them (docs/weights.md). A file is read with `weights_only`: no code in it runs.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from jepakit.errors import UserError, check_choice, shown
from jepakit.training.checkpoints import UNREADABLE

Variant = Literal["i-jepa", "v-jepa", "v-jepa-2", "v-jepa-2-ac", "v-jepa-2.1"]


@dataclass(frozen=True)
class Family:
    """What all files of a family have in common.

    licence: of the weights, as their repository says. names: of the files that were released. stale: tensors that its files
    carry and nothing uses.
    """

    licence: str
    names: str
    stale: tuple[str, ...] = ()


FAMILIES: dict[Variant, Family] = {
    "i-jepa": Family("CC-BY-NC-4.0", r"IN(1K|22K)-vit\.[hg]\.\d+.*\.pth\.tar"),
    "v-jepa": Family("CC-BY-NC-4.0", r"vit[lh]16(-384)?\.pth\.tar"),
    "v-jepa-2": Family("MIT", r"vit[lhg](-384)?\.pt", ("pos_embed", "predictor_pos_embed")),
    "v-jepa-2-ac": Family(
        "MIT", r"vjepa2-ac-vitg\.pt", ("pos_embed", "extrinsics_encoder.weight", "extrinsics_encoder.bias")
    ),
    "v-jepa-2.1": Family("MIT", r"vjepa2_1_vit[blgG]_(dist_vitG_)?384\.pt"),
}
# What a checkpoint calls the encoder that is evaluated, and the one that learns.
KEYS = {"target": ("target_encoder", "ema_encoder"), "encoder": ("encoder",)}
MASK_TOKENS = {2: "v-jepa", 10: "v-jepa-2"}  # of a released predictor


def read_released(path: Path) -> dict[str, Any]:
    """The checkpoint as it lies in the file, mapped and not read: a released one holds two encoders and the optimiser.

    Errors: a file that is damaged, or that holds more than tensors and plain values.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0][:300]
        raise UserError(f"{path} cannot be read as a checkpoint of tensors: {reason}. Copy it again.") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, no released checkpoint. Give one.")
    return checkpoint


def tensors_of(checkpoint: dict[str, Any], keys: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """The tensors under the first of these keys that is there, without what wrappers put before their names.

    Errors: none of the keys is there; what is there is not tensors by name.
    """
    key = next((key for key in keys if isinstance(checkpoint.get(key), dict)), None)
    if key is None:
        found = ", ".join(map(str, checkpoint))[:300]
        raise UserError(
            f"{path} has no {' or '.join(map(repr, keys))}: not a released checkpoint, or not that part of it (found: {found})."
            " Give one, or another which."
        )
    wrong = [name for name, tensor in checkpoint[key].items() if not (isinstance(name, str) and isinstance(tensor, Tensor))]
    if wrong:
        raise UserError(f"{path}: {shown(wrong[0])} of {key!r} is no tensor. Give a released checkpoint.")
    return {name.removeprefix("module.").removeprefix("backbone."): tensor for name, tensor in checkpoint[key].items()}


def without_stale(weights: dict[str, Tensor], variant: Variant) -> dict[str, Tensor]:
    """All tensors but those that this family is known to carry and not to use."""
    return {name: tensor for name, tensor in weights.items() if name not in FAMILIES[variant].stale}


def variant_of(path: Path, checkpoint: dict[str, Any], variant: Variant | None = None) -> Variant:
    """The family of a file: what was said, else by what its tensors tell, else by its name.

    V-JEPA's and V-JEPA 2's encoders hold the same tensors (V-JEPA 2's carry the positions that they no longer use), and compute
    other things.

    Errors: a file that neither tells, or that is of another family than was said.
    """
    if variant is not None:
        check_choice("variant", variant, get_args(Variant))
    told = _told(path, checkpoint)
    if told is not None and variant is not None and told != variant:
        raise UserError(f"{path} holds weights of {told}, not of {variant}. Leave variant out.")
    found = variant or told or next((v for v, family in FAMILIES.items() if re.fullmatch(family.names, path.name)), None)
    if found is None:
        raise UserError(
            f"{path} may be of V-JEPA or of V-JEPA 2: its tensors do not tell which, and {path.name!r} is the name of no "
            "released file. Say variant='v-jepa' or variant='v-jepa-2'."
        )
    return found


def _told(path: Path, checkpoint: dict[str, Any]) -> Variant | None:
    """What the tensors tell."""
    encoder = tensors_of(checkpoint, (*KEYS["encoder"], *KEYS["target"]), path)
    patch = encoder.get("patch_embed.proj.weight")
    if patch is None or patch.ndim not in (4, 5):
        raise UserError(f"{path} does not hold an encoder of a JEPA: it lacks patch_embed.proj.weight. Give one that does.")
    if patch.ndim == 4:
        return "i-jepa"
    if any(name.startswith(("norms_block.", "patch_embed_img.")) for name in encoder):
        return "v-jepa-2.1"
    predictor = tensors_of(checkpoint, ("predictor",), path) if isinstance(checkpoint.get("predictor"), dict) else {}
    if "action_encoder.weight" in predictor:
        return "v-jepa-2-ac"
    if "pos_embed" not in encoder or (predictor and "predictor_pos_embed" not in predictor):
        return "v-jepa-2"
    known: Any = MASK_TOKENS.get(sum(name.startswith("mask_tokens.") for name in predictor))
    return known
