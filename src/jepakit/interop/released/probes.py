"""Released attentive probes of V-JEPA and V-JEPA 2, and the classifier of a `transformers` folder.

V-JEPA's files hold one (`classifier`) with an output projection of the cross-attention that it was never given (`xattn.proj`);
V-JEPA 2's hold all that were trained side by side (`classifiers`), of which the published figure is the best on the validation
set. Neither says its number of heads: 16, as all released ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepakit.errors import UserError
from jepakit.interop.released.checkpoints import read_released, tensors_of
from jepakit.interop.released.hugging_face import EPS, QKV, read_description, read_folder
from jepakit.interop.strict_loading import build_empty, check_fit, load_strictly
from jepakit.nn.attentive_pooler import AttentiveClassifier, AttentivePoolerConfig

HEADS = 16
STALE = re.compile(r"pooler\.cross_attention_block\.xattn\.proj\.(weight|bias)")
# Their names of a pooler's parts, in a `transformers` file.
POOLER = {
    "pooler.cross_attention_layer.": "pooler.cross_attention_block.",
    ".layer_norm": ".norm",
    ".self_attn.out_proj": ".attn.proj",
    "classifier.": "linear.",
}
LAYER = re.compile(r"pooler\.self_attention_layers\.(\d+)\.")


def load_probe(path: str | Path, number: int | None = None, heads: int = HEADS) -> AttentiveClassifier:
    """A probe in eval mode, frozen: `probe(tokens [batch, tokens, dim]) -> logits [batch, classes]`.

    Args:
        path: an authors' file, or a folder of a `VJEPA2ForVideoClassification`.
        number: which of the probes in a file of several.
        heads: of an authors' file.

    Errors: no probe in the file; several, and none was chosen; tensors that do not fit.
    """
    path = Path(path)
    if path.is_dir():
        description = read_description(path)
        heads, eps = description.get("num_attention_heads", HEADS), EPS
        weights = _from_transformers(read_folder(path), path)
    else:
        weights, eps = _from_checkpoint(path, number), 1e-5
    query, linear = (weights.get(name) for name in ("pooler.query_tokens", "linear.weight"))
    if query is None or linear is None or query.ndim != 3 or linear.ndim != 2:
        raise UserError(f"{path} holds no attentive probe: it lacks pooler.query_tokens or linear.weight. Give one that does.")
    hidden = weights.get("pooler.cross_attention_block.mlp.fc1.weight", linear)
    config = AttentivePoolerConfig(
        dim=query.shape[2], heads=heads, queries=query.shape[1], mlp_ratio=hidden.shape[0] / query.shape[2], eps=eps,
        blocks=len({name.split(".")[2] for name in weights if name.startswith("pooler.blocks.")}),
    )  # fmt: skip
    probe = build_empty(AttentiveClassifier, config, linear.shape[0])
    check_fit(probe, weights, path)
    load_strictly(probe.to_empty(device="cpu"), weights, path)
    return probe.eval().requires_grad_(False)


def _from_checkpoint(path: Path, number: int | None) -> dict[str, Tensor]:
    checkpoint = read_released(path)
    several = checkpoint.get("classifiers")
    if several is None:
        if number not in (None, 0):
            raise UserError(f"{path} holds one probe; number {number} is not there. Leave number out.")
        weights = tensors_of(checkpoint, ("classifier",), path)
    else:
        if not isinstance(several, list) or (number is None and len(several) > 1) or not 0 <= (number or 0) < len(several):
            count = len(several) if isinstance(several, list) else 0
            raise UserError(
                f"{path} holds {count} probes, trained side by side with other learning rates; number {number} is none of them."
                f" Give number, from 0 to {count - 1}."
            )
        weights = tensors_of({"classifiers": several[number or 0]}, ("classifiers",), path)
    return {name: tensor for name, tensor in weights.items() if not STALE.fullmatch(name)}


def _from_transformers(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Under our names: keys and values joined in the cross-attention, queries with them in the blocks."""
    mine: dict[str, Any] = {}
    for name, tensor in weights.items():
        if name.startswith("vjepa2."):
            continue
        name = LAYER.sub(r"pooler.blocks.\1.", name)
        for theirs, ours in POOLER.items():
            name = name.replace(theirs, ours)
        mine[name] = tensor
    for name in [name for name in mine if name.rsplit(".", 2)[-2:][0] == "q_proj"]:
        start, kind = name.removesuffix(name[name.rindex("q_proj") :]), name.rsplit(".", 1)[1]
        parts = [mine.pop(f"{start}{part[0]}_proj.{kind}", None) for part in QKV]
        if any(part is None for part in parts):
            raise UserError(f"{path} lacks a part of {start}: weights of another model. Download the folder again.")
        if start.endswith("cross_attn."):
            where = start.replace("cross_attn.", "xattn.")
            mine |= {f"{where}q.{kind}": parts[0], f"{where}kv.{kind}": torch.cat(parts[1:])}
        else:
            mine[f"{start.replace('self_attn.', 'attn.')}qkv.{kind}"] = torch.cat(parts)
    return mine
