"""Peak memory of loading and converting a file in V-JEPA 2's released layout, beside reading it whole.

A ViT-L checkpoint as the released trainer writes it: encoder, target encoder and predictor at random weights, 2.6 GB with a
plain `torch.save`. Ours maps the file, takes what is asked for, and writes a folder for `transformers`; the reference reads the
file, builds the model and loads the weights into it. Each in a fresh process; what torch takes itself is left out.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.timing import Result
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig

SHAPE = VideoTransformerConfig(
    frames=64, image_size=(256, 256), patch_size=16, dim=1024, depth=24, heads=16, positions="tiled"
)
OURS = "import jepakit; model = jepakit.load({file!r}, variant='v-jepa-2')"
CONVERTED = OURS + "; jepakit.interop.released.hugging_face.write_transformers({out!r}, model.encoder)"
WRITTEN = "from pathlib import Path; from benchmarks.weights import write; write(Path({file!r}))"
REFERENCE = (
    "from benchmarks.weights import encoder; whole = torch.load({file!r}, weights_only=True); model = encoder(); "
    "model.load_state_dict({{name.removeprefix('module.backbone.'): x for name, x in whole['target_encoder'].items()}})"
)


def encoder() -> VideoTransformer:
    return VideoTransformer(SHAPE)


def write(file: Path) -> None:
    """The checkpoint, of weights that are nobody's."""
    weights = {f"module.backbone.{name}": tensor for name, tensor in encoder().state_dict().items()}
    other = {name: tensor.clone() for name, tensor in weights.items()}
    shape = PredictorConfig(dim=384, depth=12, heads=12)
    predictor = MaskedPredictor(shape, SHAPE.dim, SHAPE.grid, rotation="tiled", mask_tokens=10)
    asked = {f"module.backbone.{name}": tensor for name, tensor in _released(predictor).items()}
    torch.save({"encoder": weights, "target_encoder": other, "predictor": asked, "epoch": 1}, file)


def _released(predictor: MaskedPredictor) -> dict[str, torch.Tensor]:
    """The released code has a list of mask tokens."""
    state = predictor.state_dict()
    tokens = state.pop("mask_token")
    return {**state, **{f"mask_tokens.{number}": token[None] for number, token in enumerate(tokens)}}


def peak(work: str) -> float:
    """Bytes that a fresh process holds at most while it does this, above what it holds with torch and jepakit imported."""
    measured = (
        "import resource, torch, jepakit, jepakit.interop.released.hugging_face; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; " + work + "; "
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", measured], capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout.rsplit("peak", 1)[1])


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vitl.pt"
        names = {"file": str(file), "out": str(Path(folder) / "out")}
        subprocess.run([sys.executable, "-c", WRITTEN.format(**names)], check=True)
        size = file.stat().st_size
        reference = peak(REFERENCE.format(**names))
        return [
            Result(
                f"weights: {size / 1e9:.1f} GB, {what}", peak(work.format(**names)) / 1e9, reference / 1e9, "GB",
                note=f"{size / 1e9:.2f} GB on disk",
            )
            for what, work in (("loaded", OURS), ("written for transformers", CONVERTED))
        ]  # fmt: skip
