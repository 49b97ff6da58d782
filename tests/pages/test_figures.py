"""The computations behind the pictures, against closed forms and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from jepakit.errors import UserError
from jepakit.pages.figures import embedding_map, flow_colours, gallery, nearest_neighbours, token_colours


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_token_colours_are_the_first_three_components():
    tokens = random(4, 6, 8) * np.asarray([9, 6, 3, 1, 1, 1, 1, 1])
    found = token_colours(tokens, (2, 3))
    reference = PCA(3).fit(tokens.reshape(-1, 8))
    scores = reference.transform(tokens.reshape(-1, 8))
    assert found.colours.shape == (4, 2, 3, 3)
    assert found.explained == pytest.approx(reference.explained_variance_ratio_.sum())
    for channel in range(3):
        drawn = found.colours[..., channel].ravel()
        inside = (drawn > 0) & (drawn < 1)
        assert abs(np.corrcoef(drawn[inside], scores[inside, channel])[0, 1]) == pytest.approx(1)


def test_token_colours_do_not_depend_on_the_sign_of_components():
    tokens = random(3, 4, 5)
    first = token_colours(tokens, (2, 2)).colours
    np.testing.assert_allclose(token_colours(tokens[::-1], (2, 2)).colours[::-1], first, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 2])
def test_fewer_than_three_dimensions_leave_grey_channels(dim):
    colours = token_colours(random(2, 4, dim), (2, 2)).colours
    assert np.ptp(colours[..., 0]) == 1
    assert (colours[..., dim:] == 0.5).all()


def test_tokens_without_anything_to_colour():
    assert token_colours(np.ones((2, 4, 3)) + 1e-9 * random(2, 4, 3), (2, 2)) is None
    assert token_colours(np.full((2, 4, 3), np.nan), (2, 2)) is None


def test_neighbours_agree_with_scikit_learn():
    embeddings, queries = random(60, 5), np.asarray([3, 0, 59])
    found = nearest_neighbours(embeddings, queries, 7)
    reference = NearestNeighbors(n_neighbors=8, metric="cosine").fit(embeddings).kneighbors(embeddings[queries])[1]
    np.testing.assert_array_equal(found, reference)


def test_a_query_is_not_its_own_neighbour_even_among_duplicates():
    found = nearest_neighbours(np.ones((4, 3)), np.asarray([2]), 3)
    assert found.tolist() == [[2, 0, 1, 3]]


def test_too_many_neighbours_are_refused():
    with pytest.raises(UserError, match="got 4"):
        nearest_neighbours(random(4, 2), np.asarray([0]), 4)


def test_gallery_lists_queries_first_and_renumbers():
    neighbours = np.asarray([[7, 3, 9], [3, 7, 5]])
    ids, renumbered = gallery(neighbours)
    assert ids[:2].tolist() == [7, 3]
    assert len(set(ids.tolist())) == len(ids) == 4
    np.testing.assert_array_equal(ids[renumbered], neighbours)


def test_the_map_keeps_digits_apart():
    digits = load_digits()
    found = embedding_map(digits.data, limit=300)
    assert found.method == "t-SNE"
    assert found.points.shape == (300, 2)
    labels = digits.target[found.ids]
    nearest = NearestNeighbors(n_neighbors=2).fit(found.points).kneighbors(found.points)[1][:, 1]
    assert (labels[nearest] == labels).mean() > 0.8
    assert found.points[:, 0].std() > found.points[:, 1].std()


def test_a_small_map_is_pca():
    embeddings = random(20, 6)
    found = embedding_map(embeddings)
    assert found.method == "PCA"
    np.testing.assert_allclose(np.abs(found.points), np.abs(PCA(2).fit_transform(embeddings)), atol=1e-9)


def test_one_dimension_maps_to_a_line():
    assert (embedding_map(random(10, 1)).points[:, 1] == 0).all()


def test_bad_rows_are_left_out_and_collapse_has_no_map():
    embeddings = random(10, 3)
    embeddings[4] = np.nan
    assert 4 not in embedding_map(embeddings).ids
    assert embedding_map(np.ones((100, 8))) is None
    assert embedding_map(embeddings[3:6]) is None


def test_motion_in_colours():
    """Still is white, right is red, left its opposite; twice as fast as `most` is no more than full colour."""
    flow = np.zeros((2, 1, 4))
    flow[0, 0] = [0, 3, -3, 6]
    colours = flow_colours(flow, most=3)[0]
    np.testing.assert_allclose(colours, [[1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 0, 0]], atol=1e-6)
    down = flow_colours(np.array([[[0.0]], [[3.0]]]), most=3)[0, 0]
    np.testing.assert_allclose(down, [0.5, 1, 0], atol=1e-6)
