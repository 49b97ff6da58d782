import importlib.util
import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.modalities.graphs.collection import Graph
from jepakit.modalities.graphs.parts import cut_graph, kept_edges, partition, walks

HAS_METIS = importlib.util.find_spec("pymetis") is not None
METHODS = ["greedy", pytest.param("metis", marks=pytest.mark.skipif(not HAS_METIS, reason="the graphs extra is not installed"))]


def of_networkx(graph):
    return Graph.of(len(graph), list(graph.edges))


@st.composite
def graphs(draw):
    nodes = draw(st.integers(1, 14))
    pairs = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)).filter(lambda pair: pair[0] != pair[1])
    return nodes, draw(st.lists(pairs, max_size=25)) if nodes > 1 else []


def test_walks_are_return_probabilities():
    """The diagonal of the powers of D^-1 A, by plain products."""
    graph = of_networkx(nx.lollipop_graph(4, 3))
    adjacency = nx.to_numpy_array(nx.lollipop_graph(4, 3))
    step = adjacency / adjacency.sum(1, keepdims=True)
    expected = np.stack([np.diag(np.linalg.matrix_power(step, k)) for k in range(1, 8)], axis=1)
    np.testing.assert_allclose(walks(graph, 7), expected, atol=1e-12)
    np.testing.assert_allclose(walks(of_networkx(nx.complete_graph(2)), 4), [[0, 1, 0, 1]] * 2, atol=1e-12)
    np.testing.assert_array_equal(walks(Graph.of(2, []), 3), np.zeros((2, 3)))


@given(graphs(), st.integers(2, 6), st.integers(0, 3))
def test_a_cut_is_what_it_says(drawn, parts, seed):
    """Against the definition: parts cover the nodes, each is its core and the core's neighbours, edges are the induced."""
    graph = Graph.of(*drawn)
    core = partition(len(graph), graph.edges, parts, "greedy", np.random.default_rng(seed))
    cut = cut_graph(graph, parts, "greedy", np.random.default_rng(seed))
    network = nx.Graph(graph.edges.T.tolist())
    network.add_nodes_from(range(len(graph)))
    cores = [set(np.flatnonzero(core == part).tolist()) for part in np.unique(core)]
    assert 1 <= len(cut) == len(cores) <= min(parts, len(graph))
    for part, own in enumerate(cores):
        grown = own.union(*(network.neighbors(node) for node in own))
        here = np.flatnonzero(cut.copy_parts == part)
        assert set(cut.copy_nodes[here].tolist()) == grown
        assert len(here) == len(grown)
        inside = [place for place in range(len(cut.links)) if cut.copy_parts[cut.edges[0, place]] == part]
        assert all(cut.copy_parts[cut.edges[1, place]] == part for place in inside)
        found = sorted(tuple(cut.copy_nodes[cut.edges[:, place]].tolist()) for place in inside)
        assert found == sorted(edge for a, b in network.subgraph(grown).edges for edge in ((a, b), (b, a)))
        for place in inside:
            assert cut.copy_nodes[cut.edges[:, place]].tolist() == graph.edges[:, cut.links[place]].tolist()
        for other, theirs in enumerate(cores):
            them = theirs.union(*(network.neighbors(node) for node in theirs))
            expected = len(grown & them) / np.sqrt(len(grown) * len(them))
            assert cut.overlap[part, other] == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS)
def test_parts_are_of_one_piece_and_alike_in_size(method):
    for seed in range(5):
        network = nx.random_regular_graph(3, 40, seed=seed)
        graph = of_networkx(network)
        core = partition(40, graph.edges, 8, method, np.random.default_rng(seed))
        sizes = np.bincount(core, minlength=8)
        assert sizes.min() >= 2
        assert sizes.max() <= 9
        if method == "greedy":
            for part in range(8):
                assert nx.is_connected(network.subgraph(np.flatnonzero(core == part).tolist()))


@pytest.mark.parametrize("method", METHODS)
def test_the_cut_is_the_same_without_chance_and_another_with_another_draw(method):
    graph = of_networkx(nx.convert_node_labels_to_integers(nx.grid_2d_graph(5, 6)))
    same = [cut_graph(graph, 6, method) for _ in range(2)]
    assert np.array_equal(same[0].copy_nodes, same[1].copy_nodes)
    drawn = [cut_graph(graph, 6, method, np.random.default_rng(seed), drop=0.3) for seed in (1, 1, 2, 3)]
    assert np.array_equal(drawn[0].copy_nodes, drawn[1].copy_nodes)
    assert len({cut.copy_nodes.tobytes() + cut.copy_parts.tobytes() for cut in drawn}) == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("nodes", "edges", "expected"),
    [(1, [], 1), (3, [(0, 1)], 3), (12, [], 4), (12, [(0, 1), (1, 2), (10, 11)], 4), (1, [(0, 0)], 1)],
)
def test_small_and_scattered_graphs(method, nodes, edges, expected):
    graph = Graph.of(nodes, edges)
    cut = cut_graph(graph, 4, method)
    assert len(cut) <= expected
    assert len(cut) == expected or method == "metis"  # which may leave a part empty
    assert set(cut.copy_nodes.tolist()) == set(range(nodes))
    assert np.isfinite(cut.overlap).all()
    np.testing.assert_allclose(np.diag(cut.overlap), 1)


def test_dropped_edges_go_in_both_directions_and_only_for_the_partition():
    graph = of_networkx(nx.random_regular_graph(3, 200, seed=0))
    kept = kept_edges(graph, 0.3, np.random.default_rng(0))
    pairs = set(map(tuple, kept.T.tolist()))
    assert all((b, a) in pairs for a, b in pairs)
    assert 0.6 < len(pairs) / 600 < 0.8
    # With every edge dropped the parts are arbitrary, but grown and linked by all edges of the graph.
    cut = cut_graph(graph, 200, "greedy", np.random.default_rng(0), drop=1.0)
    assert np.bincount(cut.copy_parts).tolist() == [4] * 200


def test_metis_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(UserError, match=r"jepakit\[graphs\]"):
        partition(10, np.zeros((2, 0), dtype=np.int64), 2, "metis", np.random.default_rng(0))
