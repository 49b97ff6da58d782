import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.graph_network import Copies, GINELayer, GraphEncoder, GraphEncoderConfig, group_mean
from jepakit.nn.tokens import Ids

EXACT = {"atol": 1e-5, "rtol": 1e-5}
CONFIG = GraphEncoderConfig(node_labels=3, edge_labels=2, attributes=0, walk=4, dim=16, depth=2, heads=2)


def path(nodes, links, parts=((0, 1), (1, 2))):
    """One graph: `parts` lists the nodes of each part, `links` pairs of nodes (both directions are made)."""
    copies = [(node, part) for part, members in enumerate(parts) for node in members]
    place = {copy: row for row, copy in enumerate(copies)}
    edges = [(place[a, p], place[b, p]) for p in range(len(parts)) for x, y in links for a, b in ((x, y), (y, x))
             if (a, p) in place and (b, p) in place]  # fmt: skip
    member = torch.zeros(len(parts), len(nodes))
    for node, part in copies:
        member[part, node] = 1
    generator = torch.Generator().manual_seed(sum(nodes) + len(nodes))
    return {
        "nodes": torch.tensor([nodes]),
        "attributes": torch.zeros(1, len(nodes), 0),
        "copy_nodes": torch.tensor([[node for node, _ in copies]]),
        "copy_parts": torch.tensor([[part for _, part in copies]]),
        "copies": torch.tensor([len(copies)]),
        "edges": torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T[None],
        "edge_labels": torch.zeros(1, len(edges), dtype=torch.long),
        "links": torch.tensor([len(edges)]),
        "walks": torch.rand(1, len(parts), 4, generator=generator),
        "overlap": (member @ member.T / (member.sum(1)[:, None] * member.sum(1)).sqrt())[None],
        "parts": torch.tensor([len(parts)]),
    }


GRAPHS = [
    path([0, 1, 2], [(0, 1), (1, 2)]),
    path([2, 2, 0, 1, 0], [(0, 1), (1, 2), (2, 0), (3, 4)], ((0, 1, 2), (1, 2, 3), (3, 4), (4,))),
    path([1], [], ((0,),)),
    path([0, 0], [], ((0,), (1,))),
]


def batch_of(graphs):
    """One above the other, with padding that must not count: ones where zeros would be as good."""
    out = {}
    for name in graphs[0]:
        rows = [graph[name][0] for graph in graphs]
        shape = [max(row.shape[axis] for row in rows) for axis in range(rows[0].ndim)]
        out[name] = torch.ones(len(rows), *shape, dtype=rows[0].dtype)
        for place, row in zip(out[name], rows, strict=True):
            place[tuple(map(slice, row.shape))] = row
    return out


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return GraphEncoder(GraphEncoderConfig(**{**vars(CONFIG), **changes})).eval()


def test_every_graph_is_encoded_as_if_alone():
    """Numbers of nodes, copies and parts are each graph's own; a wrong shift mixes graphs, which shows here."""
    encoder = build()
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        together = encoder(batch_of([GRAPHS[i] for i in order]))
        for row, i in enumerate(order):
            alone = encoder(GRAPHS[i])
            count = int(GRAPHS[i]["parts"])
            torch.testing.assert_close(together.values[row, :count], alone.values[0], **EXACT)
            torch.testing.assert_close(together.mean()[row], alone.mean()[0], **EXACT)
    assert torch.isfinite(together.values).all()


def test_the_gradient_of_a_batch_is_the_sum_of_its_graphs():
    encoder = build().double()
    encoder(batch_of(GRAPHS)).mean().square().sum().backward()
    joined = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    for graph in GRAPHS:
        encoder(graph).mean().square().sum().backward()
    for name, p in encoder.named_parameters():
        torch.testing.assert_close(joined[name], p.grad, atol=1e-9, rtol=1e-7)


def test_rows_of_the_flat_tables():
    copies = Copies.read(batch_of([GRAPHS[0], GRAPHS[1]]))
    assert copies.node.tolist() == [0, 1, 1, 2, 5, 6, 7, 6, 7, 8, 8, 9, 9]  # 5 rows of nodes a graph
    assert copies.part.tolist() == [0, 0, 1, 1, 4, 4, 4, 5, 5, 5, 6, 6, 7]  # 4 rows of parts
    assert copies.source.tolist()[:4] == [0, 1, 2, 3]
    assert copies.source.min() == 0
    assert copies.source[4:].min() == 4  # the first graph has 4 copies
    assert (copies.part[copies.source] == copies.part[copies.sink]).all()


