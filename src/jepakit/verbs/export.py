"""`export`: a run's encoder as files that can be used elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jepakit.errors import check_choice
from jepakit.interop.export import export_graph
from jepakit.interop.pretrained import Which, load


def export(
    run: str | Path,
    *,
    out: str | Path,
    format: Literal["safetensors", "torch-export", "onnx"] = "safetensors",
    which: Which | None = None,
) -> Path:
    """Write an encoder to use elsewhere; returns the folder (safetensors) or the file that was written.

    Args:
        run: the run folder, a folder that `export` wrote, or released I-JEPA weights.
        out: the folder to write into.
        format: "safetensors" for jepakit.load; "torch-export" (model.pt2) and "onnx" (model.onnx) run without jepakit:
            normalised images [batch, channels, height, width] in, tokens and their mean out, any batch size.
        which: "target" (default: what is evaluated) or "encoder" of a run.
    """
    check_choice("format", format, ("safetensors", "torch-export", "onnx"))
    model = load(run, which)
    if format == "safetensors":
        return model.save_pretrained(out)
    return export_graph(model, Path(out), format)
