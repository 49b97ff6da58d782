import pickle

import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.modalities.graphs.collection import Graph, GraphCollection, GraphDataConfig
from jepakit.modalities.graphs.data import open_graphs
from jepakit.modalities.graphs.inputs import GraphInputs
from jepakit.modalities.graphs.parts import walks


def collection(count=20, **changes):
    graphs = [Graph.of(3 + i % 4, [(0, 1), (1, 2)], labels=[i % 2, 4, 4, *[9] * (i % 4)]) for i in range(count)]
    parts = {"graphs": graphs, "labels": np.arange(count) % 2, "classes": ["a", "b"], "task": "classification", **changes}
    return GraphCollection(name="toy", kind="object", **parts)


def opened(seed=0, source=None, **options):
    return open_graphs(GraphDataConfig(data="object", **options), seed, source=source or collection())


def test_the_split_is_by_class_and_not_by_seed():
    first, second = opened(0), opened(1)
    assert np.bincount(first.test.labels).tolist() == [2, 2]
    assert first.test.ids.tolist() == second.test.ids.tolist()
    assert sorted([*first.train.ids, *first.test.ids]) == list(range(20))
    assert first.train[3]["label"] == first.train[3]["id"] % 2
    assert first.train.subset([5, 2])[1]["id"] == first.train.ids[2]
    assert len(opened(test_fraction=0).test) == 0
    few, others = opened(0, limit=4), opened(1, limit=4)
    assert len(few.train) == 4
    assert few.train.ids.tolist() != others.train.ids.tolist()
    assert len(few.test) == 4
    unlabelled = opened(source=collection(labels=None, classes=None, task=None))
    assert unlabelled.task is None
    assert "label" not in unlabelled.train[0]


def test_data_sets_pickle_and_the_fingerprint_changes_with_the_data():
    data = opened()
    again = pickle.loads(pickle.dumps(data.train))
    assert np.array_equal(again[2]["graph"].edges, data.train[2]["graph"].edges)
    assert data.fingerprint == opened().fingerprint
    other = collection()
    other.graphs[3].labels[0] += 1
    assert opened(source=other).fingerprint != data.fingerprint
    assert opened(limit=5).fingerprint != data.fingerprint


def test_the_built_in_families_open():
    data = open_graphs(GraphDataConfig(data="motifs"), 0)
    assert (len(data.train), len(data.test), data.noun) == (480, 120, "graphs")
    assert data.classes == ["two squares", "triangle and pentagon", "two triangles"]


def test_a_batch_is_the_graphs_one_above_the_other():
    """What is prepared for a graph does not depend on the others, beyond the zeros behind it."""
    data = opened(parts=4, walk=5)
    inputs = GraphInputs.of(data)
    samples = [data.train[i] for i in range(6)]
    together = inputs.prepare(samples)
    assert together["walks"].shape == (6, 4, 5)
    assert together["overlap"].shape == (6, 4, 4)
    for row, sample in enumerate(samples):
        alone = inputs.prepare([sample])
        for name, tensor in alone.items():
            inside = together[name][row][tuple(map(slice, tensor[0].shape))]
            assert torch.equal(inside, tensor[0]), name
            assert together[name][row].sum() == pytest.approx(float(tensor[0].sum())), name
    assert [len(graph["graph"]) for graph in samples] == [int(n) for n in _nodes(together)]


def _nodes(batch):
    return [len(set(row[:count].tolist())) for row, count in zip(batch["copy_nodes"], batch["copies"], strict=True)]


def test_a_parts_walks_are_the_maximum_over_its_nodes():
    """In a triangle a walk is back after 2 steps with 1/2 and after 3 with 1/4; at the end of its tail later."""
    graph = Graph.of(5, [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4)])
    data = opened(parts=3, walk=6, source=collection(graphs=[graph] * 20))
    inputs = GraphInputs.of(data)
    cut, table = inputs.cut(graph), walks(graph, 6)
    batch = inputs.prepare([data.train[0]])
    for part in range(3):
        expected = table[cut.copy_nodes[cut.copy_parts == part]].max(axis=0)
        np.testing.assert_allclose(batch["walks"][0, part], expected, atol=1e-6)
    assert table[0, 2] == pytest.approx(2 * 1 / 2 * 1 / 2 * 1 / 3)  # both ways round: 0, 1, 2, 0 and 0, 2, 1, 0
    assert len({tuple(row) for row in batch["walks"][0].tolist()}) > 1


def test_labels_have_places_and_strangers_one_of_their_own():
    data = opened()
    inputs = GraphInputs.of(data)
    assert inputs.node_labels == (0, 1, 4, 9)
    stranger = {"graph": Graph.of(3, [(0, 1)], labels=[4, 7, 100]), "id": 0}
    assert inputs.prepare([stranger])["nodes"].tolist() == [[2, 4, 4]]
    assert inputs.plain([stranger])[0, :5].tolist() == [0, 0, 1, 0, 2]


def test_plain_features_are_counts_of_labels_and_degrees():
    data = opened()
    features = GraphInputs.of(data).plain([{"graph": Graph.of(12, [(0, i) for i in range(1, 12)], labels=[1] + [4] * 11)}])
    assert features.tolist() == [[0, 1, 11, 0, 0, *[0, 11, 0, 0, 0, 0, 0, 0, 0, 1]]]


def test_attributes_are_standardised_and_must_fit():
    rng = np.random.default_rng(0)
    graphs = [Graph.of(3, [(0, 1)], labels=[0, 0, 0], attributes=rng.normal(5, 3, (3, 2))) for _ in range(20)]
    data = opened(source=collection(graphs=graphs), test_fraction=0)
    inputs = GraphInputs.of(data)
    attributes = inputs.prepare([data.train[i] for i in range(20)])["attributes"].flatten(0, 1)
    torch.testing.assert_close(attributes.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(attributes.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="2 attributes, these have 0"):
        inputs.prepare([{"graph": Graph.of(2, [(0, 1)]), "id": 0}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 1}, "parts must be at least 2"),
        ({"walk": 0}, "walk must be at least 1"),
        ({"partition": "metiss"}, "Did you mean 'metis'"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"source": collection(graphs=[Graph.of(1, [])] * 20)}, "no graph has two nodes"),
        ({"source": [1, 2]}, "must be a GraphCollection"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        opened(**options)
