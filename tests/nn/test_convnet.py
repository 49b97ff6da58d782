import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.tokens import Ids


@given(st.integers(4, 96), st.integers(4, 96), st.integers(1, 2))
def test_any_size_gives_the_grid_it_announces(height, width, blocks):
    config = ConvNetConfig(image_size=(height, width), channels=1, dim=16, width=4, blocks=blocks)
    tokens = ConvNet(config)(torch.zeros(1, 1, height, width))
    rows, columns = config.grid
    assert tokens.values.shape == (1, rows * columns, 16)
    assert tokens.positions[0, -1].tolist() == [rows - 1, columns - 1]
    assert 2 <= min(rows, columns) <= 6


def test_tokens_are_in_raster_order():
    """A patch of light moves the token below it most; two halvings put token (r, c) over pixel (4 r, 4 c)."""
    torch.manual_seed(0)
    model = ConvNet(ConvNetConfig(image_size=(16, 32), channels=1, dim=16, width=8))
    dark = torch.zeros(1, 1, 16, 32)
    light = dark.clone()
    light[..., 7:10, 23:26] = 5
    change = (model(light).values - model(dark).values)[0].norm(dim=-1)
    assert model.config.grid == (4, 8)
    assert divmod(int(change.argmax()), 8) == (2, 6)


def test_an_image_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    model, images = ConvNet(ConvNetConfig(image_size=(28, 28), channels=3)).train(), torch.randn(4, 3, 28, 28)
    torch.testing.assert_close(model(images).values[2:3], model(images[2:3]).values, atol=1e-5, rtol=1e-5)


def test_mistakes():
    model = ConvNet(ConvNetConfig(image_size=(8, 8), channels=1, dim=8, width=4))
    with pytest.raises(UserError, match="1, height, width"):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="whole images"):
        model(torch.zeros(1, 1, 8, 8), keep=Ids(torch.zeros(1, 1, dtype=torch.long)))
    with pytest.raises(UserError, match="image_size must be at least 4"):
        ConvNetConfig(image_size=(3, 8))