def test_gine_by_hand():
    """x_i + ReLU(norm(MLP((1 + eps) x_i + sum_j ReLU(x_j + e_ji)))), one node at a time."""
    torch.manual_seed(0)
    layer = GINELayer(6)
    layer.eps.data.fill_(0.3)
    x, edges = torch.randn(4, 6), torch.randn(5, 6)
    source, sink = torch.tensor([0, 1, 1, 3, 0]), torch.tensor([1, 0, 2, 0, 1])
    out = layer(x, source, sink, edges)
    for i in range(4):
        heard = sum((torch.relu(x[source[k]] + edges[k]) for k in range(5) if sink[k] == i), torch.zeros(6))
        expected = x[i] + torch.relu(layer.norm(layer.mlp(1.3 * x[i] + heard)))
        torch.testing.assert_close(out[i], expected, **EXACT)


def test_means_of_groups():
    values = torch.tensor([[1.0], [3.0], [5.0]])
    assert group_mean(values, torch.tensor([2, 0, 2]), 4).flatten().tolist() == [3, 0, 3, 0]


def test_the_order_of_nodes_and_copies_does_not_matter():
    encoder = build()
    first = path([0, 1, 2, 1], [(0, 1), (1, 2), (2, 3)], ((0, 1, 2), (2, 3)))
    moved = path([1, 2, 1, 0], [(3, 2), (2, 1), (1, 0)], ((1, 3, 2), (0, 1)))
    moved["walks"] = first["walks"]
    torch.testing.assert_close(encoder(first).values, encoder(moved).values, **EXACT)


def test_kept_parts_do_not_see_the_others_in_the_transformer():
    encoder = build()
    graph = GRAPHS[1]
    kept = encoder(graph, keep=Ids(torch.tensor([[2, 0]])))
    assert kept.values.shape == (1, 2, 16)
    torch.testing.assert_close(kept.positions, graph["walks"][:, [2, 0]])
    parts = encoder.network(graph)
    expected = encoder.transformer(parts[:, [2, 0]], graph["overlap"][:, [2, 0]][:, :, [2, 0]], torch.tensor([2]))
    torch.testing.assert_close(kept.values, expected, **EXACT)
    swapped = {**graph, "overlap": graph["overlap"].clone()}
    swapped["overlap"][:, 1], swapped["overlap"][:, :, 1] = 7.0, 7.0
    torch.testing.assert_close(encoder(swapped, keep=Ids(torch.tensor([[2, 0]]))).values, kept.values, **EXACT)
    padded = encoder(graph, keep=Ids(torch.tensor([[2, 0, 1]]), torch.tensor([2])))
    torch.testing.assert_close(padded.values[:, :2], kept.values, **EXACT)


def test_the_overlap_multiplies_the_attention():
    """With a gate of 0 nothing is heard and each part is its own; a gate of 1 is plain attention."""
    transformer = build().transformer
    x = torch.randn(1, 3, 16, requires_grad=True)
    deaf = transformer(x, torch.zeros(1, 3, 3), torch.tensor([3]))
    (gradient,) = torch.autograd.grad(deaf[0, 0].sum(), x)
    assert gradient[0, 0].abs().sum() > 0
    assert gradient[0, 1:].abs().sum() == 0
    plain = x
    for block in transformer.blocks:
        plain = block(plain)
    torch.testing.assert_close(transformer(x, torch.ones(1, 3, 3), torch.tensor([3])), plain, **EXACT)


def test_attributes_and_labels_never_seen():
    encoder = build(attributes=2)
    graph = {**GRAPHS[0], "attributes": torch.randn(1, 3, 2)}
    other = {**graph, "attributes": torch.randn(1, 3, 2)}
    assert not torch.allclose(encoder(graph).values, encoder(other).values)
    unknown = {**graph, "nodes": torch.full((1, 3), 3)}  # the number of known labels
    assert torch.isfinite(encoder(unknown).values).all()


def test_the_mean_over_features_tells_parts_apart():
    """What Graph-JEPA predicts; a norm at the end of the encoder would make it one number for all."""
    assert build()(batch_of(GRAPHS)).values.mean(-1).std() > 1e-3


def test_mistakes():
    with pytest.raises(UserError, match="multiple of heads"):
        build(dim=10, heads=4)
    with pytest.raises(UserError, match=r"encoder.layers must be at least 1"):
        build(layers=0)
