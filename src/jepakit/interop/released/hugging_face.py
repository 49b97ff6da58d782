"""Weights in the layouts of `transformers` (`IJepaModel`, `VJEPA2Model`) and of timm, in and out.

A `transformers` file splits queries, keys and values, which here are one tensor, and stacks mask tokens with two axes more:
nothing else is computed, so that what goes out and comes back is the same bits. timm has our names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepakit.errors import UserError
from jepakit.files import parse_json, read_text, write_json
from jepakit.interop.strict_loading import claim_folder
from jepakit.nn.predictor import MaskedPredictor
from jepakit.nn.video_transformer import VideoTransformer
from jepakit.nn.vit import VisionTransformer
from jepakit.training.weight_files import read_weights, write_weights

EPS = 1e-6  # of layer norms, in all released models

# Our modules and theirs; {} is the number of the block.
IMAGE = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
IMAGE_BLOCK = {
    "blocks.{}.norm1": "encoder.layer.{}.layernorm_before",
    "blocks.{}.attn.proj": "encoder.layer.{}.attention.output.dense",
    "blocks.{}.norm2": "encoder.layer.{}.layernorm_after",
    "blocks.{}.mlp.fc1": "encoder.layer.{}.intermediate.dense",
    "blocks.{}.mlp.fc2": "encoder.layer.{}.output.dense",
    "blocks.{}.attn.qkv": "encoder.layer.{}.attention.attention",
}
VIDEO = {"patch_embed.proj": "encoder.embeddings.patch_embeddings.proj", "norm": "encoder.layernorm"}
VIDEO_PREDICTOR = {
    "predictor_embed": "predictor.embeddings.predictor_embeddings",
    "predictor_norm": "predictor.layernorm",
    "predictor_proj": "predictor.proj",
}
MASK_TOKENS = ("mask_token", "predictor.embeddings.mask_tokens")
QKV = ("query", "key", "value")
# The files that a folder's processor of clips and of images is set by, and what says which one it is.
PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
PROCESSOR_KINDS = {
    PROCESSORS[0]: ("video_processor_type", "VJEPA2VideoProcessor"),
    PROCESSORS[1]: ("image_processor_type", "ViTImageProcessor"),
}


def _video_block(ours: str, theirs: str) -> dict[str, str]:
    same = {f"{ours}.{{}}.{part}": f"{theirs}.{{}}.{part}" for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
    return same | {
        f"{ours}.{{}}.attn.proj": f"{theirs}.{{}}.attention.proj", f"{ours}.{{}}.attn.qkv": f"{theirs}.{{}}.attention"
    }  # fmt: skip


Names = tuple[dict[str, str], dict[str, str], dict[str, str]]
IMAGE_NAMES: Names = ({"pos_embed": "embeddings.position_embeddings"}, IMAGE, IMAGE_BLOCK)
VIDEO_NAMES: Names = ({}, VIDEO, _video_block("blocks", "encoder.layer"))
PREDICTOR_NAMES: Names = (
    dict([MASK_TOKENS]), VIDEO_PREDICTOR, _video_block("predictor_blocks", "predictor.layer")
)  # fmt: skip


def to_theirs(weights: dict[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Our tensors under their names. A tensor without a name of theirs is an error."""
    renamed = {}
    for name, tensor in weights.items():
        theirs = _renamed(name, names)
        if theirs is None:
            raise UserError(f"{name}: transformers' model has no such part. Export as safetensors instead.")
        if ".attn.qkv." in name:
            module, kind = theirs.rsplit(".", 1)
            for part, third in zip(QKV, tensor.chunk(3), strict=True):
                renamed[f"{module}.{part}.{kind}"] = third.clone()
        else:
            renamed[theirs] = tensor[:, None] if name == MASK_TOKENS[0] else tensor
    return renamed


