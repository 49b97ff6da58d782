"""What jepakit knows by name, as plain text: `--help` and `list` read this and import no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from jepakit.errors import check_choice


@dataclass(frozen=True)
class Entry:
    """A name's place (`module:attribute`) and what it is, in one line."""

    place: str
    about: str


SYSTEMS = {
    "i-jepa": Entry(
        "jepakit.systems.i_jepa:IJEPA", "predict the embeddings of hidden blocks of an image (arXiv 2301.08243)"
    ),
    "lejepa": Entry(
        "jepakit.systems.lejepa:LeJEPA", "predict the centre of an image's views, kept Gaussian by SIGReg (arXiv 2511.08544)"
    ),
}

DATASETS = {
    "digits": Entry("jepakit.modalities.images:open_images", "1,797 grey 8 x 8 digits, 10 classes, shipped with scikit-learn"),
    "fashion-mnist": Entry(
        "jepakit.modalities.images:open_images",
        "70,000 grey 28 x 28 articles, 10 classes, from an idx folder (Debian package dataset-fashion-mnist)",
    ),
    "FOLDER": Entry("jepakit.modalities.images:open_images", "your images; labels from sub-folders or --labels a.csv"),
    "FILE.npy, FILE.npz": Entry("jepakit.modalities.images:open_images", "an array of images, with labels in an .npz"),
}

EVALUATORS = {
    "linear": Entry("jepakit.evaluation.linear", "linear probe with all labels"),
    "low-shot-K": Entry("jepakit.evaluation.linear", "linear probe with K labels a class, mean of five draws"),
    "knn-K": Entry("jepakit.evaluation.knn", "exact K nearest neighbours"),
    "attentive": Entry("jepakit.evaluation.attentive", "attentive probe over tokens"),
}

# name: (ViT dim, depth, heads, mlp_ratio), (predictor dim, depth, heads), convnet (dim, width, blocks)
# The ViTs from tiny to giant are the released I-JEPA code's, its predictor is 384 wide and 12 deep (16 for giant); the
# smaller predictors, all convnets, and nano, for minutes on a CPU, are ours.
SIZES: dict[str, dict[str, tuple]] = {
    "nano": {"vit": (128, 4, 4, 4.0), "predictor": (96, 2, 4), "convnet": (128, 32, 1)},
    "tiny": {"vit": (192, 12, 3, 4.0), "predictor": (192, 6, 3), "convnet": (256, 48, 1)},
    "small": {"vit": (384, 12, 6, 4.0), "predictor": (384, 6, 6), "convnet": (384, 64, 2)},
    "base": {"vit": (768, 12, 12, 4.0), "predictor": (384, 12, 12), "convnet": (512, 96, 2)},
    "large": {"vit": (1024, 24, 16, 4.0), "predictor": (384, 12, 16), "convnet": (768, 128, 2)},
    "huge": {"vit": (1280, 32, 16, 4.0), "predictor": (384, 12, 16), "convnet": (1024, 160, 3)},
    "giant": {"vit": (1408, 40, 16, 48 / 11), "predictor": (384, 16, 16), "convnet": (1280, 192, 3)},
}


def load_system(name: str) -> Any:
    """The class of the system with this name. Errors: an unknown name, with the nearest one."""
    check_choice("system", name, SYSTEMS)
    module, attribute = SYSTEMS[name].place.split(":")
    return getattr(importlib.import_module(module), attribute)
