import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

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


def pyramid_net(height=48, width=80, blocks=2):
    torch.manual_seed(0)
    return ConvNet(ConvNetConfig(image_size=(height, width), channels=1, dim=32, width=8, blocks=blocks))


@given(st.integers(4, 70), st.integers(4, 70), st.integers(1, 2))
def test_a_pyramid_halves_any_image_from_level_to_level(height, width, blocks):
    model = pyramid_net(height, width, blocks)
    levels = list(range(model.config.stages + 1))
    maps = model(torch.randn(1, 1, height, width), levels=levels)
    for level, feature_map in zip(levels, maps, strict=True):
        assert feature_map.stride == 2**level
        assert feature_map.grid == (-(-height // 2**level), -(-width // 2**level))
        assert feature_map.values.shape[1] == model.config.widths[level]
        last = feature_map.positions[0, -1, -1]
        assert (last >= 0).all()
        assert (last < torch.tensor([height, width])).all()
    tokens = maps[-1].tokens()
    whole = model(torch.randn(1, 1, height, width))
    assert whole.values.shape == tokens.values.shape
    assert torch.equal(whole.positions * 2 ** levels[-1], tokens.positions)


def test_levels_come_in_the_order_asked_for_and_the_last_is_the_plain_output():
    model, images = pyramid_net(), torch.randn(2, 1, 48, 80)
    three, none, two = model(images, levels=[3, 0, 2])
    assert [three.stride, none.stride, two.stride] == [8, 1, 4]
    assert torch.equal(three.tokens().values, model(images).values)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_cell_sees_the_pixels_around_the_position_it_states(level):
    """What a cell depends on is a square centred on its position. (Group statistics reach everywhere: left out here.)"""
    model = pyramid_net(96, 136, blocks=1)
    for block in model.blocks:
        block.norm1 = block.norm2 = nn.Identity()
    model.stem_norm = nn.Identity()
    images = torch.randn(1, 1, 96, 136, requires_grad=True)
    (feature_map,) = model(images, levels=[level])
    row, column = (side // 2 for side in feature_map.grid)
    (seen,) = torch.autograd.grad(feature_map.values[0, :, row, column].square().sum(), images)
    rows, columns = seen[0, 0].nonzero(as_tuple=True)
    position = feature_map.positions[0, row, column]
    assert [(x.min() + x.max()).item() / 2 for x in (rows, columns)] == position.tolist()
    assert rows.max() - rows.min() == columns.max() - columns.min() >= 2


def test_an_image_moved_by_a_stride_moves_a_map_by_a_cell():
    """Inside, where no edge is near: what lets features of one frame be compared with the warped features of the next."""
    model = pyramid_net(48, 48, blocks=1).double()
    for block in model.blocks:
        block.norm1 = block.norm2 = nn.Identity()
    model.stem_norm = nn.Identity()
    image = torch.zeros(1, 1, 48, 48, dtype=torch.float64)
    image[..., 18:26, 20:28] = torch.randn(8, 8, dtype=torch.float64)
    flow = torch.tensor([4.0, -8.0], dtype=torch.float64)
    moved = torch.roll(image, (4, -8), dims=(2, 3))
    for first, second in zip(model(image, levels=[0, 1, 2]), model(moved, levels=[0, 1, 2]), strict=True):
        warped = second.at(first.positions + flow)
        inside = (first.positions > 8).all(-1) & (first.positions < 36).all(-1)
        torch.testing.assert_close(warped.movedim(1, -1)[inside], first.values.movedim(1, -1)[inside])


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_gradient_of_a_level_reaches_what_made_it_and_nothing_deeper(level):
    model = pyramid_net()
    (feature_map,) = model(torch.randn(2, 1, 48, 80), levels=[level])
    feature_map.values.square().mean().backward()
    blocks = model.config.blocks
    assert model.stem.weight.grad.abs().sum() > 0
    reached = [block.conv1.weight.grad is not None and bool(block.conv1.weight.grad.any()) for block in model.blocks]
    assert reached == [True] * (level * blocks) + [False] * (len(reached) - level * blocks)


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
    for levels in ([], [-1], [1, 2]):
        with pytest.raises(UserError, match="must lie between 0"):
            model(torch.zeros(1, 1, 8, 8), levels=levels)
    with pytest.raises(UserError, match="image_size must be at least 4"):
        ConvNetConfig(image_size=(3, 8))
