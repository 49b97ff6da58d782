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
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from jepakit.errors import UserError
from jepakit.modalities.graph_collection import Graph, GraphCollection, GraphDataConfig
from jepakit.modalities.graph_families import motif_graphs
from jepakit.modalities.graph_files import mutag_folder, read_folder
from jepakit.modalities.graph_parts import Cut, cut_graph, walks
from jepakit.modalities.modality import Companion, Inputs, Modality
from jepakit.modalities.splits import held_out, limited

MOST_PLAIN_DEGREE = 9  # the last bin of the plain features' histogram


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


@dataclass(frozen=True, kw_only=True)
class GraphInputs(Inputs):
    """The labels that nodes and edges had, the mean and deviation of node attributes, and how a graph is cut."""

    node_labels: tuple[int, ...]
    edge_labels: tuple[int, ...]
    attribute_mean: tuple[float, ...]
    attribute_std: tuple[float, ...]
    parts: int
    partition: Literal["greedy", "metis"]
    walk: int

    plain_name: ClassVar[str] = "labels and degrees"

    @classmethod
    def of(cls, data: GraphData) -> GraphInputs:
        """What an encoder trained on this data expects."""
        graphs = [data.train.graphs[number] for number in data.train.ids]
        attributes = np.concatenate([graph.attributes for graph in graphs]).astype(np.float64)
        return cls(
            node_labels=tuple(np.unique(np.concatenate([graph.labels for graph in graphs])).tolist()),
            edge_labels=tuple(np.unique(np.concatenate([graph.edge_labels for graph in graphs])).tolist()),
            attribute_mean=tuple(attributes.mean(0).tolist()),
            attribute_std=tuple(np.maximum(attributes.std(0), 1e-3).tolist()),
            parts=data.config.parts,
            partition=data.config.partition,
            walk=data.config.walk,
        )

    def describe(self) -> str:
        return f"{self.parts} parts"

    def options(self) -> dict[str, Any]:
        return {"parts": self.parts, "partition": self.partition, "walk": self.walk}

    def prepare(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The graphs as the encoder's input, without chance."""
        return self.stack([sample["graph"] for sample in samples], [self.cut(sample["graph"]) for sample in samples])

    def cut(self, graph: Graph, draw: np.random.Generator | None = None, drop: float = 0.0) -> Cut:
        """A graph in its parts: the same always, or drawn."""
        return cut_graph(graph, self.parts, self.partition, draw, drop)

    def stack(self, graphs: Sequence[Graph], cuts: Sequence[Cut]) -> dict[str, Tensor]:
        """The encoder's input. Every sample counts its own nodes, copies and parts from 0; zeros stand behind the last.

        nodes `[batch, nodes]` (places in `node_labels`; their number stands for an unknown label), attributes `[batch,
        nodes, attributes]`, copy_nodes and copy_parts `[batch, copies]`, copies `[batch]` (how many), edges `[batch, 2,
        links]` (from copy, to copy), edge_labels `[batch, links]`, links `[batch]`, walks `[batch, parts, walk]`,
        overlap `[batch, parts, parts]`, parts `[batch]`.
        """
        pairs = list(zip(graphs, cuts, strict=True))
        return {
            "nodes": _padded([_places(graph.labels, self.node_labels) for graph in graphs]),
            "attributes": _padded([self._attributes(graph) for graph in graphs]),
            "copy_nodes": _padded([cut.copy_nodes for cut in cuts]),
            "copy_parts": _padded([cut.copy_parts for cut in cuts]),
            "copies": torch.tensor([len(cut.copy_nodes) for cut in cuts]),
            "edges": _padded([cut.edges for cut in cuts]),
            "edge_labels": _padded([_places(graph.edge_labels, self.edge_labels)[cut.links] for graph, cut in pairs]),
            "links": torch.tensor([len(cut.links) for cut in cuts]),
            "walks": _padded([self._walks(graph, cut) for graph, cut in pairs], self.parts, self.walk),
            "overlap": _padded([cut.overlap.astype(np.float32) for cut in cuts], self.parts, self.parts),
            "parts": torch.tensor([len(cut) for cut in cuts]),
        }

    def _attributes(self, graph: Graph) -> Float[np.ndarray, "nodes attributes"]:
        mean, std = np.asarray(self.attribute_mean), np.asarray(self.attribute_std)
        if graph.attributes.shape[1] != len(mean):
            raise UserError(
                f"The encoder expects nodes with {len(mean)} attributes, these have {graph.attributes.shape[1]}: give data "
                "of the kind it was trained on."
            )
        return ((graph.attributes - mean) / std).astype(np.float32)

    def _walks(self, graph: Graph, cut: Cut) -> Float[np.ndarray, "parts walk"]:
        """The maximum over a part's nodes, in training and in evaluation (the released code takes the mean there)."""
        most = np.zeros((len(cut), self.walk))
        np.maximum.at(most, cut.copy_parts, walks(graph, self.walk)[cut.copy_nodes])
        return most.astype(np.float32)

    def plain(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch features"]:
        """Counts of node labels, a histogram of degrees (0 to 9 and more), and the means of node attributes."""
        rows = []
        for sample in samples:
            graph: Graph = sample["graph"]
            labels = np.bincount(_places(graph.labels, self.node_labels), minlength=len(self.node_labels) + 1)
            degrees = np.bincount(np.minimum(graph.degrees, MOST_PLAIN_DEGREE), minlength=MOST_PLAIN_DEGREE + 1)
            rows.append(np.concatenate([labels, degrees, graph.attributes.mean(0)]))
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def _places(values: NDArray[np.int64], known: tuple[int, ...]) -> NDArray[np.int64]:
    """Where each value stands among those known (which rise); their number for a value that is not among them."""
    table = np.asarray(known, dtype=np.int64)
    if not len(table):
        return np.zeros(len(values), dtype=np.int64)
    places = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return np.where(table[places] == values, places, len(table))


def _padded(rows: Sequence[NDArray], *shape: int) -> Tensor:
    """Arrays of different shapes, one above the other in `shape` (default: the smallest that holds all), zeros behind."""
    smallest = tuple(max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True))
    out = np.zeros((len(rows), *(shape or smallest)), dtype=rows[0].dtype)
    for place, row in zip(out, rows, strict=True):
        place[tuple(map(slice, row.shape))] = row
    return torch.from_numpy(out)


GRAPHS = Modality("graphs", GraphDataConfig, GraphInputs, open_graphs, GraphInputs.of)
