from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from jepakit.modalities.images.crops import center_view, crop_resize, nearest_view


def canvas_of(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded with 9, which no result may show."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    canvas = torch.full((len(images), images[0].shape[0], *sizes.amax(0).tolist()), 9.0)
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return canvas, sizes


def pictures(*sizes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return canvas_of([torch.rand(3, *size, generator=generator) for size in sizes])


@given(
    st.tuples(st.floats(-3, 8), st.floats(-3, 8), st.floats(4, 12), st.floats(4, 12, exclude_max=True)),
    st.floats(-math.pi, math.pi),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_against_scipy(box, angle, mirrored):
    canvas, sizes = pictures((13, 17))
    out = crop_resize(canvas, sizes, torch.tensor([box]), (8, 6), torch.tensor([angle]), torch.tensor([mirrored]))
    top, left, height, width = box
    down, right = np.meshgrid(
        ((np.arange(8) + 0.5) / 8 - 0.5) * height, ((np.arange(6) + 0.5) / 6 - 0.5) * width, indexing="ij"
    )
    right = -right if mirrored else right
    y = top + height / 2 + math.cos(angle) * down + math.sin(angle) * right - 0.5
    x = left + width / 2 - math.sin(angle) * down + math.cos(angle) * right - 0.5
    for channel in range(3):
        expected = map_coordinates(canvas[0, channel].numpy(), [y, x], order=1, mode="nearest")
        np.testing.assert_allclose(out[0, channel], expected, atol=2e-5)


def test_whole_picture_at_its_size_is_itself_and_padding_never_shows():
    canvas, sizes = pictures((9, 12), (12, 7))
    for index, (height, width) in enumerate(sizes.tolist()):
        box = torch.tensor([[0.0, 0.0, height, width]] * 2)
        out = crop_resize(canvas, sizes, box, (height, width))
        torch.testing.assert_close(out[index], canvas[index, :, :height, :width], atol=1e-5, rtol=0)
        assert out.max() <= 1
        flipped = crop_resize(canvas, sizes, box, (height, width), flip=torch.tensor([True, True]))
        torch.testing.assert_close(flipped[index], canvas[index, :, :height, :width].flip(-1), atol=1e-5, rtol=0)


def test_a_positive_angle_turns_counter_clockwise():
    image = torch.rand(1, 8, 8)
    out = crop_resize(*canvas_of([image]), torch.tensor([[0.0, 0, 8, 8]]), (8, 8), angle=torch.tensor([math.pi / 2]))
    torch.testing.assert_close(out[0], torch.rot90(image, 1, (1, 2)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_large_crop_is_averaged_first(factor):
    canvas, sizes = pictures((16, 24), (14, 21))
    boxes = torch.tensor([[0.0, 0, 16, 24], [0.0, 0, 8, 16]])
    out = crop_resize(canvas, sizes, boxes, (16 // factor, 24 // factor))
    blocks = torch.nn.functional.avg_pool2d(canvas[:1, :, :16, :24], factor)
    torch.testing.assert_close(out[:1], blocks, atol=1e-5, rtol=0)
    assert out.max() <= 1  # 14 x 21 is no multiple of the block: its padding of 9 must not leak in


def test_averaged_edges_count_only_real_pixels():
    canvas, sizes = canvas_of([torch.full((1, 7, 5), 0.25), torch.full((1, 8, 8), 0.25)])
    out = crop_resize(canvas, sizes, torch.tensor([[0.0, 0, 7, 5], [0, 0, 8, 8]]), (2, 2))
    torch.testing.assert_close(out, torch.full_like(out, 0.25))


def test_several_views_equal_one_at_a_time_and_neighbours_do_not_matter():
    canvas, sizes = pictures((20, 16), (12, 30))
    boxes = torch.tensor([[[0.0, 0, 20, 16], [3, 2, 5, 5]], [[2.0, 5, 6, 6], [0, 0, 12, 30]]])
    angle = torch.tensor([[0.1, 0.0], [0.0, -0.3]])
    for outside in ("edge", "background"):
        together = crop_resize(canvas, sizes, boxes, (5, 4), angle, outside=outside)
        for index in range(2):
            for view in range(2):
                h, w = sizes[index].tolist()
                alone = crop_resize(
                    canvas[index : index + 1, :, :h, :w], sizes[index : index + 1], boxes[index, view][None], (5, 4),
                    angle[index, view][None], outside=outside,
                )  # fmt: skip
                torch.testing.assert_close(together[index, view], alone[0], atol=1e-5, rtol=0)


def test_background_is_what_lies_outside():
    image = torch.full((1, 8, 8), 0.7)
    image[:, 3:5, 3:5] = 0.1
    canvas, sizes = canvas_of([image, torch.zeros(1, 12, 12)])
    boxes = torch.tensor([[-20.0, -20, 8, 8], [0, 0, 12, 12]])
    out = crop_resize(canvas, sizes, boxes, (8, 8), outside="background")
    torch.testing.assert_close(out[0], torch.full((1, 8, 8), 0.7))
    shifted = crop_resize(canvas, sizes, torch.tensor([[2.0, 0, 8, 8], [0, 0, 12, 12]]), (8, 8), outside="background")
    torch.testing.assert_close(shifted[0, :, :6], image[:, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted[0, :, 6:], torch.full((1, 2, 8), 0.7))


def test_center_view():
    canvas, sizes = pictures((12, 20), (30, 12))
    out = center_view(canvas, sizes, (12, 12))
    torch.testing.assert_close(out[0], canvas[0, :, :12, 4:16], atol=1e-5, rtol=0)
    torch.testing.assert_close(out[1], canvas[1, :, 9:21, :12], atol=1e-5, rtol=0)
    canvas, sizes = pictures((12, 20), (12, 20))
    assert torch.equal(center_view(canvas, sizes, (12, 20)), canvas)
    wide = center_view(canvas, sizes, (5, 20))
    torch.testing.assert_close(wide, (canvas[:, :, 3:8] + canvas[:, :, 4:9]) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (6, 12), (16, 16), (12, 20), (3, 5)])
def test_label_maps_get_the_crop_of_their_picture(size):
    """Of a picture that is a slope down and right, the nearest labels and the view differ by less than a pixel's step."""
    slopes = np.stack(np.meshgrid(np.arange(12.0), np.arange(20.0), indexing="ij"))
    view = center_view(torch.from_numpy(slopes)[None].float(), torch.tensor([[12, 20]]), size)[0].numpy()
    found = nearest_view(slopes, size)
    assert found.shape == (2, *size)
    assert np.abs(found - view).max() <= 0.51
    assert set(np.unique(nearest_view(slopes.astype(np.uint8), size))) <= set(range(20))
    if size == (12, 20):
        np.testing.assert_array_equal(found, slopes)
