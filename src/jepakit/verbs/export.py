"""`export`: a run's encoder as files that can be used elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jepakit.errors import check_choice
from jepakit.interop.encoder import Which
from jepakit.interop.export import export_graph
from jepakit.interop.load import load
from jepakit.interop.released.checkpoints import Variant
from jepakit.interop.released.hugging_face import write_timm, write_transformers

FORMATS = ("safetensors", "torch-export", "onnx", "transformers", "timm")


def export(
    run: str | Path,
    *,
    out: str | Path,
    format: Literal["safetensors", "torch-export", "onnx", "transformers", "timm"] = "safetensors",
    which: Which | None = None,
    variant: Variant | None = None,
) -> Path:
    """Write an encoder to use elsewhere; returns the folder, or the file of a graph, that was written.

    Args:
        run: the run folder, a folder that `export` wrote, or released weights (see jepakit.load).
        out: the folder to write into.
        format: "safetensors" for jepakit.load; "torch-export" (model.pt2) and "onnx" (model.onnx) run without jepakit:
            normalised images [batch, channels, height, width] in, tokens and their mean out, any batch size; "transformers" for
            IJepaModel (images) and VJEPA2Model (v-jepa-2 of tiled positions; its predictor comes along), "timm" for
            its VisionTransformer (images).
        which: "target" (default: what is evaluated) or "encoder" of a run.
        variant: of an authors' file that may be of V-JEPA or V-JEPA 2.
    """
    check_choice("format", format, FORMATS)
    model = load(run, which, variant)
    if format == "safetensors":
        return model.save_pretrained(out)
    if format in ("transformers", "timm"):
        if format == "timm":
            write_timm(Path(out), model.encoder, model.inputs, model.licence)
        else:
            write_transformers(Path(out), model.encoder, model.predictor, model.inputs, model.licence)
        return Path(out)
    return export_graph(model, Path(out), "onnx" if format == "onnx" else "torch-export")
