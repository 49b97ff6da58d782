"""Opens graphs (a TU text folder, MUTAG, generated families) and prepares them as parts for an encoder.

The split is by class and depends on the data alone, not on the seed, so that runs with different seeds hold out the same
graphs. What a graph is to an encoder: its node labels, and for each of its parts the copies of nodes in it, the edges
inside it, the random-walk encoding of its nodes (their maximum), and how far it overlaps with the other parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from jepakit.errors import UserError
from jepakit.modalities.graphs.collection import Graph, GraphCollection, GraphDataConfig
from jepakit.modalities.graphs.files import mutag_folder, read_folder
from jepakit.modalities.graphs.motifs import motif_graphs
from jepakit.modalities.modality import Companion
from jepakit.modalities.splits import held_out, limited


class GraphDataset(Dataset[dict[str, Any]]):
    """Some of the graphs of a collection: `{"graph", "id", "label"?}`; `id` is the place in the whole collection."""

    paths: list[str] | None = None

    def __init__(self, graphs: list[Graph], ids: NDArray[np.int64], labels: NDArray | None = None):
        self.graphs, self.ids, self.labels = graphs, ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        sample: dict[str, Any] = {"graph": self.graphs[number], "id": number}
        if self.labels is not None:
            sample["label"] = self.labels[index]
        return sample

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> GraphDataset:
        """The graphs at these positions of this data set."""
        chosen = np.asarray(indices, dtype=np.int64)
        return GraphDataset(self.graphs, self.ids[chosen], None if self.labels is None else self.labels[chosen])


@dataclass
class GraphData:
    """Graphs, split: `test` is held out and never trained on."""

    train: GraphDataset
    test: GraphDataset
    config: GraphDataConfig
    name: str
    kind: str
    """"TU text", "generated" or "object"."""
    classes: list[str] | None
    task: Literal["classification", "regression"] | None
    fingerprint: str
    """Changes with the graphs, their labels or the split: a resumed run checks that it is the same data."""
    notes: list[str] = field(default_factory=list)
    noun: str = "graphs"
    companions: dict[str, Companion] = field(default_factory=dict)


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

    def part(chosen: NDArray[np.int64]) -> GraphDataset:
        return GraphDataset(collection.graphs, chosen, None if collection.labels is None else collection.labels[chosen])

    return GraphData(
        train=part(train_ids),
        test=part(ids[test]),
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
    digest = hashlib.sha256(f"{collection.kind} {len(collection.graphs)}".encode())
    arrays = [train, test] + ([] if collection.labels is None else [collection.labels])
    for graph in collection.graphs:
        arrays += [graph.labels, graph.edges, graph.edge_labels, graph.attributes]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