def to_ours(weights: dict[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Their tensors under our names; those that have none keep their own, to be named as what does not fit."""
    weights, renamed = dict(weights), {}
    tensors, modules, blocks = names
    depth = 1 + max((int(n) for name in weights for n in re.findall(r"layer\.(\d{1,4})\.", name)), default=-1)
    flat = modules | {ours.format(n): theirs.format(n) for n in range(depth) for ours, theirs in blocks.items()}
    for ours, theirs in flat.items():
        for kind in ("weight", "bias"):
            parts = [f"{theirs}.{part}.{kind}" for part in QKV]
            if ours.endswith(".attn.qkv") and all(part in weights for part in parts):
                renamed[f"{ours}.{kind}"] = torch.cat([weights.pop(part) for part in parts])
            elif f"{theirs}.{kind}" in weights:
                renamed[f"{ours}.{kind}"] = weights.pop(f"{theirs}.{kind}")
    for ours, theirs in tensors.items():
        if theirs in weights:
            tensor = weights.pop(theirs)
            renamed[ours] = tensor.flatten(1, 2) if ours == MASK_TOKENS[0] and tensor.ndim == 4 else tensor
    return renamed | weights


def _renamed(name: str, names: Names) -> str | None:
    tensors, modules, blocks = names
    if name in tensors:
        return tensors[name]
    module, _, kind = name.rpartition(".")
    if module in modules:
        return f"{modules[module]}.{kind}"
    number = next(iter(re.findall(r"\.(\d+)\.", name)), None)
    theirs = None if number is None else blocks.get(module.replace(f".{number}.", ".{}.", 1))
    return None if theirs is None or number is None else f"{theirs.format(number)}.{kind}"


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder as `save_pretrained` writes it: `model.safetensors`, or parts with an index.

    Errors: neither is there; a part that the index names is not.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return read_weights(folder / "model.safetensors")
    description = parse_json(read_text(index))
    places = description.get("weight_map") if isinstance(description, dict) else None
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise UserError(f"{index} names no files of tensors. Download the folder again.")
    outside = [place for place in places.values() if Path(place).name != place]
    if outside:
        raise UserError(f"{index} names {outside[0]!r}, which is no file of this folder. Download it again.")
    found: dict[str, Tensor] = {}
    for place in sorted(set(places.values())):
        found |= read_weights(folder / place)
    return found


def read_description(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """`config.json` of a folder, {} where there is none that can be read."""
    try:
        value = parse_json(read_text(folder / name))
    except (UserError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_scale(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of the channels as the folder's processor, or timm's config, has them; None where it says nothing."""
    processors = [read_description(folder, name) for name in PROCESSORS]
    said = [[processor.get(key) for key in ("image_mean", "image_std")] for processor in processors]
    for found in [*said, [timm_facts(read_description(folder)).get(key) for key in ("mean", "std")]]:
        if all(isinstance(values, list) and all(isinstance(value, int | float) for value in values) for values in found):
            mean, std = (tuple(float(value) for value in values or ()) for values in found)
            return mean, std
    return None


def timm_facts(description: dict[str, Any]) -> dict[str, Any]:
    """What a `config.json` of timm says of the weights: its `pretrained_cfg`, or all of it where it is of before timm 0.9."""
    facts = description.get("pretrained_cfg", description)
    return facts if isinstance(facts, dict) else {}


def write_transformers(
    folder: str | Path, encoder: nn.Module, predictor: nn.Module | None = None, inputs: Any = None, licence: str | None = None
) -> None:
    """`config.json` and `model.safetensors`, for `IJepaModel` or `VJEPA2Model.from_pretrained(folder)`; with `inputs` the
    settings of the processor that prepares pixels for it.

    licence: that of weights it began from, null in the config where there are none.

    Errors: an encoder that `transformers` has no model of.
    """
    folder = Path(folder)
    if type(encoder) is VisionTransformer:
        weights, config, processor = to_theirs(dict(encoder.state_dict()), IMAGE_NAMES), _image_config(encoder), PROCESSORS[1]
    elif type(encoder) is VideoTransformer:
        config, processor = _video_config(encoder, predictor), PROCESSORS[0]
        weights = to_theirs(dict(encoder.state_dict()), VIDEO_NAMES)
        if predictor is not None:
            weights |= to_theirs(dict(predictor.state_dict()), PREDICTOR_NAMES)
    else:
        raise UserError(f"transformers has no model of a {type(encoder).__name__}: I-JEPA's and V-JEPA 2's encoders alone.")
    _write(folder, {**config, "licence": licence}, weights)
    if inputs is not None:
        height, width = inputs.image_size
        write_json(folder / processor, {
            **dict([PROCESSOR_KINDS[processor]]), "image_mean": list(inputs.mean),
            "image_std": list(inputs.std), "do_rescale": True, "do_normalize": True, "do_resize": True,
            "size": {"height": height, "width": width}, "crop_size": {"height": height, "width": width},
        })  # fmt: skip


def write_timm(folder: str | Path, encoder: nn.Module, inputs: Any = None, licence: str | None = None) -> None:
    """`config.json` and `model.safetensors`, for `timm.create_model("local-dir:FOLDER", pretrained=True)`: tokens by
    `forward_features`; with `inputs` also the mean and the deviation, for `timm.data.resolve_model_data_config`.

    Errors: an encoder that is no ViT of images.
    """
    if type(encoder) is not VisionTransformer:
        raise UserError(f"timm's VisionTransformer holds encoders of images alone, not a {type(encoder).__name__}.")
    shape = encoder.config
    arguments = {
        "img_size": list(shape.image_size), "patch_size": shape.patch_size, "in_chans": shape.channels, "embed_dim": shape.dim,
        "depth": shape.depth, "num_heads": shape.heads, "mlp_ratio": shape.mlp_ratio, "class_token": False,
        "global_pool": "avg", "fc_norm": False, "num_classes": 0,
    }  # fmt: skip
    scale = {} if inputs is None else {"mean": list(inputs.mean), "std": list(inputs.std)}
    facts = {
        "input_size": [shape.channels, *shape.image_size], "fixed_input_size": True, "crop_pct": 1.0, "num_classes": 0,
        "first_conv": "patch_embed.proj", "classifier": "head", "license": licence, **scale,
    }  # fmt: skip
    description = {
        "architecture": "vit_base_patch16_224", "num_classes": 0, "num_features": shape.dim, "global_pool": "avg",
        "model_args": arguments, "pretrained_cfg": facts,
    }  # fmt: skip
    _write(Path(folder), {**description, "licence": licence}, dict(encoder.state_dict()))


def _write(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    claim_folder(folder, config)
    write_weights(folder / "model.safetensors", weights)
    write_json(folder / "config.json", config)


def _image_config(encoder: VisionTransformer) -> dict[str, Any]:
    shape = encoder.config
    if shape.image_size[0] != shape.image_size[1]:
        raise UserError(f"IJepaModel reads square pictures, this encoder {shape.image_size}. Export as safetensors.")
    return {
        "architectures": ["IJepaModel"], "model_type": "ijepa", "image_size": shape.image_size[0],
        "patch_size": shape.patch_size, "num_channels": shape.channels, "hidden_size": shape.dim,
        "num_hidden_layers": shape.depth, "num_attention_heads": shape.heads,
        "intermediate_size": round(shape.dim * shape.mlp_ratio), "layer_norm_eps": EPS, "qkv_bias": True,
    }  # fmt: skip


def _video_config(encoder: VideoTransformer, predictor: nn.Module | None) -> dict[str, Any]:
    shape = encoder.config
    if shape.positions != "tiled" or shape.levels > 1 or shape.stills or shape.image_size[0] != shape.image_size[1]:
        raise UserError(
            "VJEPA2Model is V-JEPA 2 as released: square pictures, rotary positions in its convention (positions tiled), one "
            f"level, no patchifier for stills; this encoder has positions {shape.positions}, {shape.levels} levels, pictures "
            f"of {shape.image_size}. Train v-jepa-2 with --positions tiled, or export as safetensors."
        )
    config = {
        "architectures": ["VJEPA2Model"], "model_type": "vjepa2", "crop_size": shape.image_size[0],
        "patch_size": shape.patch_size, "frames_per_clip": shape.frames, "tubelet_size": shape.tubelet,
        "in_chans": shape.channels, "hidden_size": shape.dim, "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads, "mlp_ratio": shape.mlp_ratio, "layer_norm_eps": EPS, "qkv_bias": True,
    }  # fmt: skip
    if predictor is None:
        return config
    if type(predictor) is not MaskedPredictor or predictor.rotation != "tiled" or predictor.predictor_proj_context is not None:
        raise UserError("VJEPA2Model's predictor is V-JEPA 2's as released; this run's is another. Export the encoder alone.")
    inner = predictor.config
    return config | {
        "pred_hidden_size": inner.dim, "pred_num_hidden_layers": inner.depth, "pred_num_attention_heads": inner.heads,
        "pred_mlp_ratio": inner.mlp_ratio, "pred_num_mask_tokens": predictor.mask_token.shape[0],
    }  # fmt: skip
