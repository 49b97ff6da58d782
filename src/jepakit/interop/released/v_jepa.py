"""Released V-JEPA, V-JEPA 2, 2.1 and 2-AC weights: encoder and predictor, from the authors' checkpoints.

What no file says is taken from the released models: heads from the width (`HEADS`; 12 in predictors of V-JEPA 2, the encoder's
in V-JEPA's), how positions are made (`POSITIONS`), the frames, ImageNet's mean and deviation. V-JEPA 2's rotary angles are laid
out wrongly, and its weights need just that (see `nn.rotary`); 2.1 puts it right, and stretches places to 16 x 16.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jepakit.errors import UserError
from jepakit.interop.released.checkpoints import Variant, without_stale
from jepakit.interop.strict_loading import build_empty, check_fit, load_strictly
from jepakit.nn.block_causal_predictor import BlockCausalPredictor, BlockCausalPredictorConfig
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
PREDICTOR_HEADS = 12
POSITIONS: dict[Variant, Literal["sincos", "paired", "tiled"]] = {
    "v-jepa": "sincos", "v-jepa-2": "tiled", "v-jepa-2-ac": "tiled", "v-jepa-2.1": "paired",
}  # fmt: skip
FRAMES: dict[Variant, int] = {"v-jepa": 16, "v-jepa-2": 64, "v-jepa-2-ac": 64, "v-jepa-2.1": 64}
STRETCH = (16, 16)  # of V-JEPA 2.1: patches of 16 in pictures of 256 pixels
# Our names of the action-conditioned predictor's parts.
AC_PARTS = {
    "predictor_embed": "embed", "action_encoder": "embed_action", "state_encoder": "embed_condition",
    "predictor_blocks": "blocks", "predictor_norm": "norm", "predictor_proj": "head",
}  # fmt: skip


def video_encoder(weights: dict[str, Tensor], variant: Variant, path: Path, heads: int | None = None) -> VideoTransformer:
    """The encoder of these tensors, named as released, with all of them in it.

    heads: where no released model is as wide. Errors: tensors that are missing, left over, of another shape or NaN.
    """
    weights = weights if variant == "v-jepa" else without_stale(weights, variant)
    config = _encoder_config(weights, variant, path, heads)
    encoder = build_empty(VideoTransformer, config)
    check_fit(encoder, weights, path)
    load_strictly(encoder.to_empty(device="cpu"), weights, path)
    return encoder


def video_predictor(
    weights: dict[str, Tensor], variant: Variant, encoder: VideoTransformer, path: Path, heads: int | None = None
) -> nn.Module:
    """The predictor of these tensors: `MaskedPredictor`, or the action-conditioned `BlockCausalPredictor` of V-JEPA 2-AC."""
    weights = weights if variant == "v-jepa" else without_stale(weights, variant)
    if variant == "v-jepa-2-ac":
        renamed, build = _action_predictor(weights, encoder, path, heads or 16)
    else:
        renamed, build = _masked_predictor(weights, variant, encoder, path, heads)
    try:
        with torch.device("meta"):
            predictor = build()
    except RuntimeError as error:
        raise UserError(f"{path}: the predictor cannot be built: {str(error)[:200]}. Use a release.") from error
    check_fit(predictor, renamed, path)
    load_strictly(predictor.to_empty(device="cpu"), renamed, path)
    return predictor.eval().requires_grad_(False)


def _encoder_config(weights: dict[str, Tensor], variant: Variant, path: Path, heads: int | None) -> VideoTransformerConfig:
    patch, hidden = (_tensor(weights, name, path) for name in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"))
    if patch.ndim != 5 or hidden.ndim != 2 or 0 in patch.shape:
        raise UserError(f"{path}: its patch embedding is not one of clips. Give a release of V-JEPA, 2 or 2.1.")
    dim, channels, tubelet, patch_size, _ = patch.shape
    if heads is None and dim not in HEADS:
        known = ", ".join(map(str, HEADS))
        raise UserError(f"{path}: no released V-JEPA is {dim} wide ({known}); its heads are not known. Use a release.")
    frames = FRAMES[variant]
    side = 384 if "384" in path.name else 256
    if variant == "v-jepa":
        places = _tensor(weights, "pos_embed", path).shape[1] // (frames // tubelet)
        side = math.isqrt(places) * patch_size
    levels = len({name.split(".")[1] for name in weights if name.startswith("norms_block.")})
    return VideoTransformerConfig(
        frames=frames, image_size=(side, side), patch_size=patch_size, tubelet=tubelet, channels=channels,
        stills="patch_embed_img.proj.weight" in weights, dim=dim, depth=_depth(weights, "blocks", path),
        heads=heads or HEADS[dim], mlp_ratio=hidden.shape[0] / dim, levels=max(1, levels), positions=POSITIONS[variant],
        stretch=STRETCH if variant == "v-jepa-2.1" else None,
    )  # fmt: skip


def _masked_predictor(
    weights: dict[str, Tensor], variant: Variant, encoder: VideoTransformer, path: Path, heads: int | None
) -> tuple[dict[str, Tensor], Any]:
    """Tensors under our names, and what builds a predictor for them."""
    weights = dict(weights)
    tokens = _numbered(weights, "mask_tokens")
    if not tokens:
        raise UserError(f"{path}: its predictor has no mask tokens. Use a release.")
    renamed = {"mask_token": torch.cat(tokens)}
    if "img_mod_embed" in weights:
        kinds = [weights.pop(name).reshape(-1) for name in ("video_mod_embed", "img_mod_embed")]
        renamed |= {"condition_embed.weight": torch.stack(kinds, 1), "condition_embed.bias": torch.zeros_like(kinds[0])}
    renamed |= weights
    first = _tensor(renamed, "predictor_proj.weight", path)
    hidden = renamed.get("predictor_embed.0.weight")
    ratio = _tensor(renamed, "predictor_blocks.0.mlp.fc1.weight", path).shape[0] / first.shape[1]
    if heads is None:
        heads = encoder.config.heads if variant == "v-jepa" else PREDICTOR_HEADS
    config = PredictorConfig(
        dim=first.shape[1], depth=_depth(renamed, "predictor_blocks", path), heads=heads, mlp_ratio=ratio
    )
    shape = encoder.config

    def build() -> MaskedPredictor:
        return MaskedPredictor(
            config, shape.levels * shape.dim, shape.grid, first.shape[0],
            embed_hidden=None if hidden is None else hidden.shape[0],
            visible="predictor_proj_context.weight" in renamed,
            condition_dim=2 if "condition_embed.weight" in renamed else None,
            rotation=shape.rotation, stretch=shape.stretch, mask_tokens=len(tokens),
        )  # fmt: skip

    return renamed, build


def _action_predictor(
    weights: dict[str, Tensor], encoder: VideoTransformer, path: Path, heads: int
) -> tuple[dict[str, Tensor], Any]:
    renamed = {}
    for name, tensor in weights.items():
        part, dot, rest = name.partition(".")
        renamed[f"{AC_PARTS.get(part, part)}{dot}{rest}"] = tensor
    dim, action = _tensor(renamed, "embed_action.weight", path).shape
    ratio = _tensor(renamed, "blocks.0.mlp.fc1.weight", path).shape[0] / dim
    shape = encoder.config
    config = BlockCausalPredictorConfig(
        embedding=shape.dim, action=action, grid=(shape.grid[1], shape.grid[2]), dim=dim, heads=heads, mlp_ratio=ratio,
        condition=_tensor(renamed, "embed_condition.weight", path).shape[1], depth=_depth(renamed, "blocks", path),
        rotation="tiled",
    )  # fmt: skip
    return renamed, lambda: BlockCausalPredictor(config)


def _numbered(weights: dict[str, Tensor], name: str) -> list[Tensor]:
    """Takes NAME.0, NAME.1, ... out of the tensors."""
    found: list[Tensor] = []
    while f"{name}.{len(found)}" in weights:
        found.append(weights.pop(f"{name}.{len(found)}"))
    return found


def _depth(weights: dict[str, Tensor], name: str, path: Path) -> int:
    numbers = [int(match[1]) for key in weights if (match := re.match(rf"{name}\.(\d{{1,4}})\.", key))]
    if not numbers:
        raise UserError(f"{path} lacks {name}.0: weights of another model. Use a release.")
    return 1 + max(numbers)


def _tensor(weights: dict[str, Tensor], name: str, path: Path) -> Tensor:
    if name not in weights:
        raise UserError(f"{path} lacks {name}: weights of another model. Use a release.")
    return weights[name]
