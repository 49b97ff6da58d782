"""Encoders as files: `save_pretrained` and `from_pretrained` (safetensors and JSON, no code), and `load` for any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from jepakit.config import RunConfig, from_plain, read_config, to_plain
from jepakit.core.system import System
from jepakit.errors import UserError, check_choice, shown
from jepakit.files import read_json, write_json
from jepakit.interop.predictor_files import PREDICTOR, PredictorShape, read_predictor
from jepakit.interop.strict_loading import build_empty, check_fit, claim_folder, load_strictly
from jepakit.modalities.inputs import IMAGES
from jepakit.modalities.modality import Inputs, Modality
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.flow import FlowPredictor
from jepakit.nn.frame_encoder import FrameEncoder
from jepakit.nn.graph_network import GraphEncoder, GraphEncoderConfig
from jepakit.nn.tokens import Tokens
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.registry import MODALITIES, TUNED, load_named, load_system
from jepakit.training.checkpoints import read_checkpoint
from jepakit.training.run_folder import RunFolder
from jepakit.training.weight_files import read_weights, write_weights

if TYPE_CHECKING:
    from jepakit.interop.released_files import Variant

FORMAT = 1
ARCHITECTURES: dict[str, tuple[type, type]] = {
    "vit": (VisionTransformer, ViTConfig),
    "convnet": (ConvNet, ConvNetConfig),
    "video": (VideoTransformer, VideoTransformerConfig),
    "frames": (FrameEncoder, ConvNetConfig),
    "graph": (GraphEncoder, GraphEncoderConfig),
}
Which = Literal["target", "encoder"]


class PretrainedEncoder(nn.Module):
    """A frozen encoder with what it expects of its input.

    `model(inputs)` takes prepared inputs (images `[batch, channels, height, width]`) and returns Tokens;
    `model.embed(inputs)` their mean, `[batch, dim]`. `model.inputs.prepare(samples)` prepares them, for images also
    `model.inputs.normalise(pixels in [0, 1])`. `which` says whether these are the target's or the context encoder's weights,
    `licence` under what terms they were released (None: nothing is known of any), `predictor` is there where it was loaded too.
    """

    option: ClassVar[str] = "encoder"  # of a system's config, and the folder of its run that keeps the copy

    def __init__(
        self,
        encoder: nn.Module,
        inputs: Inputs,
        system: str = "",
        which: str = "encoder",
        modality: Modality = IMAGES,
        *,
        predictor: nn.Module | None = None,
        licence: str | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self._predictor = (predictor,)  # not a submodule: a system that stands on this encoder does not hold it
        self.inputs: Any = inputs
        self.system, self.which, self.modality, self.licence = system, which, modality, licence
        self.eval().requires_grad_(False)

    @property
    def predictor(self) -> Any:
        """What predicts its tokens, in eval mode; None where it was not loaded."""
        return self._predictor[0]

    def forward(self, inputs: Any) -> Tokens:
        self.check_prepared(inputs)
        return self.encoder(inputs)

    @staticmethod
    def check_prepared(inputs: Any) -> None:
        """Raise `UserError` for samples that were not prepared."""
        if isinstance(inputs, (np.ndarray, list, tuple, str, Path)):
            raise UserError(
                f"An encoder takes prepared inputs, got {shown(type(inputs).__name__)}. Prepare samples first: "
                "model(model.inputs.prepare(samples))."
            )

    def predict(self, inputs: Any) -> Any:
        """Answers, of a model that was tuned on labels (`interop.tuned`). Errors: this one was not."""
        raise UserError("This encoder was tuned on no labels, so it has no answers. Tune it first: jepakit finetune.")

    def embed(self, inputs: Any) -> Tensor:
        """Mean over tokens, `[batch, dim]`."""
        return self(inputs).mean()

    def flow(self, first: Tensor, second: Tensor) -> Tensor:
        """Motion from one prepared frame `[batch, channels, height, width]` to the next: `[batch, 2, height, width]`, in pixels
        right and down. Errors: a model that learned none."""
        if not isinstance(self.predictor, FlowPredictor):
            raise UserError("This model finds no flow: only a run of mc-jepa with --motion above 0 does.")
        return self.predictor.between(self.encoder, first, second)

    def save_pretrained(self, folder: str | Path, *, predictor: bool = False) -> Path:
        """Write `model.safetensors` and `config.json` into a folder; predictor: that of masked tokens, too."""
        folder, description = Path(folder), self.describe()
        if predictor:
            description["predictor"] = to_plain(PredictorShape.of(self.predictor))
        claim_folder(folder, description)
        write_weights(folder / "model.safetensors", self.encoder.state_dict())
        if predictor:
            write_weights(folder / PREDICTOR, self.predictor.state_dict())
        write_json(folder / "config.json", description)
        return folder

    def describe(self) -> dict[str, Any]:
        """What `config.json` says: architecture, sizes, and what the encoder expects of its input.

        Errors: an encoder that only its run can build.
        """
        found = [name for name, (kind, _) in ARCHITECTURES.items() if type(self.encoder) is kind]
        if not found:
            raise UserError(
                f"A {type(self.encoder).__name__} cannot be exported by itself yet (only {', '.join(ARCHITECTURES)} can): keep "
                "the run folder, which jepakit.load reads as well."
            )
        return {
            "format": FORMAT,
            "library": "jepakit",
            "architecture": found[0],
            "modality": self.modality.name,
            "encoder": to_plain(self.encoder.config),
            "inputs": to_plain(self.inputs),
            "system": self.system,
            "which": self.which,
            **({} if self.licence is None else {"licence": self.licence}),
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> PretrainedEncoder:
        """Read what `save_pretrained` wrote. Offline; runs no code of the folder.

        Errors: missing files, another format, weights that do not fit the description (each named).
        """
        folder = Path(folder)
        path = folder / "config.json"
        if not path.is_file():
            raise UserError(f"{path} cannot be read: {folder} is no folder of exported weights. Give one, or a run folder.")
        description = read_json(path)
        ours = isinstance(description, dict) and description.get("format") == FORMAT
        if not ours or "architecture" not in description:
            raise UserError(f"{path} does not describe a jepakit encoder of format {FORMAT}. Give one that does.")
        check_choice(f"{path}: architecture", description["architecture"], ARCHITECTURES)
        check_choice(f"{path}: modality", description.get("modality", "images"), MODALITIES)
        kind, config = ARCHITECTURES[description["architecture"]]
        modality = load_named(MODALITIES[description.get("modality", "images")])
        try:
            encoder: nn.Module = build_empty(kind, from_plain(config, description.get("encoder"), "encoder"))
            inputs = from_plain(modality.Inputs, description.get("inputs"), "inputs")
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        weights = read_weights(folder / "model.safetensors")
        check_fit(encoder, weights, folder / "model.safetensors")
        load_strictly(encoder.to_empty(device="cpu"), weights, folder / "model.safetensors")
        licence = description.get("licence")
        predictor = read_predictor(folder, description["predictor"]) if "predictor" in description else None
        model = cls(
            encoder, inputs, str(description.get("system", "")), str(description.get("which", "encoder")), modality,
            predictor=predictor, licence=None if licence is None else str(licence),
        )  # fmt: skip
        if "tuning" not in description:
            return model
        from jepakit.interop.tuned import read_tuned

        return read_tuned(model, folder, description["tuning"])


def is_run_checkpoint(path: Path) -> bool:
    """Whether this is a checkpoint inside a run folder."""
    return path.is_dir() and path.parent.name == "checkpoints" and (path.parents[1] / "config.yaml").exists()


def teacher_of(config: RunConfig, folder: RunFolder) -> Any:
    """What a system asks for of another run: its frozen encoder (`--encoder`, a `PretrainedEncoder`), a whole world model
    (`--lower`, a `PretrainedWorld`), or nothing (None).

    A run keeps its own copy of it, which counts once it is there.
    """
    below = getattr(config.model, "lower", None)
    if below is not None:
        from jepakit.interop.pretrained_world import PretrainedWorld

        return PretrainedWorld.of_run(folder.lower if (folder.lower / "config.yaml").exists() else below)
    asked = getattr(config.model, "encoder", None)
    if asked is None:
        return None
    copied = (folder.encoder / "config.json").exists()
    teacher = load(folder.encoder) if copied else load(asked, getattr(config.model, "which", None))
    kind = load_system(config.system)
    allowed = kind.encoder_modalities or (kind.modality.name,)
    if teacher.modality.name not in allowed:
        raise UserError(
            f"encoder {asked} reads {teacher.modality.name}, {config.system} takes one of {' or '.join(allowed)}. Give "
            "the encoder of another run."
        )
    return teacher


def build_system(config: RunConfig, teacher: Any = None) -> System:
    """The system of a run's config, at random weights but for its teacher's (see `teacher_of`)."""
    given = {} if teacher is None else {teacher.option: teacher}
    try:
        return load_system(config.system)(config.model, config.inputs, config.training.seed, **given)
    except (RuntimeError, MemoryError, OverflowError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error) and "Storage size" not in str(error):
            raise
        raise UserError(f"{config.system} of these sizes does not fit into memory: {str(error)[:99]}. Lower --size.") from error


def load_run_system(run: str | Path, device: torch.device | None = None) -> tuple[System, Any]:
    """A finished run's system with its weights, and its config; or that of `RUN/checkpoints/step-N`."""
    run = Path(run)
    if is_run_checkpoint(run):
        state = read_checkpoint(run, torch.device("cpu"))
        config = read_config(run.parents[1])
        system = build_system(config, teacher_of(config, RunFolder(run.parents[1])))
        system.begin_training()
        load_strictly(system, state["system"], run)
        system.end_training()
        return system.to(device or torch.device("cpu")).eval(), config
    config = read_config(run)
    if config.inputs is None:
        raise UserError(f"{run}/config.yaml has no inputs section: it was not written by a run.")
    system = build_system(config, teacher_of(config, RunFolder(run)))
    load_strictly(system, read_weights(run / "model.safetensors"), run / "model.safetensors")
    return system.to(device or torch.device("cpu")).eval(), config


