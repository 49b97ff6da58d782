import copy
import pickle

import numpy as np
import pytest
import torch

from jepakit.core.batch import map_tensors, split_batch
from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.modalities.graphs.collection import Graph, GraphCollection, GraphDataConfig
from jepakit.modalities.graphs.data import open_graphs
from jepakit.modalities.graphs.inputs import GRAPHS as GRAPHS_MODALITY
from jepakit.modalities.graphs.inputs import GraphInputs
from jepakit.modalities.graphs.motifs import motif_graphs
from jepakit.nn.tokens import Ids
from jepakit.systems.graph_jepa import GraphJEPA, GraphJEPAConfig, hyperbola

EXACT = {"atol": 1e-5, "rtol": 1e-5}
# Fewer nodes than parts, one node alone, no edges, two pieces: what a cut must survive.
ODD = [
    Graph.of(1, []),
    Graph.of(2, [(0, 1)]),
    Graph.of(7, []),
    Graph.of(6, [(0, 1), (1, 2), (3, 4)]),
    Graph.of(9, [(i, i + 1) for i in range(8)]),
    Graph.of(1, [(0, 0)]),
]
GRAPHS = [*motif_graphs(6).graphs, *ODD]
COLLECTION = GraphCollection(name="odd", kind="object", graphs=GRAPHS)
DATA = open_graphs(GraphDataConfig(data="object", parts=5, walk=6, test_fraction=0), 0, COLLECTION)
INPUTS = GraphInputs.of(DATA)


def build(seed=0, **options):
    torch.manual_seed(seed)
    return GraphJEPA(GraphJEPAConfig(**{"dim": 16, "depth": 2, "heads": 2, **options}), INPUTS, seed)


def samples(ids=None, epoch=0):
    return [{**DATA.train[i], "epoch": epoch, "step": 4} for i in (range(len(GRAPHS)) if ids is None else ids)]


def parts_of(batch, row):
    count = int(batch["inputs"]["copies"][row])
    copies = (batch["inputs"][name][row, :count].tolist() for name in ("copy_nodes", "copy_parts"))
    return list(zip(*copies, strict=True)), batch["context"][row].tolist(), batch["targets"][row].tolist()


def test_contexts_and_targets_are_different_parts_and_none_is_empty():
    for views in (None, 3):
        batch = build(targets=3).collator(0, views)(samples())
        assert batch["context"].shape == (len(GRAPHS), views or 1, 1)
        assert batch["targets"].shape == (len(GRAPHS), views or 1, 1, 3)
        for row, (context, targets, count) in enumerate(
            zip(batch["context"], batch["targets"], batch["target_lengths"], strict=True)
        ):
            parts = int(batch["inputs"]["parts"][row])
            for view in range(views or 1):
                asked = targets[view, 0, : count[view, 0]].tolist()
                assert len(asked) == min(3, parts - 1)
                assert len({int(context[view, 0]), *asked}) == len(asked) + 1
                assert max(int(context[view, 0]), *asked, 0) < parts
            assert len({int(c) for c in context[:, 0]}) == min(views or 1, parts)  # views differ as far as they can


def test_a_samples_draws_are_a_function_of_seed_epoch_and_id_and_survive_pickling():
    collate = pickle.loads(pickle.dumps(build().collator(0)))
    together, reordered = collate(samples()), collate(samples([5, 2]))
    for row, sample in enumerate([5, 2]):
        assert parts_of(reordered, row) == parts_of(together, sample)
    for other in (collate(samples(epoch=1)), build().collator(1)(samples())):
        assert [parts_of(other, i)[0] for i in range(6)] != [parts_of(together, i)[0] for i in range(6)]


def test_a_batch_equals_each_graph_alone():
    system = build().eval()
    batch = system.collator(0)(samples())
    together = system.energy(batch, torch.arange(len(GRAPHS)))
    encoded = system.encode(INPUTS.prepare(samples()))
    assert torch.isfinite(together).all()
    for i in range(len(GRAPHS)):
        alone = system.energy(system.collator(0)(samples([i])), torch.tensor([0]))
        torch.testing.assert_close(alone[0], together[i], **EXACT)
        one = system.encode(INPUTS.prepare(samples([i]))).mean()
        torch.testing.assert_close(one[0], encoded.mean()[i], **EXACT)
    assert together[[0, 5]].min() > 0
    assert together[6] == together[11] == 0  # one part: nothing to predict


