"""A predictor of any shape comes back as it was written."""

from __future__ import annotations

import pytest
import torch

from jepakit.errors import UserError
from jepakit.files import read_json, write_json
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.load import load
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.nn.coordinates import CoordinatesConfig
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids
from jepakit.nn.vit import VisionTransformer, ViTConfig

INPUTS = ImageInputs(image_size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
SHAPES = [
    {},
    {"output_dim": 24, "mask_tokens": 3, "condition_dim": 5},
    {"embed_hidden": 20, "visible": True},
    {"rotation": "tiled"},
    {"rotation": "paired", "stretch": (4, 4)},
    {"coordinates": CoordinatesConfig(axes=2, unit=2.0)},
    {"coordinates": CoordinatesConfig(kind="mlp", axes=2, hidden=7)},
]


def saved(place, **shape):
    torch.manual_seed(0)
    encoder = VisionTransformer(ViTConfig(image_size=(8, 8), patch_size=4, channels=1, dim=16, depth=1, heads=2))
    grid = () if "coordinates" in shape else (2, 2)
    predictor = MaskedPredictor(PredictorConfig(dim=16, depth=1, heads=2), 16, grid, **shape)
    model = PretrainedEncoder(encoder, INPUTS, "i-jepa", "target", predictor=predictor.eval())
    model.save_pretrained(place, predictor=True)
    return model


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: ", ".join(shape) or "plain")
def test_the_predictor_that_is_read_answers_as_the_one_that_was_written(tmp_path, shape):
    model, again = saved(tmp_path / "out", **shape), load(tmp_path / "out")
    context = model(torch.randn(2, 1, 8, 8))
    everywhere = Ids(torch.arange(4).expand(2, -1))
    options = {"positions": context.positions}
    if "condition_dim" in shape:
        options["condition"] = torch.randn(2, shape["condition_dim"])
    assert torch.equal(again.predictor(context, everywhere, **options), model.predictor(context, everywhere, **options))
    assert not any(parameter.requires_grad for parameter in again.predictor.parameters())
    saved(tmp_path / "out", **shape)  # the same again may be written over


def test_the_description_of_a_predictor_on_a_grid_is_what_it_was(tmp_path):
    saved(tmp_path)
    assert set(read_json(tmp_path / "config.json")["predictor"]) == {
        "config", "encoder_dim", "grid", "output_dim", "embed_hidden", "visible", "condition_dim", "rotation", "stretch",
        "mask_tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("grid", [], "predictor.grid"),
        ("encoder_dim", 10**9, r"predictor\.encoder_dim must be"),
        ("mask_tokens", 0, r"predictor\.mask_tokens"),
        ("visible", True, r"predictor\.safetensors lacks predictor_proj_context"),
        ("rotation", "swirled", "'swirled' is not known"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, name, value, told):
    saved(tmp_path)
    described = read_json(tmp_path / "config.json")
    described["predictor"][name] = value
    write_json(tmp_path / "config.json", described)
    with pytest.raises(UserError, match=told):
        load(tmp_path)
