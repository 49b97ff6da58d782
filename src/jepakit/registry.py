"""What jepakit knows by name, as plain text: `--help` and `list` read this and import no torch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jepakit.errors import UserError, check_choice, did_you_mean


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

# What `jepakit finetune` writes into a run's config: this and the name of a modality. No JEPA, and trained by no other verb.
TUNED = "finetuned-"

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

# The modality of a system is its class's; what has no system (an exported encoder, data to look at) says its modality's name.
MODALITIES = {
    "images": Entry("jepakit.modalities.images.inputs:IMAGES", "pictures"),
    "video": Entry("jepakit.modalities.video.inputs:VIDEO", "clips, and still pictures beside them"),
    "graphs": Entry("jepakit.modalities.graphs.inputs:GRAPHS", "graphs, cut into parts"),
    "texts": Entry("jepakit.modalities.texts.inputs:TEXTS", "pairs of texts"),
    "trajectories": Entry("jepakit.modalities.trajectories.inputs:TRAJECTORIES", "windows of observations and actions"),
}

# What `jepakit collect` writes the episodes of an environment with.
EPISODE_WRITER = "jepakit.modalities.trajectories.episode_writer:EpisodeWriter"

# Encoders that can be exported by themselves: what `config.json` calls their class, which has its config's as `Config`.
ENCODERS = {
    "vit": Entry("jepakit.nn.vit:VisionTransformer", "a transformer over patches of a picture"),
    "convnet": Entry("jepakit.nn.convnet:ConvNet", "a convolutional network"),
    "video": Entry("jepakit.nn.video_transformer:VideoTransformer", "a transformer over tubelets of a clip"),
    "frames": Entry("jepakit.nn.frame_encoder:FrameEncoder", "a convolutional network over the frames of a clip"),
    "graph": Entry("jepakit.nn.graph_network:GraphEncoder", "a graph network and a transformer over parts"),
}

# What `jepakit evaluate` measures, in the order in which it does; names that end in "-K" or "-N" stand for any whole number.
EVALUATORS = {
    "linear": Entry("jepakit.evaluation.evaluators.label_probes:LabelProbes", "linear probe with all labels"),
    "low-shot-K": Entry(
        "jepakit.evaluation.evaluators.label_probes:LabelProbes", "linear probe with K labels a class, mean of five draws"
    ),
    "knn-K": Entry("jepakit.evaluation.evaluators.label_probes:LabelProbes", "exact K nearest neighbours"),
    "attentive": Entry("jepakit.evaluation.evaluators.label_probes:LabelProbes", "attentive probe over tokens"),
    "attentive-N": Entry(
        "jepakit.evaluation.evaluators.label_probes:LabelProbes",
        "attentive probe as published: V-JEPA's has 1 block, V-JEPA 2's 4",
    ),
    "segmentation": Entry("jepakit.evaluation.evaluators.maps:LabelMaps", "linear probe of tokens for maps of classes"),
    "depth": Entry("jepakit.evaluation.evaluators.maps:LabelMaps", "the same for maps of quantities"),
    "answers": Entry("jepakit.evaluation.evaluators.finetuned:TunedAnswers", "what tuning gained, of every tuned run"),
    "continuation": Entry(
        "jepakit.evaluation.evaluators.continuation:Continuation", "whether what came next has less energy than what did not"
    ),
    "flow": Entry("jepakit.evaluation.evaluators.flow:FlowError", "end-point error of the motion that mc-jepa finds"),
    "alignment": Entry("jepakit.evaluation.evaluators.alignment:Alignment", "how near views lie and how evenly samples spread"),
    "world": Entry(
        "jepakit.evaluation.evaluators.world:WorldEvaluator", "rollout error, states and surprise, of every world model"
    ),
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


Kind = Literal["system", "modality", "encoder", "evaluator"]
TABLES: dict[Kind, dict[str, Entry]] = {
    "system": SYSTEMS, "modality": MODALITIES, "encoder": ENCODERS, "evaluator": EVALUATORS,
}  # fmt: skip
GROUPS: dict[Kind, str] = {
    "system": "jepakit.systems", "modality": "jepakit.modalities", "encoder": "jepakit.encoders",
    "evaluator": "jepakit.evaluators",
}  # fmt: skip


ANY_NUMBER = ("-K", "-N")  # how the name of an evaluator ends that has a number


def load_named(place: str) -> Any:
    """What stands at `module:attribute`."""
    module, attribute = place.split(":")
    return getattr(importlib.import_module(module), attribute)


def load_system(name: str) -> Any:
    """The class of the system with this name. Errors: an unknown name, with the nearest one."""
    if is_tuned(name):
        return load_named("jepakit.training.finetuning:tuned_system")(name.removeprefix(TUNED))
    return _load("system", name)


def load_modality(name: str) -> Any:
    """The modality with this name. Errors: an unknown name, with the nearest one."""
    return _load("modality", name)


def load_encoder(name: str) -> Any:
    """The class of the encoder with this name. Errors: an unknown name, with the nearest one."""
    return _load("encoder", name)


def find_evaluator(name: str) -> tuple[str, int]:
    """The registered name of an evaluator that a user named, and the number in it: "knn-20" is "knn-K" with 20, "linear" has 0.

    Errors: an unknown name, with the nearest one.
    """
    if name in EVALUATORS and not name.endswith(ANY_NUMBER):
        return name, 0
    kind, _, digits = name.rpartition("-")
    for registered in (f"{kind}{ending}" for ending in ANY_NUMBER):
        if registered in EVALUATORS and digits.isdecimal() and digits[0] != "0":
            return registered, int(digits)
    examples = {"-K": "-20", "-N": "-4"}
    if digits.isdecimal() and digits[0] != "0":
        examples = dict.fromkeys(examples, f"-{digits}")
    known = [next((f"{one[:-2]}{number}" for end, number in examples.items() if one.endswith(end)), one) for one in EVALUATORS]
    raise UserError(f"evaluators: {name!r} is not known. {did_you_mean(name, known)}")


def evaluators_of(names: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The places of all evaluators, those of installed packages too, in their order: for each the names of it that a user gave.

    Errors: an unknown name, with the nearest one.
    """
    find_installed("evaluator")
    typed: dict[str, tuple[str, ...]] = {entry.place: () for entry in EVALUATORS.values()}
    for name in dict.fromkeys(names or ()):
        typed[EVALUATORS[find_evaluator(name)[0]].place] += (name,)
    return typed


