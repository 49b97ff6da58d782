import pytest
import torch
from torch import nn

from jepakit.errors import UserError
from jepakit.nn.embedding_predictors import RecurrentPredictor
from jepakit.nn.impala import Impala


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_it_has_the_published_number_of_parameters():
    """EB-JEPA's encoder for Two Rooms: 1,426,096 with its linear layer and layer norm; its predictor: 792,576."""
    encoder = Impala((65, 65), 2)
    assert encoder.output_dim == 32 * 9 * 9
    assert parameters(encoder, nn.Linear(encoder.output_dim, 512), nn.LayerNorm(512)) == 1_426_096
    assert parameters(RecurrentPredictor(512, 2)) == 792_576


def test_it_tells_places_apart():
    encoder = Impala((16, 16), 1, (4, 8)).eval()
    images = torch.zeros(2, 1, 16, 16)
    images[0, 0, 3, 3] = images[1, 0, 12, 3] = 5.0
    found = encoder(images)
    assert found.shape == (2, 8 * 4 * 4)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_images_of_another_shape_are_named():
    with pytest.raises(UserError, match=r"\[1, 16, 16\].*\[2, 1, 8, 16\]"):
        Impala((16, 16), 1)(torch.zeros(2, 1, 8, 16))
