"""Generated graphs whose class is known by construction, for tests and for a first try: nothing to install.

`motifs`: a random tree with two copies of one motif hung on it. The three motifs have six nodes, seven edges and the same
degrees (3, 3, 2, 2, 2, 2); the trees, the places and the node labels are drawn alike for each class, so that neither
sizes, nor labels, nor degrees tell anything: only how the motif is closed does.
"""

from __future__ import annotations

import numpy as np

from jepakit.modalities.graphs.collection import Graph, GraphCollection
from jepakit.randomness import derive_seed

RING = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
MOTIFS = {
    "two squares": [*RING, (0, 3)],
    "triangle and pentagon": [*RING, (0, 2)],
    "two triangles": [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (2, 3)],
}
COUNT = 600
TREE_NODES = (6, 18)  # the smallest tree and the largest
COPIES = 2
NODE_LABELS = 3


def motif_graphs(count: int = COUNT, seed: int = 0) -> GraphCollection:
    """`count` graphs, the classes in turn; graph i is a function of (seed, i) alone."""
    names = list(MOTIFS)
    codes = np.arange(count) % len(names)
    return GraphCollection(
        name="motifs",
        kind="generated",
        graphs=[motif_graph(names[code], seed, index) for index, code in enumerate(codes)],
        labels=codes.astype(np.int64),
        classes=names,
        task="classification",
        notes=["motifs are generated graphs, not real ones."],
    )


def motif_graph(motif: str, seed: int, index: int) -> Graph:
    """A random recursive tree with copies of a motif, each joined to it by one edge."""
    draw = np.random.default_rng(derive_seed(seed, "motifs", index))
    nodes = int(draw.integers(TREE_NODES[0], TREE_NODES[1] + 1))
    edges = [(child, int(draw.integers(child))) for child in range(1, nodes)]
    tree = nodes
    for _ in range(COPIES):
        edges += [(nodes + a, nodes + b) for a, b in MOTIFS[motif]]
        edges.append((int(draw.integers(tree)), nodes + int(draw.integers(6))))
        nodes += 6
    order = draw.permutation(nodes)  # a node's number must not tell where it lies
    return Graph.of(nodes, order[np.asarray(edges)], draw.integers(NODE_LABELS, size=nodes))
