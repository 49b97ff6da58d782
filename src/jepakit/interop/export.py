"""Encoders as graphs that run without this library: `torch.export` (`model.pt2`) and ONNX (`model.onnx`)."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError, missing_extra
from jepakit.files import write_json
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.strict_loading import claim_folder

GraphFormat = Literal["torch-export", "onnx"]
TOLERANCE = 1e-4  # largest difference from torch, as a share of the largest value
BATCH_SIZES = (1, 3)  # checked on both: a graph that fixed its batch size at 2, as it was traced, fails
ONE_FILE = 1_900_000_000  # bytes of weights that a single ONNX file holds (protobuf ends at 2 GiB)

Run = Callable[[Tensor], tuple[Tensor, Tensor]]


class PlainOutputs(nn.Module):
    """An encoder with tensors for outputs: images -> tokens `[batch, tokens, dim]` and their mean `[batch, dim]`."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, Tensor]:
        tokens = self.encoder(images)
        return tokens.values, tokens.mean()


def export_graph(model: PretrainedEncoder, out: Path, format: GraphFormat) -> Path:
    """Write `model.pt2` or `model.onnx` and `config.json` into a folder; returns the graph's path.

    The graph takes normalised `images [batch, channels, height, width]` of the size in `config.json`, any batch size,
    and returns `tokens [batch, tokens, dim]` and `embedding [batch, dim]`.

    Errors: a missing extra; a file that, read back, does not compute what torch does: then nothing is left behind.
    """
    if model.inputs.prepared_shape is None:
        raise UserError(
            f"{format} is there for encoders of images so far, this one reads {model.modality.name}. Export it as safetensors."
        )
    created = not out.exists()
    claim_folder(out, model.describe())
    write, read, name = {
        "torch-export": (_write_pt2, _read_pt2, "model.pt2"),
        "onnx": (_write_onnx, _read_onnx, "model.onnx"),
    }[format]
    plain = PlainOutputs(model.encoder).cpu().eval()
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
            write(plain, _random_images(model, 2), Path(folder) / name)
            check_against_torch(read(Path(folder) / name), plain, model)
            for file in sorted(Path(folder).iterdir(), reverse=True):  # weights beside a large graph come before it
                os.replace(file, out / file.name)
        write_json(out / "config.json", model.describe())
    finally:
        if created and not any(out.iterdir()):
            out.rmdir()
    return out / name


@torch.no_grad()
def check_against_torch(run: Run, plain: PlainOutputs, model: PretrainedEncoder) -> None:
    """Compare a graph with torch on random images. Errors: another shape, or a difference above `TOLERANCE`."""
    for size in BATCH_SIZES:
        images = _random_images(model, size)
        for name, ours, theirs in zip(("tokens", "embedding"), plain(images), run(images), strict=True):
            if ours.shape != theirs.shape:
                raise UserError(f"The graph gives {name} {list(theirs.shape)}, torch {list(ours.shape)}: not exported.")
            difference = float((ours - theirs).abs().max() / ours.abs().max())
            if not difference <= TOLERANCE:  # NaN fails too
                raise UserError(
                    f"The graph's {name} differ from torch's by {difference:.1e} of their size at batch {size}; "
                    f"{TOLERANCE:.0e} is allowed. Not exported: try another torch version, or --format safetensors."
                )


def _random_images(model: PretrainedEncoder, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *model.inputs.prepared_shape, generator=generator)


def _write_pt2(plain: PlainOutputs, images: Tensor, path: Path) -> None:
    batch = {"images": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(plain, (images,), dynamic_shapes=batch), path)


def _read_pt2(path: Path) -> Run:
    return torch.export.load(path).module()


def _write_onnx(plain: PlainOutputs, images: Tensor, path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "onnx", "Export to ONNX")
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of torchvision's absence, operator by operator
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the exporter's own use of torch
            torch.onnx.export(
                plain,
                (images,),
                path,
                dynamo=True,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                input_names=["images"],
                output_names=["tokens", "embedding"],
                external_data=sum(t.nbytes for t in plain.state_dict().values()) > ONE_FILE,
                verbose=False,
            )
    finally:
        logger.setLevel(level)


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens, embedding = session.run(["tokens", "embedding"], {"images": images.numpy()})
        return torch.from_numpy(tokens), torch.from_numpy(embedding)

    return run