def encoder_of(system: System, which: Which | None = None) -> tuple[nn.Module, Which]:
    """The encoder of a system: "target" is the one its papers evaluate (the EMA copy where there is one)."""
    both: dict[str, nn.Module] = system.encoders()
    which = which or "target"
    check_choice("which", which, both)
    return both[which], which


def load(path: str | Path, which: Which | None = None, variant: Variant | None = None) -> PretrainedEncoder:
    """The encoder of a run folder, of a folder that `export` wrote or of released weights: frozen, ready to use.

    Args:
        path: the folder, one of a run's `checkpoints/step-N`, an authors' file of I-JEPA, V-JEPA, V-JEPA 2, 2.1 or 2-AC, a
            folder in `transformers`' or timm's layout, or the name of one on the Hugging Face Hub (facebook/...).
        which: "target" (default: what is evaluated) or "encoder" (the context encoder), where there are both.
        variant: of an authors' file that may be of V-JEPA or V-JEPA 2.
    """
    from jepakit.interop.released import HUB_NAME, from_hub, is_released, load_released

    if HUB_NAME.fullmatch(str(path)) and not Path(path).exists():
        path = from_hub(str(path))
    path = Path(path)
    if not is_run_checkpoint(path) and is_released(path):
        return load_released(path, which, variant)
    if variant is not None:
        raise UserError(f"variant is of authors' checkpoints (.pt, .pth.tar), and {path} is none. Leave it out.")
    if is_run_checkpoint(path) or (path / "config.yaml").exists():
        system, config = load_run_system(path)
        encoder, chosen = encoder_of(system, which)
        if config.system in TUNED:
            from jepakit.interop.tuned import TunedEncoder

            return TunedEncoder(system, chosen, licence_of(path))  # type: ignore[arg-type]
        modality, predictor = load_system(config.system).modality, getattr(system, "predictor", None)
        return PretrainedEncoder(
            encoder, config.inputs, config.system, chosen, modality, predictor=predictor, licence=licence_of(path)
        )
    model = PretrainedEncoder.from_pretrained(path)
    if which is not None and which != model.which:
        raise UserError(f"{path} holds the {model.which!r} weights only. Export the run again with --which {which}.")
    return model


