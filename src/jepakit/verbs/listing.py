"""`list`: what jepakit knows by name. Reads the plain-text registry; imports no torch."""

from __future__ import annotations

from jepakit.errors import check_choice
from jepakit.registry import DATASETS, EVALUATORS, SIZES, SYSTEMS, find_installed

KINDS = ("systems", "datasets", "evaluators", "sizes")


def list_names(kind: str = "systems") -> dict[str, str]:
    """Names and what they are: "systems", "datasets", "evaluators" or "sizes"."""
    check_choice("list", kind, KINDS)
    if kind == "sizes":
        return {
            name: "ViT {} wide, {} deep, {} heads; predictor {} wide, {} deep; convnet {} wide".format(
                *shape["vit"][:3], *shape["predictor"][:2], shape["convnet"][0]
            )
            for name, shape in SIZES.items()
        }
    if kind == "datasets":
        return dict(DATASETS)
    find_installed("system" if kind == "systems" else "evaluator")
    return {name: entry.about for name, entry in (SYSTEMS if kind == "systems" else EVALUATORS).items()}
