"""What jepakit knows by name, as plain text: `--help` and `list` read this and import no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from jepakit.errors import UserError, check_choice


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
    "v-jepa": Entry("jepakit.systems.v_jepa:VJEPA", "predict the embeddings of hidden tubes of a clip (arXiv 2404.08471)"),
    "v-jepa-2": Entry(
        "jepakit.systems.v_jepa_2:VJEPA2", "the same with rotary positions, for clips of any size (arXiv 2506.09985)"
    ),
    "v-jepa-2.1": Entry(
        "jepakit.systems.v_jepa_2_1:VJEPA21", "predict hidden tubes of a clip, and what is visible, too (arXiv 2603.14482)"
    ),
    "mc-jepa": Entry(
        "jepakit.systems.mc_jepa:MCJEPA", "motion from pairs of frames, content from stills, in one encoder (arXiv 2307.12698)"
    ),
    "llm-jepa": Entry(
        "jepakit.systems.llm_jepa:LLMJEPA", "a language model that predicts code's embedding from its text (arXiv 2509.14252)"
    ),
    "lewm": Entry("jepakit.systems.lewm:LeWM", "predict the embedding of what an action leads to (arXiv 2603.19312)"),
    "pldm": Entry("jepakit.systems.pldm:PLDM", "predict embeddings through a sequence of actions, to plan (arXiv 2502.14819)"),
    "h-jepa": Entry(
        "jepakit.systems.h_jepa:HJEPA", "longer steps above a trained world model, to set it subgoals (LeCun 2022, 4.6)"
    ),
    "v-jepa-2-ac": Entry(
        "jepakit.systems.v_jepa_2_ac:VJEPA2AC", "predict a frozen encoder's tokens after an action, to plan (arXiv 2506.09985)"
    ),
    "pixel-world": Entry(
        "jepakit.systems.pixel_world:PixelWorld", "predict pixels through a sequence of actions: pldm's honest opposite"
    ),
    "graph-jepa": Entry(
        "jepakit.systems.graph_jepa:GraphJEPA", "predict where a graph's parts lie on a hyperbola (arXiv 2309.16014)"
    ),
}

# What `jepakit finetune` writes into a run's config: no JEPA, and trained by no other verb. One for each modality.
TUNED = {
    "finetuned-images": Entry("jepakit.training.finetuning:FineTunedImages", "an encoder of images, tuned on labels"),
    "finetuned-video": Entry("jepakit.training.finetuning:FineTunedVideo", "an encoder of clips, tuned on labels"),
    "finetuned-graphs": Entry("jepakit.training.finetuning:FineTunedGraphs", "an encoder of graphs, tuned on labels"),
}

DATASETS = {
    "digits": "1,797 grey 8 x 8 digits, 10 classes, shipped with scikit-learn",
    "fashion-mnist": "70,000 grey 28 x 28 articles, 10 classes, from an idx folder (Debian package dataset-fashion-mnist)",
    "FOLDER": "your images; labels from sub-folders or --labels a.csv",
    "SHARDS": "a folder that jepakit pack wrote: images, memory-mapped",
    "a-{00..15}.tar": "tar shards as webdataset has them, or a folder of them",
    "FILE.npy, FILE.npz": "an array of images, with labels in an .npz",
    "FOLDER, LIST of videos": "your mp4, mov, webm, mkv, avi, ...; labels from sub-folders, list or --labels",
    "bouncing-digits": "5,000 clips of a moving digit, 32 x 32, generated",
    "noisy-bouncing-digits": "the same before noise that changes, digits of any brightness",
    "moving-photographs": "5,000 clips that slide over two photographs, 64 x 64, motion known, generated",
    "regex": "2,600 pairs of a description and its regular expression, generated",
    "FILE.jsonl, FILE.csv": "pairs of texts in two named fields (--fields)",
    "pendulum": "200 episodes of gymnasium's pendulum: 3 numbers",
    "pendulum-pixels": "the same, drawn 32 x 32 pixels small",
    "two-rooms": "3,000 episodes of a dot in two rooms, 65 x 65 pixels, generated",
    "two-rooms-fixed": "the same, with one wall and door for all",
    "two-rooms-flicker": "two-rooms before a background that nobody can predict",
    "two-rooms-stochastic": "x and y of a dot; of two doors one is locked half of the time",
    "two-rooms-stochastic-pixels": "the same, as pictures",
    "two-rooms-two-doors": "x and y of a dot; two open doors",
    "two-rooms-either-door": "x and y of a dot; one of two doors is locked, now this, now that",
    "maze": "3,000 episodes in mazes of four rooms, generated",
    "maze-fixed": "the same, in one maze",
    "mutag": "188 molecules, 2 classes, from the files of the package grakel (graphs extra)",
    "motifs": "600 generated graphs; sizes and degrees do not tell the classes",
    "FOLDER with NAME_A.txt": "your graphs in the TU text layout",
}

# The modality of a system is its class's; an exported encoder, which has no system, says its modality's name.
MODALITIES = {
    "images": "jepakit.modalities.images.inputs:IMAGES",
    "video": "jepakit.modalities.video.inputs:VIDEO",
    "graphs": "jepakit.modalities.graphs.inputs:GRAPHS",
    "texts": "jepakit.modalities.texts.inputs:TEXTS",
    "trajectories": "jepakit.modalities.trajectories.inputs:TRAJECTORIES",
}

EVALUATORS = {
    "linear": "linear probe with all labels",
    "low-shot-K": "linear probe with K labels a class, mean of five draws",
    "knn-K": "exact K nearest neighbours",
    "attentive": "attentive probe over tokens",
    "attentive-N": "attentive probe as published: V-JEPA's has 1 block, V-JEPA 2's 4",
    "segmentation": "linear probe of tokens for maps of classes",
    "depth": "the same for maps of quantities",
    "continuation": "whether what came next has less energy than what did not",
    "flow": "end-point error of the motion that mc-jepa finds",
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


def load_named(place: str) -> Any:
    """What stands at `module:attribute`."""
    module, attribute = place.split(":")
    return getattr(importlib.import_module(module), attribute)


def load_system(name: str) -> Any:
    """The class of the system with this name. Errors: an unknown name, with the nearest one."""
    if name in TUNED:
        return load_named(TUNED[name].place)
    if name not in SYSTEMS:
        find_installed()
    check_choice("system", name, SYSTEMS)
    return load_named(SYSTEMS[name].place)


def name_of(system: type) -> str:
    """Return the name that a system's class is registered by; "" if it is not."""
    place = f"{system.__module__}:{system.__qualname__}"
    return next((name for name, entry in SYSTEMS.items() if entry.place == place), "")


def verb_of(name: str) -> str:
    """The verb that trains the system with this name."""
    return "finetune" if name in TUNED else "pretrain"


def register(name: str, system: type | str, about: str) -> None:
    """Make a system that lives outside this package known by name: its class, or its place `module:Class`.

    A run's config holds the name and never a place, so that opening a stranger's run runs no code of the stranger:
    whoever opens it registers the name first. Errors: the name is another system's.
    """
    place = system if isinstance(system, str) else f"{system.__module__}:{system.__qualname__}"
    if name in SYSTEMS and SYSTEMS[name].place != place:
        raise UserError(f"The system name {name!r} is taken by {SYSTEMS[name].place}: choose another for {place}.")
    SYSTEMS[name] = Entry(place, about)


def find_installed() -> None:
    """Register what installed packages offer as entry points of the group "jepakit.systems"; names of our own are kept."""
    from importlib.metadata import entry_points  # here: slow to import, and needed by few

    for found in entry_points(group="jepakit.systems"):
        SYSTEMS.setdefault(found.name, Entry(f"{found.module}:{found.attr}", f"of the installed package {found.module}"))
