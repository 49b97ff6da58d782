"""Opens graphs (a TU text folder, MUTAG, generated families) and prepares them as parts for an encoder.

The split is by class and depends on the data alone, not on the seed, so that runs with different seeds hold out the same
graphs. What a graph is to an encoder: its node labels, and for each of its parts the copies of nodes in it, the edges
inside it, the random-walk encoding of its nodes (their maximum), and how far it overlaps with the other parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.data import SampleDataset, SplitData, fingerprint_of
from jepakit.modalities.graphs.collection import Graph, GraphCollection, GraphDataConfig
from jepakit.modalities.graphs.files import mutag_folder, read_folder
from jepakit.modalities.graphs.motifs import motif_graphs
from jepakit.modalities.splits import held_out, limited


class GraphDataset(SampleDataset):
    """Some of the graphs of a collection: `{"graph", "id", "label"?}`."""

    def __init__(self, graphs: list[Graph], ids: NDArray[np.int64], labels: NDArray | None = None):
        super().__init__(ids, labels)
        self.graphs = graphs

    def read(self, number: int) -> dict[str, Any]:
        """Return the graph."""
        return {"graph": self.graphs[number]}


@dataclass(kw_only=True)
class GraphData(SplitData):
    """Graphs, split; `kind` is "TU text", "generated" or "object"."""

    noun: str = "graphs"


def open_graphs(config: GraphDataConfig, seed: int, source: object | None = None) -> GraphData:
    """Read, check and split the graphs of `config.data`.

    Args:
        seed: draws the `limit` training graphs; not the split.
        source: a `GraphCollection` to use instead of `config.data`.

    Errors: nothing there, files that do not fit together, no graph that has two parts; with the remedy.
    """
    collection = _read(config, source)
    if not collection.graphs or max(map(len, collection.graphs)) < 2:
        raise UserError(f"{collection.name}: no graph has two nodes, so there is no part to predict from another.")
    classes = collection.labels if collection.task == "classification" else None
    test = held_out(len(collection.graphs), config.test_fraction, classes=classes)
    ids = np.arange(len(collection.graphs))
    train_ids = limited(ids[~test], config.limit, seed)

    everything = GraphDataset(collection.graphs, ids, collection.labels)
    return GraphData(
        train=everything.subset(train_ids),
        test=everything.subset(ids[test]),
        config=config,
        name=collection.name,
        kind=collection.kind,
        classes=collection.classes,
        task=collection.task,
        fingerprint=_fingerprint(collection, train_ids, test),
        notes=collection.notes,
    )


def _read(config: GraphDataConfig, source: object | None) -> GraphCollection:
    if source is not None:
        if not isinstance(source, GraphCollection):
            raise UserError(f"graphs given in Python must be a GraphCollection, got {type(source).__name__}.")
        return source
    if config.data == "motifs":
        return motif_graphs()
    if config.data == "mutag":
        return replace(read_folder(mutag_folder()), name="mutag")
    return read_folder(Path(config.data).expanduser())


def _fingerprint(collection: GraphCollection, train: NDArray[np.int64], test: NDArray[np.bool_]) -> str:
    arrays = [
        array for graph in collection.graphs for array in (graph.labels, graph.edges, graph.edge_labels, graph.attributes)
    ]
    return fingerprint_of(f"{collection.kind} {len(collection.graphs)}", train, test, collection.labels, *arrays)