def test_the_step_as_the_paper_writes_it():
    """(1/m) sum_j smoothL1(MLP(z_context + p_j), (cosh a_j, sinh a_j)), a_j the mean of the target's features."""
    system = build(targets=2).double()
    batch = system.collator(0)(samples(range(6)))
    network, target = system.encoder.network, system.target.transformer.average
    inputs, total, count = batch["inputs"], 0.0, 0
    parts, ones = network(inputs), torch.ones(1, 1, 1)
    for i in range(6):
        one = torch.tensor([1])
        context = batch["context"][i, 0, 0]
        z_context = system.encoder.transformer(parts[i : i + 1, [context]], ones, one)[0, 0]
        asked = batch["targets"][i, 0, 0]
        overlap = inputs["overlap"][i][asked][:, asked][None]
        z_targets = target(parts[i : i + 1, asked], overlap, torch.tensor([2]))[0]
        for j, z in zip(asked, z_targets, strict=True):
            a = z.mean()
            walk = network.walk(inputs["walks"][i, j].double())
            prediction = system.predictor.mlp(z_context + walk)
            point = torch.stack([a.cosh(), a.sinh()])
            total += torch.nn.functional.smooth_l1_loss(prediction, point, beta=1.0)
            count += 1
    torch.testing.assert_close(system.step(batch)["loss"], total / count, atol=1e-9, rtol=1e-6)


def test_pieces_of_a_batch_add_up():
    system = build().double()
    batch = system.collator(0)(samples())
    whole = system.step(batch)["loss"]
    whole.backward()
    expected = {n: p.grad.clone() for n, p in system.named_parameters() if p.grad is not None}
    system.zero_grad()
    counts = system.counts(batch)
    pieces = [system.step({**piece, "counts": counts})["loss"] for piece in split_batch(batch, 4)]
    torch.testing.assert_close(sum(pieces), whole, atol=1e-12, rtol=1e-12)
    sum(pieces).backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(system.named_parameters())[name].grad, gradient, atol=1e-12, rtol=1e-9)
    assert not system.joins_batch
    lonely = system.collator(0)(samples([6, 11]))  # nothing to predict in the whole batch
    assert system.step(lonely)["loss"] == 0


@pytest.mark.parametrize("target", ["ema", "shared", "stop-gradient"])
def test_gradient_reaches_what_it_should(target):
    system = build(target=target)
    system.step(system.collator(0)(samples()))["loss"].backward()
    assert all(p.grad is not None for p in system.encoder.parameters())
    assert all(p.grad is None for name, p in system.named_parameters() if name.startswith("target."))
    # Targets move the graph network only where they carry gradient.
    batch = system.collator(0)(samples())
    targets = system.target(batch["inputs"])
    assert targets.values.requires_grad == (target == "shared")
    assert system.encode(batch["inputs"]).values.shape[-1] == 16
    names = [name for name, _ in system.named_parameters()]
    assert any(name.startswith("target.transformer.average.blocks") for name in names) == (target == "ema")
    assert not any("network" in name for name in names if not name.startswith("encoder.network"))


def test_the_average_is_of_the_transformer_alone():
    system = build(ema=0.9, ema_end=1.0)
    average = [p.clone() for p in system.target.transformer.average.parameters()]
    with torch.no_grad():
        for p in system.encoder.parameters():
            p.add_(0.1)
    assert system.after_step(0.5) == {"ema": pytest.approx(0.95)}
    for ours, old, new in zip(
        system.target.transformer.average.parameters(), average, system.encoder.transformer.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, 0.95 * old + 0.05 * new, atol=1e-6, rtol=1e-6)
    assert system.encoders()["target"].network is system.encoder.network
    assert build(target="stop-gradient").after_step(0.5) == {}


