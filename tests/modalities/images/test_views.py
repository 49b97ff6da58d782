from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from jepakit.errors import UserError
from jepakit.modalities.images.views import (
    ViewConfig,
    _jitter,
    draw_local_views,
    draw_views,
    gaussian_blur,
    random_resized_boxes,
)
from jepakit.randomness import Draws

STILL = {"jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarise": 0.0, "flip": 0.0}
QUIET = {"rotation": 0.0, "zoom": (1.0, 1.0), "shift": 0.0, "intensity": 0.0, "noise": 0.0}


def batch(channels: int, *sizes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    extent = torch.tensor(sizes)
    canvas = torch.zeros(len(sizes), channels, *extent.amax(0).tolist())
    for place, (height, width) in zip(canvas, sizes, strict=True):
        place[:, :height, :width] = torch.rand(channels, height, width, generator=generator)
    return canvas, extent


def drawn(ids: list[int], epoch: int = 0, seed: int = 0) -> Draws:
    return Draws(seed, "views", epoch, ids)


@pytest.mark.parametrize("kind", ["photo", "glyph"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_range_and_that_views_differ(kind, channels):
    canvas, sizes = batch(channels, (30, 40), (50, 20), (35, 35))
    config = ViewConfig(kind=kind, views=4, local_views=3)
    draws = drawn([5, 6, 7])
    views = draw_views(canvas, sizes, config, draws, (21, 28))
    local = draw_local_views(canvas, sizes, config, draws, (21, 28))
    assert views.shape == (3, 4, channels, 21, 28)
    assert local.shape == (3, 3, channels, 9, 12)
    for made in (views, local):
        assert made.min() >= 0
        assert made.max() <= 1
        flat = made.flatten(2)
        assert (torch.cdist(flat, flat) + torch.eye(flat.shape[1]) > 0.01).all()


@pytest.mark.parametrize("kind", ["photo", "glyph"])
def test_a_view_depends_on_seed_epoch_and_id_alone(kind):
    canvas, sizes = batch(3, (40, 40), (40, 40), (64, 48))
    config = ViewConfig(kind=kind, views=3)
    whole = draw_views(canvas, sizes, config, drawn([5, 6, 7]), (24, 24))
    order = torch.tensor([2, 0])
    part = draw_views(canvas[order], sizes[order], config, drawn([7, 5]), (24, 24))
    torch.testing.assert_close(part, whole[order], atol=1e-5, rtol=0)
    assert not torch.allclose(whole, draw_views(canvas, sizes, config, drawn([5, 6, 7], epoch=1), (24, 24)), atol=0.1)
    assert not torch.allclose(whole, draw_views(canvas, sizes, config, drawn([5, 6, 7], seed=1), (24, 24)), atol=0.1)


def test_nothing_switched_on_leaves_the_picture():
    canvas, sizes = batch(1, (28, 28), (28, 28))
    glyph = draw_views(canvas, sizes, ViewConfig(kind="glyph", **QUIET), drawn([0, 1]), (28, 28))
    torch.testing.assert_close(glyph, canvas[:, None].expand(-1, 2, -1, -1, -1), atol=1e-5, rtol=0)


@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.tuples(st.floats(0.05, 0.5), st.floats(0.5, 1.0)),
    st.tuples(st.integers(4, 64), st.integers(4, 64)),
)
@settings(deadline=None)
def test_boxes_lie_inside_with_the_proportions_asked_for(size, scale, out_size):
    boxes = random_resized_boxes(torch.tensor([size] * 20), scale, drawn(list(range(20))), 3, out_size).double()
    top, left, height, width = boxes.unbind(-1)
    tolerance = 1e-4 * max(size)
    assert (torch.minimum(top, left) >= -tolerance).all()
    assert (top + height <= size[0] + tolerance).all()
    assert (left + width <= size[1] + tolerance).all()
    ratio = width / height * out_size[0] / out_size[1]
    assert (ratio > 3 / 4 - 1e-3).all()
    assert (ratio < 4 / 3 + 1e-3).all()
    assert (height * width <= scale[1] * size[0] * size[1] * (1 + 1e-4)).all()


def test_boxes_fill_their_range():
    boxes = random_resized_boxes(torch.tensor([[100, 100]] * 2000), (0.3, 1.0), drawn(list(range(2000))), 1, (96, 96))
    area = (boxes[..., 2] * boxes[..., 3] / 1e4).ravel()
    assert 0.3 <= area.min() < 0.31
    assert 0.97 < area.max() <= 1.0
    assert 0.58 < area.mean() < 0.68  # uniform areas (mean .65), less those that do not fit
    corners = boxes[..., :2].ravel()
    assert corners.min() < 0.2
    assert (boxes[..., 0] + boxes[..., 2]).max() > 99.8


@pytest.mark.parametrize(("option", "probability"), [("flip", 0.3), ("grey", 0.4), ("solarise", 0.6), ("jitter", 0.5)])
def test_switches_are_thrown_as_often_as_asked(option, probability):
    canvas, sizes = batch(3, *[(16, 16)] * 500)
    still, changed = (
        draw_views(
            canvas, sizes, ViewConfig(kind="photo", scale=(1.0, 1.0), **options), drawn(list(range(500))), (16, 16)
        )
        for options in (STILL, {**STILL, option: probability})
    )
    share = ((changed - still).abs().amax(dim=(2, 3, 4)) > 1e-6).double().mean()
    assert abs(share - probability) < 0.05


def test_half_of_the_views_are_blurred_in_proportion_to_their_size():
    canvas, sizes = batch(1, *[(112, 112)] * 40)
    still, blurred = (
        draw_views(canvas, sizes, ViewConfig(kind="photo", views=4, **options), drawn(list(range(40))), (112, 112))
        for options in (STILL, {**STILL, "blur": 0.5})
    )
    kept = (blurred.flatten(2).std(dim=2) / still.flatten(2).std(dim=2)).flatten()
    assert kept.max() == 1
    assert 0.45 < (kept > 0.999).double().mean() < 0.7  # half of them, and those with the smallest sigma
    for sigma, bound in ((0.5, 1.0), (1.0, 0.999)):  # at 112 pixels sigma is uniform in 0.05 to 1 pixels
        weakest = gaussian_blur(still.flatten(0, 1), torch.full((160,), sigma)).flatten(1).std(dim=1)
        assert (kept * still.flatten(2).std(dim=2).flatten() < weakest * bound).any() == (sigma < 1)


def test_grey_has_equal_channels_and_solarise_inverts_the_bright():
    canvas, sizes = batch(3, (16, 16))
    for option in ("grey", "solarise"):
        config = ViewConfig(kind="photo", scale=(1.0, 1.0), **{**STILL, option: 1.0})
        views = draw_views(canvas, sizes, config, drawn([0]), (16, 16))
        still = draw_views(canvas, sizes, ViewConfig(kind="photo", scale=(1.0, 1.0), **STILL), drawn([0]), (16, 16))
        if option == "grey":
            torch.testing.assert_close(views[:, :, 0], views[:, :, 2])
            weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
            torch.testing.assert_close(views[:, :, 0], (still * weights).sum(2))
        else:
            torch.testing.assert_close(views, torch.where(still >= 0.5, 1 - still, still))


def test_jitter_one_part_at_a_time():
    images = 0.3 + 0.4 * torch.rand(1, 1, 3, 6, 6)  # far from the ends, so that nothing is cut off
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    luma = (images * weights).sum(2, keepdim=True)

    def jittered(*strength: float) -> torch.Tensor:
        return _jitter(images, torch.tensor(strength, dtype=torch.float32)[None, :, None])

    torch.testing.assert_close(jittered(0, 0, 0, 0), images)
    torch.testing.assert_close(jittered(0.5, 0, 0, 0), images * 1.2)
    torch.testing.assert_close(jittered(0, 0.5, 0, 0), luma.mean() + 1.2 * (images - luma.mean()), atol=1e-5, rtol=0)
    torch.testing.assert_close(jittered(0, 0, -1, 0), luma + 0.8 * (images - luma), atol=1e-3, rtol=0)
    turned = jittered(0, 0, 0, 1)
    torch.testing.assert_close((turned * weights).sum(2, keepdim=True), luma, atol=1e-3, rtol=0)
    assert (turned - images).abs().max() > 0.05


def test_hue_turns_the_same_way_as_hsv():
    for strength in (-1.0, 0.5, 1.0):
        for colour in ((0.6, 0.4, 0.4), (0.4, 0.6, 0.45), (0.45, 0.4, 0.6)):
            image = torch.tensor(colour)[None, None, :, None, None]
            turned = _jitter(image, torch.tensor([0.0, 0.0, 0.0, strength])[None, :, None]).flatten().tolist()
            before, after = colorsys.rgb_to_hsv(*colour)[0], colorsys.rgb_to_hsv(*turned)[0]
            moved = (after - before + 0.5) % 1 - 0.5
            assert abs(moved) == pytest.approx(
                0.1 * abs(strength), abs=0.06
            )  # YIQ angles are only near to those of HSV


def test_blur_against_scipy():
    images = torch.rand(3, 2, 21, 30)
    sigma = torch.tensor([0.5, 1.0, 2.0])
    blurred = gaussian_blur(images, sigma)
    for image, out, width in zip(images.numpy(), blurred.numpy(), sigma.tolist(), strict=True):
        expected = gaussian_filter(image, (0, width, width), truncate=8)
        inside = np.s_[:, 9:-9, 9:-9]  # scipy mirrors at the edge, ours leaves out what is not there
        np.testing.assert_allclose(out[inside], expected[inside], atol=2e-4)
    torch.testing.assert_close(
        gaussian_blur(torch.full((1, 1, 9, 9), 0.3), torch.tensor([2.0])), torch.full((1, 1, 9, 9), 0.3)
    )
    torch.testing.assert_close(gaussian_blur(images, torch.full((3,), 0.01)), images)


def test_glyphs_move_within_their_bounds():
    canvas = torch.zeros(300, 1, 33, 33)
    canvas[:, :, 16, 16] = 1.0
    sizes = torch.tensor([[33, 33]] * 300)
    config = ViewConfig(kind="glyph", views=1, **{**QUIET, "shift": 0.12, "rotation": 180.0})
    views = draw_views(canvas, sizes, config, drawn(list(range(300))), (33, 33))[:, 0, 0]
    total = views.sum(dim=(1, 2))
    place = torch.arange(33.0)
    centre = torch.stack([(views.sum(2) * place).sum(1) / total, (views.sum(1) * place).sum(1) / total], dim=1) - 16
    # The picture is turned about the box's centre, and the shift happens in the turned frame.
    assert centre.norm(dim=1).max() <= 0.12 * 33 * 2**0.5 + 0.7
    assert centre.abs().amax(dim=0).min() > 0.12 * 33 * 0.8


def test_auto_follows_the_pictures():
    assert ViewConfig().resolved(1, (28, 28)).kind == "glyph"
    assert ViewConfig().resolved(1, (96, 96)).kind == "photo"
    assert ViewConfig().resolved(3, (32, 32)).kind == "photo"
    assert ViewConfig(kind="photo").resolved(1, (8, 8)).kind == "photo"
    assert ViewConfig().resolved(3, (224, 448)).local_size == (96, 192)
    assert ViewConfig(local_size=(10, 12)).resolved(3, (224, 448)).local_size == (10, 12)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "photos"}, "photo"), ({"views": 0}, "views"), ({"scale": (0.5, 0.2)}, "scale"),
        ({"flip": 1.5}, "flip"), ({"zoom": (0.0, 1.0)}, "zoom"), ({"local_size": (0, 5)}, "local_size"),
        ({"noise": -1.0}, "noise"),
    ],
)  # fmt: skip
def test_mistakes_are_named(options, named):
    with pytest.raises(UserError, match=named):
        ViewConfig(**options)
