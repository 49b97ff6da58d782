"""Released weights of every family, from the authors' checkpoints, `transformers` and timm folders, and names on the Hub.

No file names a number of heads, so they are inferred or taken from the folder's config. `transformers` and timm published the
*context* encoder, and the papers evaluate the target encoder, which only the authors' checkpoints hold: what was loaded is
`model.which`. LayerNorm's epsilon is 1e-6, as trained, whatever a config says; one that says anything else but the
`transformers` default is refused.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from jepakit.errors import UserError, check_choice, missing_extra, shown
from jepakit.interop.encoder import PretrainedEncoder, Which
from jepakit.interop.released.checkpoints import FAMILIES, KEYS, Variant, read_released, tensors_of, variant_of
from jepakit.interop.released.hugging_face import (
    EPS,
    IMAGE_NAMES,
    PREDICTOR_NAMES,
    VIDEO_NAMES,
    read_description,
    read_folder,
    read_scale,
    timm_facts,
    to_ours,
)  # fmt: skip
from jepakit.interop.released.i_jepa import image_encoder
from jepakit.interop.released.v_jepa import video_encoder, video_predictor
from jepakit.interop.strict_loading import build_empty, check_fit, load_strictly
from jepakit.modalities.images.inputs import IMAGES, ImageInputs
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.nn.vit import VisionTransformer

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DEFAULTS: dict[str, Any] = {  # of transformers' VJEPA2Config, which a config.json leaves out
    "patch_size": 16, "crop_size": 256, "frames_per_clip": 64, "tubelet_size": 2, "hidden_size": 1024, "in_chans": 3,
    "num_attention_heads": 16, "num_hidden_layers": 24, "mlp_ratio": 4.0, "layer_norm_eps": EPS, "hidden_act": "gelu",
    "qkv_bias": True, "pred_hidden_size": 384, "pred_num_attention_heads": 12, "pred_num_hidden_layers": 12,
    "pred_num_mask_tokens": 10, "pred_mlp_ratio": 4.0,
}  # fmt: skip


def is_released(path: Path) -> bool:
    """Is this a file of released weights, or a folder in `transformers`' or timm's layout?"""
    if path.is_file():
        return path.suffix in (".tar", ".pth", ".pt")
    description = read_description(path)
    facts_of_timm = ("pretrained_cfg", "model_args", "num_features")
    of_timm = "architecture" in description and any(name in description for name in facts_of_timm)
    return of_timm or description.get("model_type") in ("ijepa", "vjepa2")


def load_released(path: str | Path, which: Which | None = None, variant: Variant | None = None) -> PretrainedEncoder:
    """The encoder in released weights, frozen, and its predictor where there is one (`model.predictor`). No code in them runs.

    The licence is printed, and travels with what is saved.

    Args:
        path: an authors' file (`vith14.pth.tar`, `vitl.pt`, ...), or a folder with `config.json` and safetensors.
        which: "target" (default) or "encoder" of an authors' file; a folder holds "encoder" alone.
        variant: the family, where the file cannot tell ("v-jepa" or "v-jepa-2").

    Errors: an unreadable file; tensors that are missing, left over or misshapen (nothing is loaded in part); a width whose
        heads are not known; a file that may be of two families.
    """
    path = Path(path)
    if path.is_dir():
        if variant is not None:
            raise UserError(f"{path} says itself what it holds: leave variant out.")
        if which == "target":
            raise UserError(f"{path} holds a context encoder alone, as transformers publishes it: use which='encoder'.")
        model = _from_folder(path)
    else:
        model = _from_checkpoint(path, which or "target", variant)
    if model.licence is not None:
        print(f"{path}: {model.system} weights ({model.which}), licence {model.licence}.", file=sys.stderr)
    return model


def from_hub(name: str) -> Path:
    """The folder of a model on the Hugging Face Hub, from its cache where it is there.

    Errors: `huggingface_hub` is not installed; no such model, or no network.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub", f"Loading {name} from the Hugging Face Hub") from error
    wanted = ["config.json", "README.md", "*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise UserError(
            f"{name} is no folder or file here, and could not be had from the Hugging Face Hub: {reason}. Check the name and "
            "the network, or give the folder of a download."
        ) from error


def _from_checkpoint(path: Path, which: Which, variant: Variant | None) -> PretrainedEncoder:
    check_choice("which", which, ("target", "encoder"))
    checkpoint = read_released(path)
    family = variant_of(path, checkpoint, variant)
    weights = tensors_of(checkpoint, KEYS[which], path)
    if family == "i-jepa":
        return _of_images(image_encoder(weights, path), which, family, path)
    encoder = video_encoder(weights, family, path)
    predictor = None
    if isinstance(checkpoint.get("predictor"), dict) and checkpoint["predictor"]:
        predictor = video_predictor(tensors_of(checkpoint, ("predictor",), path), family, encoder, path)
    return _of_clips(encoder, predictor, which, family, path)


