"""Coordinates as vectors, against the formulas."""

import math

import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.coordinates import CoordinateEmbedding, CoordinatesConfig, fourier_features


def test_fourier_features_are_the_sines_and_cosines_of_nerf():
    places = torch.tensor([[0.3, -0.7], [0.0, 1.0]], dtype=torch.float64)
    features = fourier_features(places, 3)
    for row, place in enumerate(places.tolist()):
        expected = []
        for x in place:
            angles = [math.pi * x, 2 * math.pi * x, 4 * math.pi * x]
            expected += [x, *map(math.sin, angles), *map(math.cos, angles)]
        torch.testing.assert_close(features[row], torch.tensor(expected, dtype=torch.float64))


def test_the_shortest_wave_is_as_long_as_documented():
    """Half of 2^(2 - bands) units apart the last sine has changed its sign."""
    bands = 6
    start = torch.tensor([[0.013]], dtype=torch.float64)
    last = [fourier_features(start + step, bands)[0, bands] for step in (0.0, 2.0 ** (1 - bands), 2.0 ** (2 - bands))]
    torch.testing.assert_close(last[1], -last[0])
    torch.testing.assert_close(last[2], last[0])


@pytest.mark.parametrize("kind", ["fourier", "mlp"])
def test_the_unit_is_a_length(kind):
    """Metres by a unit of metres are millimetres by a unit of millimetres."""
    config = {"kind": kind, "axes": 3}
    torch.manual_seed(0)
    metres = CoordinateEmbedding(CoordinatesConfig(**config, unit=2.0), 8).double()
    millimetres = CoordinateEmbedding(CoordinatesConfig(**config, unit=2000.0), 8).double()
    millimetres.load_state_dict(metres.state_dict())
    places = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(millimetres(1000 * places), metres(places))


def test_the_mlp_is_two_layers():
    embedding = CoordinateEmbedding(CoordinatesConfig(kind="mlp", axes=2, hidden=5, unit=0.5), 4)
    first, second = embedding.layers[0], embedding.layers[2]
    places = torch.randn(3, 2)
    expected = second(torch.nn.functional.gelu(first(places / 0.5)))
    torch.testing.assert_close(embedding(places), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fouriers"}, "Did you mean 'fourier'"),
        ({"axes": 0}, r"coordinates\.axes must be at least 1"),
        ({"unit": 0.0}, r"coordinates\.unit must be a length above 0, got 0\.0"),
        ({"bands": 40}, r"coordinates\.bands"),
        ({"hidden": 0}, r"coordinates\.hidden"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        CoordinatesConfig(**options)
