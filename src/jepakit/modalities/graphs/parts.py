"""Cuts a graph into overlapping parts, the tokens of a graph, and describes nodes by random walks.

He et al. 2023, "A generalization of ViT/MLP-Mixer to graphs", arXiv 2212.13350, section 3: cut the nodes into parts, let
each grow by its neighbours, and keep the edges inside each part. A node in several parts has a copy in each.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jepakit.errors import missing_extra
from jepakit.modalities.graphs.collection import Graph


@dataclass(frozen=True)
class Cut:
    """A graph in parts, none of them empty. A copy is a node seen in one part."""

    copy_nodes: Int[np.ndarray, "copies"]
    copy_parts: Int[np.ndarray, "copies"]
    edges: Int[np.ndarray, "2 links"]
    """Copies that an edge of the graph joins inside a part, from and to."""
    links: Int[np.ndarray, "links"]
    """Which edge of the graph that is."""
    overlap: Float[np.ndarray, "parts parts"]
    """Nodes that two parts share over the geometric mean of their sizes: 1 with itself, 0 where nothing is shared."""

    def __len__(self) -> int:
        return len(self.overlap)


def walks(graph: Graph, steps: int) -> Float[np.ndarray, "nodes steps"]:
    """Random-walk structural encoding: the probability to be back at a node after 1, 2, ..., `steps` steps.

    Dwivedi et al. 2022, arXiv 2110.07875, equation 5. A walk and its symmetric form have the same diagonal, so one
    eigendecomposition gives all powers exactly. A node without edges is never back. Worked out once a graph.
    """
    if steps in graph.known:
        return graph.known[steps]
    nodes = len(graph)
    scale = np.where(graph.degrees > 0, graph.degrees, 1) ** -0.5
    symmetric = np.zeros((nodes, nodes))
    symmetric[graph.edges[0], graph.edges[1]] = scale[graph.edges[0]] * scale[graph.edges[1]]
    values, vectors = np.linalg.eigh(symmetric)
    graph.known[steps] = vectors**2 @ values[:, None] ** np.arange(1, steps + 1)
    return graph.known[steps]


def kept_edges(graph: Graph, drop: float, draw: np.random.Generator) -> Int[np.ndarray, "2 kept"]:
    """The edges that stay when each is dropped, in both directions, with probability `drop`."""
    ends = np.sort(graph.edges, axis=0)
    _, edge = np.unique(ends[0] * len(graph) + ends[1], return_inverse=True)
    return graph.edges[:, (draw.random(len(graph.edges[0])) >= drop)[edge]]


def partition(
    nodes: int, edges: Int[np.ndarray, "2 edges"], parts: int, method: str, draw: np.random.Generator
) -> Int[np.ndarray, "nodes"]:
    """The part of each node, at most `parts` of them, some maybe empty; a graph of fewer nodes has a part for each.

    method: "greedy" or "metis" (Karypis and Kumar 1998, recursive bisection). draw: breaks ties; the same draws give the
    same parts.

    Errors: "metis" without the package pymetis.
    """
    if nodes <= parts:
        return draw.permutation(nodes)
    neighbours: list[list[int]] = [[] for _ in range(nodes)]
    for a, b in edges.T.tolist():
        if a != b:
            neighbours[a].append(b)
    if method == "greedy":
        return _grow(neighbours, parts, draw)
    try:
        import pymetis
    except ImportError:
        raise missing_extra("pymetis", "graphs", "partition metis") from None
    asked = pymetis.Options(seed=int(draw.integers(2**31 - 1)))
    _, membership = pymetis.part_graph(parts, adjacency=[np.asarray(n, dtype=np.int64) for n in neighbours],
                                       recursive=True, options=asked)  # fmt: skip
    return np.array(list(membership), dtype=np.int64)


def cut_graph(
    graph: Graph, parts: int, method: str = "greedy", draw: np.random.Generator | None = None, drop: float = 0.0
) -> Cut:
    """Cut a graph into parts and let each grow by one hop.

    Args:
        parts, method: see `partition`.
        draw: for a random cut; None: always the same one.
        drop: share of the edges that the partition does not see; growth and the edges of the parts see all.
    """
    draw = np.random.default_rng(0) if draw is None else draw
    seen = kept_edges(graph, drop, draw) if drop > 0 else graph.edges
    core = partition(len(graph), seen, parts, method, draw)
    _, core = np.unique(core, return_inverse=True)  # empty parts are left out
    inside = np.zeros((int(core.max()) + 1, len(graph)), dtype=bool)
    inside[core, np.arange(len(graph))] = True
    inside[core[graph.edges[0]], graph.edges[1]] = True
    copy_parts, copy_nodes = np.nonzero(inside)
    copy_of = np.cumsum(inside).reshape(inside.shape) - 1
    edge_parts, links = np.nonzero(inside[:, graph.edges[0]] & inside[:, graph.edges[1]])
    ends = np.stack([copy_of[edge_parts, graph.edges[0, links]], copy_of[edge_parts, graph.edges[1, links]]])
    member = inside.astype(np.float64)
    sizes = member.sum(1)
    return Cut(copy_nodes, copy_parts, ends, links, member @ member.T / np.sqrt(np.outer(sizes, sizes)))


def _grow(neighbours: list[list[int]], parts: int, draw: np.random.Generator) -> Int[np.ndarray, "nodes"]:
    """Parts from starts far from one another; always the smallest that can takes its next free neighbour."""
    nodes = len(neighbours)
    rank = draw.permutation(nodes).tolist()  # who goes first among equals
    owner = [-1] * nodes
    queues: list[deque[int]] = []
    for part, start in enumerate(_starts(neighbours, parts, rank)):
        owner[start] = part
        queues.append(deque(sorted(neighbours[start], key=rank.__getitem__)))
    sizes = [1] * parts
    heap = [(1, part) for part in range(parts)]
    while heap:
        _, part = heapq.heappop(heap)
        queue = queues[part]
        while queue and owner[queue[0]] >= 0:
            queue.popleft()
        if queue:
            node = queue.popleft()
            owner[node] = part
            queue.extend(sorted(neighbours[node], key=rank.__getitem__))
            sizes[part] += 1
            heapq.heappush(heap, (sizes[part], part))
    for node in range(nodes):  # what no start reaches: each piece to the smallest part
        if owner[node] < 0:
            part, piece = sizes.index(min(sizes)), [node]
            owner[node] = part
            for member in piece:
                sizes[part] += 1
                for other in neighbours[member]:
                    if owner[other] < 0:
                        owner[other] = part
                        piece.append(other)
    return np.asarray(owner)


def _starts(neighbours: list[list[int]], count: int, rank: list[int]) -> list[int]:
    """A first node by rank, then always the one farthest from those chosen."""
    nodes = len(neighbours)
    distance = [nodes] * nodes
    chosen = [rank.index(0)]
    while True:
        distance[chosen[-1]] = 0
        wave = [chosen[-1]]
        for node in wave:
            step = distance[node] + 1
            for other in neighbours[node]:
                if distance[other] > step:
                    distance[other] = step
                    wave.append(other)
        if len(chosen) == count:
            return chosen
        chosen.append(max(range(nodes), key=lambda node: (distance[node], rank[node])))
