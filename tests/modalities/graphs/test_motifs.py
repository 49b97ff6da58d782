import networkx as nx
import numpy as np

from jepakit.modalities.graphs.motifs import COPIES, MOTIFS, TREE_NODES, motif_graph, motif_graphs


def as_networkx(graph):
    out = nx.Graph(graph.edges.T.tolist())
    out.add_nodes_from(range(len(graph)))
    return out


def test_motifs_differ_in_how_they_close_and_in_nothing_simpler():
    drawn = [nx.Graph(edges) for edges in MOTIFS.values()]
    assert {tuple(sorted(dict(g.degree).values())) for g in drawn} == {(2, 2, 2, 2, 3, 3)}
    for i, first in enumerate(drawn):
        for second in drawn[i + 1 :]:
            assert not nx.is_isomorphic(first, second)


def test_each_graph_holds_its_motif_and_no_other():
    """Away from the motifs the graph is a tree, so its cycles are the motifs' and tell the class."""
    cycles = {"two squares": [4, 4], "triangle and pentagon": [3, 5], "two triangles": [3, 3]}
    for name, lengths in cycles.items():
        for index in range(5):
            graph = as_networkx(motif_graph(name, 0, index))
            assert nx.is_connected(graph)
            assert TREE_NODES[0] + 6 * COPIES <= len(graph) <= TREE_NODES[1] + 6 * COPIES
            assert sorted(map(len, nx.minimum_cycle_basis(graph))) == sorted(lengths * COPIES)


def test_a_graph_is_a_function_of_seed_and_number():
    few, many = motif_graphs(6), motif_graphs(12)
    for first, second in zip(few.graphs, many.graphs, strict=False):
        assert np.array_equal(first.edges, second.edges)
        assert np.array_equal(first.labels, second.labels)
    other = motif_graphs(6, seed=1)
    assert not all(np.array_equal(a.edges, b.edges) for a, b in zip(few.graphs, other.graphs, strict=True))
    assert many.labels.tolist() == [0, 1, 2] * 4
