"""The predictor of masked tokens beside an encoder's files: `predictor.safetensors`, and its shape as plain fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from jepakit.config import from_plain, to_plain
from jepakit.errors import UserError, check_range
from jepakit.interop.strict_loading import build_empty, check_fit, load_strictly
from jepakit.nn.coordinates import CoordinatesConfig
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.training.weight_files import read_weights

PREDICTOR = "predictor.safetensors"


@dataclass(frozen=True, kw_only=True)
class PredictorShape:
    """The arguments of a `MaskedPredictor`."""

    config: PredictorConfig
    encoder_dim: int
    grid: tuple[int, ...]
    output_dim: int
    embed_hidden: int | None
    visible: bool
    condition_dim: int | None
    rotation: Literal["paired", "tiled"] | None
    stretch: tuple[int, int] | None
    mask_tokens: int
    coordinates: CoordinatesConfig | None = None

    def __post_init__(self) -> None:
        for name in ("encoder_dim", "output_dim", "mask_tokens"):
            check_range(f"predictor.{name}", getattr(self, name), 1, 1_000_000)  # a stranger's description may claim any
        if not (self.coordinates is None) <= len(self.grid) <= 3 or not all(1 <= side <= 10_000 for side in self.grid):
            raise UserError(f"predictor.grid must be one to three numbers from 1 on, got {list(self.grid)[:8]}.")

    @classmethod
    def of(cls, predictor: MaskedPredictor) -> PredictorShape:
        layers = [layer for layer in predictor.predictor_embed.modules() if isinstance(layer, nn.Linear)]
        condition = predictor.condition_embed
        return cls(
            config=predictor.config,
            encoder_dim=layers[0].in_features,
            grid=predictor.grid,
            output_dim=predictor.predictor_proj.out_features,
            embed_hidden=layers[0].out_features if len(layers) > 1 else None,
            visible=predictor.predictor_proj_context is not None,
            condition_dim=None if condition is None else condition.in_features,
            rotation=predictor.rotation,
            stretch=predictor.stretch,
            mask_tokens=predictor.mask_token.shape[0],
            coordinates=None if predictor.coordinate_embed is None else predictor.coordinate_embed.config,
        )


def describe_predictor(predictor: MaskedPredictor) -> dict[str, Any]:
    """Its shape as plain fields, for `config.json`."""
    plain = to_plain(PredictorShape.of(predictor))
    if plain["coordinates"] is None:  # as the files of predictors that know a grid always were
        del plain["coordinates"]
    return plain


def read_predictor(folder: Path, description: object) -> MaskedPredictor:
    """What lies beside an encoder and is described in its `config.json`, frozen. Errors: weights that do not fit it."""
    shape = from_plain(PredictorShape, description, "predictor")
    predictor = build_empty(
        MaskedPredictor, shape.config, shape.encoder_dim, shape.grid, shape.output_dim, embed_hidden=shape.embed_hidden,
        visible=shape.visible, condition_dim=shape.condition_dim, rotation=shape.rotation, stretch=shape.stretch,
        mask_tokens=shape.mask_tokens, coordinates=shape.coordinates,
    )  # fmt: skip
    weights = read_weights(folder / PREDICTOR)
    check_fit(predictor, weights, folder / PREDICTOR)
    load_strictly(predictor.to_empty(device="cpu"), weights, folder / PREDICTOR)
    return predictor.eval().requires_grad_(False)