def _load(kind: Kind, name: str) -> Any:
    table = TABLES[kind]
    if name not in table:
        find_installed(kind)
    check_choice(kind, name, table)
    return load_named(table[name].place)


def is_tuned(system: str) -> bool:
    """Whether this is what `jepakit finetune` calls a system: it tunes an encoder of a modality on labels."""
    return system.startswith(TUNED)


def verb_of(system: str) -> str:
    """The verb that trains the system with this name."""
    return "finetune" if is_tuned(system) else "pretrain"


def name_of(thing: Any, kind: Kind = "system") -> str:
    """The name that a class, or another thing that knows its module, is registered by; "" if it is not."""
    place = place_of(thing)
    return next((name for name, entry in TABLES[kind].items() if entry.place == place), "")


def place_of(thing: Any) -> str:
    """Where a class stands, `module:Class`."""
    return f"{thing.__module__}:{thing.__qualname__}"


def register(name: str, thing: Any, about: str, kind: Kind = "system") -> None:
    """Make something that lives outside this package known by name: a system, a modality, an encoder that can be
    exported by itself, or an evaluator.

    A run's config holds names and never places, so that opening a stranger's run runs no code of the stranger: whoever opens
    it registers the names first.

    Args:
        name: what it is called in configs and on the command line.
        thing: its class, or the place of the class or of the modality, `module:name`.
        about: what it is, in one line.
        kind: "system", "modality", "encoder" or "evaluator".

    Errors: the name is another's.
    """
    check_choice("kind", kind, TABLES)
    table, place = TABLES[kind], thing if isinstance(thing, str) else place_of(thing)
    if name in table and table[name].place != place:
        raise UserError(f"The {kind} name {name!r} is taken by {table[name].place}: choose another for {place}.")
    table[name] = Entry(place, about)


def find_installed(kind: Kind = "system") -> None:
    """Register what installed packages offer as entry points of the groups "jepakit.systems", "jepakit.modalities",
    "jepakit.encoders" and "jepakit.evaluators"; names of our own are kept."""
    from importlib.metadata import entry_points  # here: slow to import, and needed by few

    for point in entry_points(group=GROUPS[kind]):
        entry = Entry(f"{point.module}:{point.attr}", f"of the installed package {point.module}")
        TABLES[kind].setdefault(point.name, entry)
