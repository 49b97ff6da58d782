"""Released I-JEPA weights: the authors' `.pth.tar` files and `transformers` folders (`IJepaModel`).

No file names an image size, a number of heads or a normalisation, so they are inferred: sizes from the tensors' shapes,
the grid taken to be square, heads from the width as in the released models (`HEADS`), ImageNet's mean and deviation.
`transformers` and timm published the *context* encoder; the paper evaluates the target encoder, which only the
`.pth.tar` files hold. LayerNorm's epsilon is 1e-6, as trained, whatever a `transformers` config says.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from jepakit.errors import UserError, check_choice
from jepakit.files import parse_json, read_text
from jepakit.interop.pretrained import PretrainedEncoder, Which, build_empty, check_fit, load_strictly
from jepakit.modalities.inputs import ImageInputs
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.registry import SIZES
from jepakit.training.checkpoints import UNREADABLE
from jepakit.training.weight_files import read_weights

HEADS = {shape["vit"][0]: shape["vit"][2] for name, shape in SIZES.items() if name != "nano"}  # nano is ours
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Our modules (timm's and the authors' names) and those of a `transformers` file; {} is the number of the block.
STEM = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
BLOCK = {
    "blocks.{}.norm1": "encoder.layer.{}.layernorm_before",
    "blocks.{}.attn.proj": "encoder.layer.{}.attention.output.dense",
    "blocks.{}.norm2": "encoder.layer.{}.layernorm_after",
    "blocks.{}.mlp.fc1": "encoder.layer.{}.intermediate.dense",
    "blocks.{}.mlp.fc2": "encoder.layer.{}.output.dense",
}
QKV = "encoder.layer.{}.attention.attention.{}"


def is_official(path: Path) -> bool:
    """Is this a file of released weights, or a `transformers` folder of an I-JEPA?"""
    if path.is_file():
        return path.suffix in (".tar", ".pth", ".pt")
    return _read_json(path / "config.json").get("model_type") == "ijepa"


def load_official(path: str | Path, which: Which | None = None) -> PretrainedEncoder:
    """The encoder in a released checkpoint, frozen. No code in the file runs.

    Args:
        path: a `.pth.tar` file, or a folder with `config.json` and `model.safetensors` of an `IJepaModel`.
        which: "target" (default) or "encoder" of a `.pth.tar`; a folder holds "encoder" alone.

    Errors: an unreadable file, another model's tensors, a width whose heads are not known.
    """
    path = Path(path)
    heads: int | None = None
    if path.is_dir():
        if which == "target":
            raise UserError(f"{path} holds a context encoder alone, as transformers publishes it: use which='encoder'.")
        weights, which = from_transformers(read_weights(path / "model.safetensors")), "encoder"
        heads = _read_json(path / "config.json").get("num_attention_heads")
    else:
        which = which or "target"
        check_choice("which", which, ("target", "encoder"))
        weights = _read_release(path, "target_encoder" if which == "target" else "encoder")
    encoder = build_empty(VisionTransformer, infer_config(weights, path, heads))
    check_fit(encoder, weights, path)
    load_strictly(encoder.to_empty(device="cpu"), weights, path)
    config = encoder.config
    inputs = ImageInputs(image_size=config.image_size, channels=config.channels, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return PretrainedEncoder(encoder, inputs, "i-jepa", which)


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
    if channels != len(IMAGENET_MEAN):
        raise UserError(f"{source} expects {channels} channels; released I-JEPA weights are for colour images. Use those.")
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


def from_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a `transformers` file under our names, query, key and value joined; others keep their names."""
    weights = dict(weights)
    depth = len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")})
    renamed = {}
    for block in range(depth):
        for kind in ("weight", "bias"):
            names = [f"{QKV.format(block, part)}.{kind}" for part in ("query", "key", "value")]
            if all(name in weights for name in names):  # else they stay, to be named as what does not fit
                renamed[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([weights.pop(name) for name in names])
    ours = {theirs: ours for ours, theirs in _names(depth).items()}
    return renamed | {ours.get(name, name): tensor for name, tensor in weights.items()}


def to_transformers(encoder: VisionTransformer) -> dict[str, Tensor]:
    """The reverse: an encoder's tensors as `IJepaModel.from_pretrained` reads them (with `layer_norm_eps=1e-6`)."""
    theirs = _names(encoder.config.depth)
    renamed = {}
    for name, tensor in encoder.state_dict().items():
        if ".attn.qkv." in name:
            _, block, _, _, kind = name.split(".")
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{QKV.format(block, part)}.{kind}"] = third.clone()
        else:
            renamed[theirs[name]] = tensor
    return renamed


def _names(depth: int) -> dict[str, str]:
    """Our name of each tensor that exists on both sides: theirs."""
    modules = STEM | {ours.format(n): theirs.format(n) for n in range(depth) for ours, theirs in BLOCK.items()}
    return {"pos_embed": "embeddings.position_embeddings"} | {
        f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in ("weight", "bias")
    }


def _read_release(path: Path, key: str) -> dict[str, Tensor]:
    try:
        # Mapped, not read: a released file holds two encoders and the optimiser, ten gigabytes in all.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0][:300]
        raise UserError(f"{path} cannot be read as a checkpoint of tensors: {reason}. Copy it again.") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), dict):
        found = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise UserError(f"{path} has no {key!r}: not a released I-JEPA checkpoint (found: {found[:300]}). Give one.")
    wrong = [name for name, tensor in checkpoint[key].items() if not (isinstance(name, str) and isinstance(tensor, Tensor))]
    if wrong:
        raise UserError(f"{path}: {wrong[0]!r} of {key!r} is no tensor. Give a released I-JEPA checkpoint.")
    return {name.removeprefix("module."): tensor for name, tensor in checkpoint[key].items()}


def _read_json(path: Path) -> dict:
    try:
        value = parse_json(read_text(path))
    except (UserError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