def test_targets_see_only_one_another():
    """A part that is not asked for may change as it likes: the transformer of the target does not see it."""
    system = build(targets=2).eval()
    batch = system.collator(0)(samples([0]))
    asked = Ids(batch["targets"][0, 0], batch["target_lengths"][0, 0])
    hidden = [p for p in range(int(batch["inputs"]["parts"][0])) if p not in batch["targets"][0, 0, 0].tolist()]
    inputs = {**batch["inputs"], "walks": batch["inputs"]["walks"].clone()}
    inputs["walks"][:, hidden] += 1.0
    torch.testing.assert_close(system.target(inputs, keep=asked).values, system.target(batch["inputs"], keep=asked).values)
    assert not torch.allclose(system.target(inputs).values, system.target(batch["inputs"]).values)


def test_points_lie_on_the_hyperbola_and_stay_finite():
    x, y = hyperbola(torch.randn(50, 8)).unbind(-1)
    torch.testing.assert_close(x.square() - y.square(), torch.ones(50), atol=1e-4, rtol=1e-4)
    far = torch.full((1, 8), 1e4, requires_grad=True)
    point = hyperbola(far)
    torch.testing.assert_close(point, torch.tensor([[np.cosh(5.0), np.sinh(5.0)]], dtype=torch.float32))
    point.sum().backward()
    assert torch.isfinite(far.grad).all()


def test_the_energy_of_pairs_asks_for_the_partners_own_parts():
    """Graphs have different numbers of parts; with the sample itself as partner it is the plain energy."""
    system = build().eval()
    batch = system.collator(0)(samples())
    partners = torch.arange(len(GRAPHS)).roll(1)
    energy = system.energy(batch, partners)
    assert torch.isfinite(energy).all()
    # Context of graph 4, everything else of graph 3.
    mixed = map_tensors(lambda x: x[[3]] if x.ndim else x, batch)
    context = system.encoder(
        map_tensors(lambda x: x[[4]], batch["inputs"]), keep=Ids(batch["context"][4], batch["context_lengths"][4])
    )
    queries = Ids(mixed["targets"][:, 0, 0], mixed["target_lengths"][:, 0, 0])
    predictions = system.predictor(context, queries, mixed["positions"])
    points = system.target(mixed["inputs"], keep=queries).values
    torch.testing.assert_close(energy[4], system.measure(predictions, points).mean(), **EXACT)


def test_views_are_contexts():
    system = build().eval()
    batch = system.collator(0, views=2)(samples())
    views = system.views(batch)
    assert views.shape == (len(GRAPHS), 2, 16)
    for view in range(2):
        context = system.encoder(batch["inputs"], keep=Ids(batch["context"][:, view]))
        torch.testing.assert_close(views[:, view], context.values[:, 0], **EXACT)


def test_a_copy_learns_without_touching_the_original():
    """What the estimate of a run's cost relies on; parts that are shared must be shared in the copy, too."""
    system = build()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    twin = copy.deepcopy(system)
    optimizer = torch.optim.SGD([p for g in twin.parameter_groups() for p in g["params"]], lr=0.1)
    twin.step(twin.collator(0)(samples()))["loss"].backward()
    optimizer.step()
    twin.after_step(0.0)
    assert all(p.grad is None for p in system.parameters())
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    assert twin.encoders()["target"].network is twin.encoder.network is not system.encoder.network


def test_an_exported_encoder_is_the_same_encoder(tmp_path):
    system = build().eval()
    prepared = INPUTS.prepare(samples())
    expected = system.encode(prepared).mean()
    model = PretrainedEncoder(system.encoders()["target"], INPUTS, "graph-jepa", "target", GRAPHS_MODALITY)
    again = PretrainedEncoder.from_pretrained(model.save_pretrained(tmp_path / "export"))
    assert again.inputs == INPUTS
    torch.testing.assert_close(again.embed(again.inputs.prepare(samples())), expected, rtol=0, atol=0)


def test_it_learns_to_predict_a_fixed_batch():
    system = build(ema=1.0)
    batch = system.collator(0)(samples())
    optimizer = torch.optim.Adam(system.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = system.step(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": 0}, "targets must be at least 1"),
        ({"drop_edges": 1.5}, "drop_edges must be at least 0 and at most 1"),
        ({"target": "emma"}, "Did you mean 'ema'"),
        ({"ema": 1.5}, "ema must be at least 0 and at most 1"),
        ({"heads": 5}, "multiple of heads"),
        ({"layers": 0}, "layers must be at least 1"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)