def _from_folder(path: Path) -> PretrainedEncoder:
    description, weights = read_description(path), read_folder(path)
    if description.get("model_type") not in ("ijepa", "vjepa2"):  # timm
        arguments = description.get("model_args")
        heads = arguments.get("num_heads") if isinstance(arguments, dict) else None
        model = _of_images(image_encoder(weights, path, heads), "encoder", "i-jepa", path)
    elif description["model_type"] == "ijepa":
        weights = to_ours({name.removeprefix("ijepa."): tensor for name, tensor in weights.items()}, IMAGE_NAMES)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
        model = _of_images(image_encoder(weights, path, description.get("num_attention_heads")), "encoder", "i-jepa", path)
    else:
        encoder, predictor = _video_from_transformers(path, {**DEFAULTS, **description}, weights)
        model = _of_clips(encoder, predictor, "encoder", "v-jepa-2", path)
    if "licence" in description:  # an export of ours, which knows what it came of
        model.licence = None if description["licence"] is None else str(description["licence"])
    else:
        model.licence = _licence(path) or timm_facts(description).get("license") or model.licence
    return model


def _video_from_transformers(
    path: Path, config: dict[str, Any], weights: dict[str, Tensor]
) -> tuple[VideoTransformer, MaskedPredictor | None]:
    """Our modules with the tensors of a `VJEPA2Model`, or of the one inside a `VJEPA2ForVideoClassification`."""
    fixed = {"layer_norm_eps": EPS, "hidden_act": "gelu", "qkv_bias": True}
    other = [name for name, value in fixed.items() if config[name] != value]
    if other:
        raise UserError(f"{path}/config.json: {other[0]} is {shown(config[other[0]])}, V-JEPA 2's is {fixed[other[0]]}.")
    numbers = {name: config[name] for name, value in DEFAULTS.items() if isinstance(value, int) and name not in fixed}
    wrong = [name for name, value in numbers.items() if not isinstance(value, int)]
    if wrong:
        raise UserError(f"{path}/config.json: {wrong[0]} must be a whole number, got {shown(numbers[wrong[0]])}.")
    size = config["crop_size"]
    shape = VideoTransformerConfig(
        frames=config["frames_per_clip"], image_size=(size, size), patch_size=config["patch_size"],
        tubelet=config["tubelet_size"], channels=config["in_chans"], dim=config["hidden_size"],
        depth=config["num_hidden_layers"], heads=config["num_attention_heads"], mlp_ratio=float(config["mlp_ratio"]),
        positions="tiled",
    )  # fmt: skip
    inner = PredictorConfig(
        dim=config["pred_hidden_size"], depth=config["pred_num_hidden_layers"], heads=config["pred_num_attention_heads"],
        mlp_ratio=float(config["pred_mlp_ratio"]),
    )  # fmt: skip
    weights = {name.removeprefix("vjepa2."): tensor for name, tensor in weights.items()}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(("pooler.", "classifier."))}
    theirs = {name: weights.pop(name) for name in list(weights) if name.startswith("predictor.")}
    encoder: VideoTransformer = build_empty(VideoTransformer, shape)
    found = to_ours(weights, VIDEO_NAMES)
    check_fit(encoder, found, path)
    load_strictly(encoder.to_empty(device="cpu"), found, path)
    if not theirs:
        return encoder, None
    count = config["pred_num_mask_tokens"]
    predictor = build_empty(
        MaskedPredictor, inner, shape.dim, shape.grid, rotation="tiled", mask_tokens=count
    )
    found = to_ours(theirs, PREDICTOR_NAMES)
    check_fit(predictor, found, path)
    load_strictly(predictor.to_empty(device="cpu"), found, path)
    return encoder, predictor.eval().requires_grad_(False)


def _of_images(encoder: VisionTransformer, which: str, variant: Variant, path: Path) -> PretrainedEncoder:
    shape = encoder.config
    mean, std = _scale(path, shape.channels)
    inputs = ImageInputs(image_size=shape.image_size, channels=shape.channels, mean=mean, std=std)
    return PretrainedEncoder(encoder, inputs, variant, which, IMAGES, licence=FAMILIES[variant].licence)


def _of_clips(encoder: VideoTransformer, predictor: Any, which: str, variant: Variant, path: Path) -> PretrainedEncoder:
    shape = encoder.config
    mean, std = _scale(path, shape.channels)
    inputs = VideoInputs(
        frames=shape.frames, image_size=shape.image_size, channels=shape.channels, mean=mean, std=std, stills=shape.stills
    )
    return PretrainedEncoder(
        encoder, inputs, variant, which, VIDEO, predictor=predictor, licence=FAMILIES[variant].licence
    )


def _scale(path: Path, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels: what the folder says, else ImageNet's, as all released models have them."""
    said = read_scale(path) if path.is_dir() else None
    if said is not None and len(said[0]) == len(said[1]) == channels:
        return said
    if channels != len(IMAGENET_MEAN):
        raise UserError(
            f"{path} expects {channels} channels; released weights are for colour images, and nothing here says by what mean "
            "and deviation others are prepared. Use a release, or export the run again."
        )
    return IMAGENET_MEAN, IMAGENET_STD


def _licence(folder: Path) -> str | None:
    """What the folder's model card says."""
    try:
        card = (folder / "README.md").read_text("utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\A---\n(?:.*\n)*?license:[ \t]*([\w.+-]+)", card)
    return None if found is None else found[1]
