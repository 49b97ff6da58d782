"""An encoder of graphs cut into parts: a graph network inside the parts, a transformer between them.

Graph ViT, He et al. 2023, arXiv 2212.13350. The network is GINE (Hu et al. 2020, arXiv 1905.12265): a node adds up what its
neighbours and the edges to them say. Plain torch on flat lists of nodes and edges; every graph's own numbering from 0 is
shifted by the graphs before it, in one place (`Copies.read`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.errors import UserError, check_range
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.tokens import Ids, Tokens, valid_mask
from jepakit.nn.transformer import Block, initialise_transformer

Inputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class GraphEncoderConfig:
    """Shape of the encoder, and what it reads: kinds of node and edge labels, node attributes, steps of the walk."""

    node_labels: int
    edge_labels: int
    attributes: int
    walk: int
    dim: int = 64
    layers: int = 2
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "depth", "heads", "walk"):
            check_range(f"encoder.{name}", getattr(self, name), 1, 10_000)
        if self.dim % self.heads:
            raise UserError(f"encoder.dim {self.dim} must be a multiple of heads {self.heads}.")


@dataclass(frozen=True)
class Copies:
    """Copies of nodes in parts, of all graphs of a batch in one list, as rows of flat tables."""

    node: Int[Tensor, "copies"]
    """Row of the node in `[batch * nodes]`."""
    part: Int[Tensor, "copies"]
    """Row of the part in `[batch * parts]`."""
    source: Int[Tensor, "links"]
    """Row of the copy that an edge leaves."""
    sink: Int[Tensor, "links"]
    """Row of the copy that it reaches."""
    edge_label: Int[Tensor, "links"]

    @staticmethod
    def read(inputs: Inputs) -> Copies:
        """Drop the padding and shift every graph's numbers by the graphs before it."""
        batch, nodes = inputs["nodes"].shape
        parts = inputs["walks"].shape[1]
        graph = torch.arange(batch, device=inputs["nodes"].device)[:, None]
        real = valid_mask(inputs["copies"], inputs["copy_nodes"].shape[1])
        linked = valid_mask(inputs["links"], inputs["edge_labels"].shape[1])
        before = (inputs["copies"].cumsum(0) - inputs["copies"])[:, None]
        return Copies(
            node=(inputs["copy_nodes"] + graph * nodes)[real],
            part=(inputs["copy_parts"] + graph * parts)[real],
            source=(inputs["edges"][:, 0] + before)[linked],
            sink=(inputs["edges"][:, 1] + before)[linked],
            edge_label=inputs["edge_labels"][linked],
        )


def group_mean(values: Float[Tensor, "rows dim"], group: Int[Tensor, "rows"], groups: int) -> Float[Tensor, "groups dim"]:
    """Mean of the rows of each group; 0 for a group without any."""
    total = values.new_zeros(groups, values.shape[1]).index_add(0, group, values)
    count = values.new_zeros(groups).index_add(0, group, values.new_ones(len(group)))
    return total / count.clamp_min(1)[:, None]


class GINELayer(nn.Module):
    """x_i + ReLU(norm(MLP((1 + eps) x_i + sum over edges j -> i of ReLU(x_j + e_ji))))."""

    def __init__(self, dim: int):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))  # not a single number, which FSDP could not shard
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        # Not the BatchNorm of the released code: a graph's embedding is its own, whatever it is batched with.
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Float[Tensor, "nodes dim"],
        source: Int[Tensor, "edges"],
        sink: Int[Tensor, "edges"],
        edges: Float[Tensor, "edges dim"],
    ) -> Float[Tensor, "nodes dim"]:
        messages = torch.relu(x[source] + edges)
        heard = torch.zeros_like(x).index_add(0, sink, messages.to(x.dtype))
        return x + torch.relu(self.norm(self.mlp((1 + self.eps) * x + heard)))


class PartEncoder(nn.Module):
    """Graphs in parts to one vector a part: `inputs -> values [batch, parts, dim]`.

    Between two layers each copy hears the mean of its part, and the copies of a node become their mean: so parts that
    share nodes learn of each other. The walk encoding of the part is added at the end.
    """

    def __init__(self, config: GraphEncoderConfig):
        super().__init__()
        self.node = nn.Embedding(config.node_labels + 1, config.dim)  # the last for labels that were never seen
        self.edge = nn.Embedding(config.edge_labels + 1, config.dim)
        self.attribute = nn.Linear(config.attributes, config.dim, bias=False) if config.attributes else None
        self.layers = nn.ModuleList(GINELayer(config.dim) for _ in range(config.layers))
        self.mix = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in range(config.layers - 1))
        self.walk = nn.Linear(config.walk, config.dim)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch parts dim"]:
        copies = Copies.read(inputs)
        batch, parts = inputs["walks"].shape[:2]
        nodes = inputs["nodes"].numel()
        embedded = self.node(inputs["nodes"])
        if self.attribute is not None:
            embedded = embedded + self.attribute(inputs["attributes"].to(self.attribute.weight.dtype))
        x = embedded.flatten(0, 1)[copies.node]
        edges = self.edge(copies.edge_label)
        for number, layer in enumerate(self.layers):
            if number > 0:
                x = x + torch.relu(self.mix[number - 1](group_mean(x, copies.part, batch * parts)[copies.part]))
                x = group_mean(x, copies.node, nodes)[copies.node]
            x = layer(x, copies.source, copies.sink, edges)
        pooled = group_mean(x, copies.part, batch * parts).unflatten(0, (batch, parts))
        return pooled + self.walk(inputs["walks"].to(self.walk.weight.dtype))


class PartTransformer(nn.Module):
    """Blocks over the parts of a graph, whose attention is multiplied by how far two parts overlap (Hadamard attention).

    There is no norm at the end: the mean over the features of a normalised vector is the same for every vector, and it is
    what Graph-JEPA predicts.
    """

    def __init__(self, config: GraphEncoderConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth))
        initialise_transformer(self, self.blocks)

    def forward(
        self,
        x: Float[Tensor, "batch parts dim"],
        overlap: Float[Tensor, "batch parts parts"],
        lengths: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch parts dim"]:
        layout = AttentionLayout(keys=valid_mask(lengths, x.shape[1]), gate=overlap[:, None])
        for block in self.blocks:
            x = block(x, layout)
        return x


class GraphEncoder(nn.Module):
    """`encoder(inputs, keep=None) -> Tokens`: a token a part; its position is the walk encoding `[batch, parts, walk]`.

    inputs: what `modalities.graphs.GraphInputs.stack` makes. keep: encode only these parts, which then do not see the
    others in the transformer; the graph network below it always sees the whole graph, as in the released code.

    Args:
        network, transformer: the two halves, where they are shared with another encoder.
    """

    Config: ClassVar[type] = GraphEncoderConfig

    def __init__(
        self, config: GraphEncoderConfig, network: PartEncoder | None = None, transformer: PartTransformer | None = None
    ):
        super().__init__()
        self.config = config
        self.network = PartEncoder(config) if network is None else network
        self.transformer = PartTransformer(config) if transformer is None else transformer

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(self, inputs: Inputs, keep: Ids | None = None) -> Tokens:
        x, positions, overlap, lengths = self.network(inputs), inputs["walks"], inputs["overlap"], inputs["parts"]
        if keep is not None:
            x, positions = keep.gather(x), keep.gather(positions)
            overlap = keep.gather(keep.gather(overlap).transpose(1, 2)).transpose(1, 2)
            lengths = keep.valid.sum(1)
        return Tokens(self.transformer(x, overlap, lengths), positions, lengths)
