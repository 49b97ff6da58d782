"""Which graphs are asked for (`GraphDataConfig`), one graph (`Graph`), and what a reader finds (`GraphCollection`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from jepakit.errors import check_choice, check_range
from jepakit.modalities.data import DataConfig

MOST_DEGREE = 63  # a degree that serves as node label counts up to here


@dataclass(frozen=True, kw_only=True)
class GraphDataConfig(DataConfig):
    """Which graphs, how they are split, and how a graph is cut into parts, its tokens."""

    data: str
    """A folder in the TU text layout (NAME_A.txt, NAME_graph_indicator.txt, ...), or a built-in name (mutag, motifs)."""
    parts: int = 8
    """Parts a graph is cut into, one token each; a smaller graph has as many parts as nodes. The paper: 32."""
    partition: Literal["greedy", "metis"] = "greedy"
    """greedy: parts grown side by side, needs nothing; metis: the paper's, fewer cut edges (pip install 'jepakit[graphs]')."""
    walk: int = 15
    """Longest random walk whose return probability describes a node (RWSE). The paper: 15 for MUTAG, 10 to 40 for others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("parts", self.parts, 2)
        check_choice("partition", self.partition, ("greedy", "metis"))
        check_range("walk", self.walk, 1)


@dataclass(frozen=True)
class Graph:
    """An undirected graph with labels as its files have them."""

    labels: Int[np.ndarray, "nodes"]
    edges: Int[np.ndarray, "2 edges"]
    """Every edge once in each direction, sorted."""
    edge_labels: Int[np.ndarray, "edges"]
    attributes: Float[np.ndarray, "nodes attributes"]
    """Numbers that describe a node; none in most collections."""
    known: dict[int, NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)
    """Random-walk encodings that were worked out, by number of steps (`parts.walks`)."""

    @classmethod
    def of(
        cls,
        nodes: int,
        edges: Sequence[tuple[int, int]] | NDArray,
        labels: Sequence[int] | NDArray | None = None,
        edge_labels: Sequence[int] | NDArray | None = None,
        attributes: NDArray | None = None,
    ) -> Graph:
        """A graph from edges in one or both directions, repeated or not; of several labels the first counts.

        labels: None: a node's label is its degree (up to 63), as is usual for collections without labels.
        """
        pairs = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
        kinds = np.zeros(len(pairs), dtype=np.int64) if edge_labels is None else np.asarray(edge_labels, dtype=np.int64)
        both = np.stack([pairs, pairs[:, ::-1]], axis=1).reshape(-1, 2)
        both, first = np.unique(both, axis=0, return_index=True)
        if labels is None:
            labels = np.minimum(np.bincount(both[:, 0], minlength=nodes), MOST_DEGREE)
        if attributes is None:
            attributes = np.zeros((nodes, 0), dtype=np.float32)
        return cls(
            labels=np.asarray(labels, dtype=np.int64),
            edges=np.ascontiguousarray(both.T),
            edge_labels=np.repeat(kinds, 2)[first],
            attributes=np.asarray(attributes, dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def degrees(self) -> Int[np.ndarray, "nodes"]:
        return np.bincount(self.edges[0], minlength=len(self))


@dataclass
class GraphCollection:
    """Everything that was found, before it is split. A reader returns it; `open_graphs` makes `GraphData` of it."""

    name: str
    kind: str
    graphs: list[Graph]
    labels: NDArray | None = None
    """Class codes `[n]`, or numbers `[n]` to predict, or None."""
    classes: list[str] | None = None
    task: Literal["classification", "regression"] | None = None
    notes: list[str] = field(default_factory=list)
    """What a user should know about how the data was read, in sentences."""