def licence_of(run: Path) -> str | None:
    """The licence of the weights that a run, or one of its checkpoints, began from; None where it began at random."""
    path = (run.parents[1] if is_run_checkpoint(run) else run) / "environment.json"
    found = read_json(path).get("licence") if path.exists() else None
    return None if found is None else str(found)


def initialise(system: System, source: str | Path) -> str | None:
    """Start a system from weights: a run of the same system gives all its parts, any other source its encoder. Returns the
    licence of the weights, where they have one.

    Errors: weights that do not fit, with the first tensors named. Nothing is loaded in part.
    """
    source = Path(source)
    if is_run_checkpoint(source) and read_config(source.parents[1]).system == system_name(system):
        load_strictly(system, dict(load_run_system(source)[0].state_dict()), source)
        return licence_of(source)
    if (source / "config.yaml").exists() and read_config(source).system == system_name(system):
        weights = read_weights(source / "model.safetensors")
        load_strictly(system, weights, source / "model.safetensors")
        return licence_of(source)
    model = load(source)
    for part in system.encoders().values():
        load_strictly(part, dict(model.encoder.state_dict()), source)
    return model.licence


def system_name(system: System) -> str:
    """The registry name of a system's class."""
    from jepakit.registry import SYSTEMS

    place = f"{type(system).__module__}:{type(system).__qualname__}"
    return next((name for name, entry in SYSTEMS.items() if entry.place == place), "")
