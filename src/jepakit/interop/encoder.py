"""Encoders as files: `save_pretrained` and `from_pretrained` (safetensors and JSON, no code)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from jepakit.config import from_plain, to_plain
from jepakit.errors import UserError, shown
from jepakit.files import read_json, write_json
from jepakit.interop.predictor_files import PREDICTOR, describe_predictor, read_predictor
from jepakit.interop.strict_loading import build_empty, check_fit, claim_folder, load_strictly
from jepakit.modalities.modality import Inputs, Modality
from jepakit.nn.flow import FlowPredictor
from jepakit.nn.tokens import Tokens
from jepakit.registry import ENCODERS, load_encoder, load_modality, name_of
from jepakit.training.weight_files import read_weights, write_weights

FORMAT = 1
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
        modality: Modality | None = None,
        *,
        predictor: nn.Module | None = None,
        licence: str | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self._predictor = (predictor,)  # not a submodule: a system that stands on this encoder does not hold it
        self.inputs: Any = inputs
        self.modality = modality or load_modality(inputs.modality)
        self.system, self.which, self.licence = system, which, licence
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
            description["predictor"] = describe_predictor(self.predictor)
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
        architecture = name_of(type(self.encoder), "encoder")
        if not architecture:
            raise UserError(
                f"A {type(self.encoder).__name__} cannot be exported by itself yet (only {', '.join(ENCODERS)} can): keep "
                "the run folder, which jepakit.load reads as well."
            )
        return {
            "format": FORMAT,
            "library": "jepakit",
            "architecture": architecture,
            "modality": self.modality.name,
            "encoder": to_plain(self.encoder.config),
            "inputs": to_plain(self.inputs),
            "system": self.system,
            "which": self.which,
            **({} if self.licence is None else {"licence": self.licence}),
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path, description: dict[str, Any] | None = None) -> PretrainedEncoder:
        """Read the encoder that `save_pretrained` wrote. Offline; runs no code of the folder.

        Args:
            description: what `read_description(folder)` returned, where it was read already.

        Errors: missing files, another format, weights that do not fit the description (each named).
        """
        folder = Path(folder)
        path = folder / "config.json"
        description = description or read_description(folder)
        try:
            kind = load_encoder(str(description["architecture"]))
            modality = load_modality(str(description.get("modality", "images")))
            encoder: nn.Module = build_empty(kind, from_plain(kind.Config, description.get("encoder"), "encoder"))
            inputs = from_plain(modality.Inputs, description.get("inputs"), "inputs")
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        weights = read_weights(folder / "model.safetensors")
        check_fit(encoder, weights, folder / "model.safetensors")
        load_strictly(encoder.to_empty(device="cpu"), weights, folder / "model.safetensors")
        licence = description.get("licence")
        predictor = read_predictor(folder, description["predictor"]) if "predictor" in description else None
        return cls(
            encoder, inputs, str(description.get("system", "")), str(description.get("which", "encoder")), modality,
            predictor=predictor, licence=None if licence is None else str(licence),
        )  # fmt: skip


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `config.json` in an exported folder says. Errors: no such file, or one of another format."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path} cannot be read: {folder} is no folder of exported weights. Give one, or a run folder.")
    description = read_json(path)
    ours = isinstance(description, dict) and description.get("format") == FORMAT
    if not ours or "architecture" not in description:
        raise UserError(f"{path} does not describe a jepakit encoder of format {FORMAT}. Give one that does.")
    return description
