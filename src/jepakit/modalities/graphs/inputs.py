"""What a trained encoder expects of a graph, and the modality: its node labels, and for each of its parts the copies of nodes
in it, the edges inside it, the random-walk encoding of its nodes (their maximum), and how far it overlaps with the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from jepakit.errors import UserError
from jepakit.modalities.graphs.collection import Graph, GraphDataConfig
from jepakit.modalities.graphs.data import GraphData, open_graphs
from jepakit.modalities.graphs.parts import Cut, cut_graph, walks
from jepakit.modalities.modality import Inputs, Modality

MOST_PLAIN_DEGREE = 9  # the last bin of the plain features' histogram


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

    modality: ClassVar[str] = "graphs"
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

    def sample(self, step: Any) -> dict[str, Any]:
        """One graph."""
        if not isinstance(step, Graph):
            raise UserError(
                f"A step of this stream is a Graph, got {type(step).__name__}. Give graphs as a data set holds them."
            )
        return {"graph": step}

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
