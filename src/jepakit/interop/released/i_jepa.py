"""I-JEPA's encoder from released tensors.

No file names an image size or a number of heads, so they are inferred: sizes from the tensors' shapes, the grid taken to be
square, heads from the width as in the released models (`HEADS`).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from torch import Tensor

from jepakit.errors import UserError
from jepakit.interop.strict_loading import build_empty, check_fit, load_strictly
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.registry import SIZES

HEADS = {shape["vit"][0]: shape["vit"][2] for name, shape in SIZES.items() if name != "nano"}  # nano is ours


def image_encoder(weights: dict[str, Tensor], source: Path, heads: int | None = None) -> VisionTransformer:
    """The encoder of these tensors, under our names (which are the authors' and timm's), with all of them in it.

    heads: where they are known. Errors: tensors that are missing, left over, of another shape or NaN.
    """
    encoder = build_empty(VisionTransformer, infer_config(weights, source, heads))
    check_fit(encoder, weights, source)
    load_strictly(encoder.to_empty(device="cpu"), weights, source)
    return encoder


def infer_config(weights: dict[str, Tensor], source: Path, heads: int | None = None) -> ViTConfig:
    """The shape of the ViT that these weights belong to."""
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    missing = [name for name in needed if name not in weights]
    if missing or weights[needed[0]].ndim != 4 or 0 in weights[needed[0]].shape:
        found = missing[0] if missing else "a patch embedding for images (V-JEPA's is for video)"
        raise UserError(f"{source} does not hold an I-JEPA encoder: it lacks {found}. Give one that does.")
    if weights["pos_embed"].ndim != 3 or weights["blocks.0.mlp.fc1.weight"].ndim != 2:
        raise UserError(f"{source} has positions or layers of other axes than I-JEPA's. Give a release.")
    dim, channels, patch_size, _ = weights[needed[0]].shape
    side = math.isqrt(weights["pos_embed"].shape[1])
    if side**2 != weights["pos_embed"].shape[1]:
        raise UserError(f"{source} has {weights['pos_embed'].shape[1]} positions, no square grid. Use a release.")
    if heads is not None and not isinstance(heads, int):
        raise UserError(f"{source}: num_attention_heads must be a number, got {heads!r}.")
    if heads is None and dim not in HEADS:
        known = ", ".join(map(str, HEADS))
        raise UserError(f"{source}: no released I-JEPA is {dim} wide ({known}); its heads are not known. Use a release.")
    return ViTConfig(
        image_size=(side * patch_size, side * patch_size),
        patch_size=patch_size,
        channels=channels,
        dim=dim,
        depth=1 + max(int(match[1]) for name in weights if (match := re.match(r"blocks\.(\d{1,6})\.", name))),
        heads=heads or HEADS[dim],
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / dim,
    )
