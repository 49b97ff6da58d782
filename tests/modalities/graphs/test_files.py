import sys

import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.modalities.graphs.collection import Graph
from jepakit.modalities.graphs.files import mutag_folder, read_folder

# Two graphs whose nodes are interleaved in the files: a triangle with a tail, and an edge.
FILES = {
    "A": "1, 3\n3, 1\n3,4\n1,4\n4,6\n2,5\n",
    "graph_indicator": "1\n2\n1\n1\n2\n1\n",
    "graph_labels": "-1\n1\n",
    "node_labels": "5\n6\n7\n7\n6\n8\n",
    "edge_labels": "0\n0\n1\n1\n2\n3\n",
}


def write(folder, **changes):
    for what, text in {**FILES, **changes}.items():
        if text is not None:
            (folder / f"TOY_{what}.txt").write_text(text)
    return folder


def test_nodes_and_edges_come_to_their_graphs(tmp_path):
    found = read_folder(write(tmp_path))
    assert (found.name, found.task, found.classes) == ("TOY", "classification", ["-1", "1"])
    assert found.labels.tolist() == [0, 1]
    first, second = found.graphs
    assert first.labels.tolist() == [5, 7, 7, 8]  # nodes 1, 3, 4, 6
    assert first.edges.T.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1], [2, 3], [3, 2]]
    assert first.edge_labels.tolist() == [0, 1, 0, 1, 1, 1, 2, 2]
    assert second.labels.tolist() == [6, 6]
    assert second.edges.T.tolist() == [[0, 1], [1, 0]]  # the file has one direction only
    assert second.edge_labels.tolist() == [3, 3]
    assert first.degrees.tolist() == [2, 2, 3, 1]


def test_what_is_missing_has_a_stand_in(tmp_path):
    bare = read_folder(write(tmp_path, node_labels=None, edge_labels=None, graph_labels=None))
    assert (bare.labels, bare.task) == (None, None)
    assert bare.graphs[0].labels.tolist() == [2, 2, 3, 1]  # degrees
    assert bare.graphs[0].edge_labels.tolist() == [0] * 8
    assert "degree" in bare.notes[0]


def test_attributes_and_numbers_to_predict(tmp_path):
    write(tmp_path, graph_labels=None, node_labels=None)
    (tmp_path / "TOY_node_attributes.txt").write_text("".join(f"{i}, {-i}.5\n" for i in range(6)))
    (tmp_path / "TOY_graph_attributes.txt").write_text("0.25\n-1e3\n")
    found = read_folder(tmp_path)
    assert found.task == "regression"
    assert found.labels.tolist() == [0.25, -1000.0]
    assert found.graphs[1].attributes.tolist() == [[1, -1.5], [4, -4.5]]
    assert found.graphs[1].labels.tolist() == [0, 0]


def test_a_collection_without_edges(tmp_path):
    found = read_folder(write(tmp_path, A="", edge_labels=""))
    assert [graph.edges.shape for graph in found.graphs] == [(2, 0), (2, 0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": None}, "one file NAME_A.txt"),
        ({"graph_indicator": None}, "TOY_graph_indicator.txt is missing"),
        ({"A": "1, x\n"}, "TOY_A.txt cannot be read"),
        ({"A": "1, 2, 3\n"}, "2 numbers a line"),
        ({"A": "1, 7\n"}, "numbered from 1 to 6"),
        ({"A": "1, 2\n"}, "joins nodes of two graphs"),
        ({"node_labels": "1\n"}, "must have 6 lines, it has 1"),
        ({"graph_labels": "0\n1\n0\n"}, "graph 3 has no nodes"),
        ({"graph_labels": "0\n"}, "1 graphs have labels, but 2 graphs"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_folder(write(tmp_path, **changes))
    with pytest.raises(UserError, match="no folder"):
        read_folder(tmp_path / "absent")


def test_repeated_edges_count_once():
    graph = Graph.of(3, [(0, 1), (1, 0), (0, 1), (2, 2)], edge_labels=[4, 5, 6, 7])
    assert graph.edges.T.tolist() == [[0, 1], [1, 0], [2, 2]]
    assert graph.edge_labels.tolist() == [4, 4, 7]
    assert graph.labels.tolist() == [1, 1, 1]


def test_mutag_is_found_without_importing_grakel(monkeypatch):
    """188 molecules, 125 of them mutagenic; 3,371 atoms and 3,721 bonds: the numbers of the collection's own page."""
    for module in [name for name in sys.modules if name.split(".")[0] == "grakel"]:  # another test may have imported it
        monkeypatch.delitem(sys.modules, module)
    try:
        folder = mutag_folder()
    except UserError:
        pytest.skip("the graphs extra is not installed")
    assert "grakel" not in sys.modules
    found = read_folder(folder)
    assert np.bincount(found.labels).tolist() == [63, 125]
    assert sum(map(len, found.graphs)) == 3371
    assert sum(len(graph.edges[0]) for graph in found.graphs) == 2 * 3721


def test_without_grakel_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jepakit\[graphs\]"):
        mutag_folder()
