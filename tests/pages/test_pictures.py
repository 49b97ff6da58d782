"""Pictures decode to what was put in; mask drawings cover the cells they are told."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jepakit.pages.pictures import area, data_uri, mask_picture, outline, picture


def decode(uri):
    kind, content = re.fullmatch(r"data:image/(\w+);base64,(.+)", uri).groups()
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_exact(channels):
    levels = np.random.default_rng(0).integers(0, 256, size=(channels, 8, 5))
    kind, image = decode(data_uri(levels / 255))
    back = np.asarray(image).reshape(8, 5, channels).transpose(2, 0, 1)
    assert kind == "png"
    np.testing.assert_array_equal(back, levels)


def test_large_pictures_shrink_and_keep_their_proportions():
    kind, image = decode(data_uri(np.random.default_rng(0).random((3, 480, 640))))
    assert (kind, image.size) == ("jpeg", (128, 96))


def test_values_outside_the_range_are_clipped():
    _, image = decode(data_uri(np.asarray([[[-1.0, 2.0, np.nan]]])))
    assert np.asarray(image).ravel().tolist() == [0, 255, 0]


def test_small_pictures_keep_their_pixels_when_enlarged():
    assert picture(np.zeros((1, 8, 8)), "a").get("class") == "pixels"
    assert picture(np.zeros((1, 100, 100)), "a").get("class") is None
    assert picture(np.zeros((1, 8, 8)), 'a "name"').get("alt") == 'a "name"'


def test_outline_of_a_block_is_its_border():
    assert outline([0, 1, 3, 4], (3, 3)).count("M") == 8  # a 2 x 2 block has 8 unit edges
    assert outline(range(9), (3, 3)).count("M") == 12
    assert outline([], (3, 3)) == ""


@given(st.sets(st.integers(0, 34)))
def test_outline_separates_inside_from_outside(ids):
    grid = (5, 7)
    edges = set(re.findall(r"M(\d+) (\d+)([hv])1", outline(ids, grid)))
    for row in range(5):
        for column in range(8):
            left = column > 0 and row * 7 + column - 1 in ids
            right = column < 7 and row * 7 + column in ids
            assert ((str(column), str(row), "v") in edges) == (left != right)
    assert area(ids, grid).count("z") == len(ids)


def test_mask_picture_veils_what_the_context_did_not_see():
    panels = mask_picture(np.zeros((1, 8, 8)), [0, 5], [[1, 2], [2, 3, 6]], (4, 4), "seven")
    assert len(panels) == 3
    (veil,) = [node for node in panels[1].iter() if node.get("class") == "veil"]
    assert veil.get("d") == area(set(range(16)) - {0, 5}, (4, 4))
    blocks = [node.get("d") for node in panels[2].iter() if (node.get("class") or "").startswith("block")]
    assert blocks == [area([1, 2], (4, 4)), area([2, 3, 6], (4, 4))]
    assert all(panel.get("aria-label").startswith("seven") for panel in panels)
