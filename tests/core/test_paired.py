import copy

import pytest
import torch
from torch import nn

from jepakit.core.anticollapse import SIGReg, SIGRegConfig
from jepakit.core.energies import Energy
from jepakit.core.paired import Projected, Views
from jepakit.core.system import shuffled
from jepakit.core.targets import EMATarget, StopGradientTarget
from jepakit.errors import UserError
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.mlp import projection_head

EXACT = {"atol": 1e-5, "rtol": 1e-5}


def build(hidden=(), energy="l2", target=None, **options):
    torch.manual_seed(0)
    encoder = ConvNet(ConvNetConfig(image_size=(12, 12), channels=1, dim=8, width=4))
    network = Projected(encoder, projection_head(8, hidden, 5))
    kind = {None: None, "ema": EMATarget, "stop-gradient": StopGradientTarget}[target]
    system = Views(network, Energy(name=energy), target=None if kind is None else kind(network), **options)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for head in (network.projector, *([] if target != "ema" else [system.target.average.projector])):
            head[-1].weight.mul_(20)  # losses of order 1: a tolerance has to mean something
    return system


def draw(views=3, local=False):
    generator = torch.Generator().manual_seed(1)
    batch = {
        "views": torch.randn(4, views, 1, 12, 12, generator=generator),
        "id": torch.arange(4),
        "step": torch.tensor(2),
    }
    if local:
        batch["local_views"] = torch.randn(4, 2, 1, 8, 8, generator=generator)
    return batch


def embed(system, views, network=None):
    """One image at a time: `[batch][view]` of `[projected]`."""
    network = network or system.network
    return torch.stack([torch.stack([network(view[None])[0] for view in sample]) for sample in views])


def test_the_prediction_is_the_distance_from_the_centre_of_the_views():
    system, batch = build(invariance=0.7), draw()
    z = embed(system, batch["views"])
    expected = (z - z.mean(1, keepdim=True)).square().mean()
    terms = system.step(batch)
    torch.testing.assert_close(terms["prediction"], expected, **EXACT)
    torch.testing.assert_close(terms["loss"], 0.7 * expected, **EXACT)


def test_the_partner_may_leave_the_view_itself_out():
    system, batch = build(partner="others", energy="l1"), draw()
    z = embed(system, batch["views"])
    expected = torch.stack([(z[:, v] - z[:, [u for u in range(3) if u != v]].mean(1)).abs().mean() for v in range(3)])
    torch.testing.assert_close(system.step(batch)["prediction"], expected.mean(), **EXACT)


@pytest.mark.parametrize("partner", ["centre", "others"])
def test_local_views_predict_the_centre_and_are_no_part_of_it(partner):
    system, batch = build(partner=partner), draw(local=True)
    z, local = embed(system, batch["views"]), embed(system, batch["local_views"])
    centre = z.mean(1, keepdim=True)
    of_globals = z - (centre if partner == "centre" else (3 * centre - z) / 2)
    expected = torch.cat([of_globals, local - centre], dim=1).square().mean()
    torch.testing.assert_close(system.step(batch)["prediction"], expected, **EXACT)


def test_the_regulariser_sees_every_view_at_its_step():
    sigreg = SIGReg(SIGRegConfig(slices=8), seed=5)
    system, batch = build(anti_collapse=sigreg), draw(local=True)
    z = torch.cat([embed(system, batch["views"]), embed(system, batch["local_views"])], dim=1)
    expected = sigreg(z.transpose(0, 1), step=2)
    terms = system.step(batch)
    torch.testing.assert_close(terms["sigreg"], expected["sigreg"], **EXACT)
    torch.testing.assert_close(terms["loss"], terms["prediction"] + expected["loss"], **EXACT)


@torch.no_grad()
def test_energy_of_matching_and_of_shuffled_pairs():
    system, batch = build(), draw()
    z = embed(system, batch["views"])
    for partners in (torch.arange(4), shuffled(4)):
        others = torch.stack([z[partners][:, [u for u in range(3) if u != v]].mean(1) for v in range(3)], dim=1)
        torch.testing.assert_close(system.energy(batch, partners), (z - others).square().mean((1, 2)), **EXACT)
    # Leaving the view out of V moves the centre away by V / (V - 1).
    matching = system.energy(batch, torch.arange(4)).mean()
    torch.testing.assert_close(matching, system.step(batch)["prediction"] * (3 / 2) ** 2, **EXACT)


def test_a_sample_does_not_depend_on_its_batch():
    system, batch = build(), draw()
    together = system.energy(batch, torch.arange(4))
    alone = {name: value[2:3] if value.ndim else value for name, value in batch.items()}
    torch.testing.assert_close(system.energy(alone, torch.tensor([0])), together[2:3], **EXACT)


@pytest.mark.parametrize("target", [None, "stop-gradient", "ema"])
def test_gradient_flows_into_the_partner_only_if_it_is_shared(target):
    """With the others as partner: the gradient of the mean of |z_v - c|^2 does not flow through the centre c anyway."""
    system, batch = build(target=target, partner="others", predictor=nn.Linear(5, 5)), draw()
    system.step(batch)["loss"].backward()
    assert all(p.grad is not None for p in system.network.parameters())
    assert all(p.grad is None for name, p in system.named_parameters() if name.startswith("target."))

    twin = build(target=target, partner="others", predictor=nn.Linear(5, 5))
    twin.load_state_dict(system.state_dict())
    z, network = embed(twin, batch["views"]), twin.network if target is None else twin.target.encoder
    partners = embed(twin, batch["views"], network)
    partners = (partners.sum(1, keepdim=True) - partners) / 2
    loss = (twin.predictor(z) - (partners if target is None else partners.detach())).square().mean()
    loss.backward()
    for ours, theirs in zip(system.parameters(), twin.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, **EXACT)


def test_encode_gives_tokens_before_projection():
    system, batch = build(), draw()
    images = batch["views"][:, 0]
    torch.testing.assert_close(system.encode(images).values, system.network.encoder(images).values)
    assert system.encoders()["target"] is system.encoders()["encoder"] is system.network.encoder
    views = system.views(batch)
    assert views.shape == (4, 3, 8)
    torch.testing.assert_close(views[1, 2], system.encode(batch["views"][1, 2:]).mean()[0], **EXACT)


@pytest.mark.parametrize("target", [None, "stop-gradient", "ema"])
def test_a_copy_shares_nothing_and_follows_itself(target):
    system = build(hidden=(6,), target=target)
    twin = copy.deepcopy(system)
    storages = [{p.data_ptr() for p in (*s.parameters(), *s.buffers())} for s in (system, twin)]
    assert not storages[0] & storages[1]
    before = {name: value.clone() for name, value in system.state_dict().items()}
    with torch.no_grad():
        for parameter in twin.network.parameters():
            parameter.mul_(2)
    twin.target.update(0.0)
    twin.step(draw())
    for name, value in system.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    followed = zip(twin.target.encoder.parameters(), twin.network.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in followed)


def test_an_average_follows_the_network_by_a_momentum_that_changes_linearly():
    """BYOL's: encoder and projector are averaged, the predictor is not."""
    system = build(target="ema", partner="others", predictor=nn.Linear(5, 5), momentum=(0.9, 1.0))
    before = {name: value.clone() for name, value in system.target.average.named_parameters()}
    assert system.after_step(0.5) == {"ema": pytest.approx(0.95)}
    for name, average in system.target.average.named_parameters():
        torch.testing.assert_close(average, 0.95 * before[name] + 0.05 * system.network.get_parameter(name), **EXACT)
    assert build(target="ema").after_step(0.5) == {}
    assert build(target="stop-gradient", momentum=(0.5, 0.5)).after_step(1.0) == {"ema": 0.5}
    with pytest.raises(UserError, match="momentum must be at least 0 and at most 1"):
        build(target="ema", momentum=(1.5, 1.5)).after_step(0.0)


def test_parameters_stand_once_and_only_weights_decay():
    system = build(hidden=(6,))
    names = [name for name, _ in system.named_parameters()]
    assert all(name.startswith("network.") for name in system.state_dict())
    decayed, plain = system.parameter_groups()
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    with_ema = build(hidden=(6,), target="ema")
    assert [len(g["params"]) for g in with_ema.parameter_groups()] == [len(decayed["params"]), len(plain["params"])]


def test_the_loss_looks_across_the_batch_and_mistakes_are_named():
    assert build().joins_batch
    with pytest.raises(UserError, match="Did you mean 'centre'"):
        build(partner="center")
    with pytest.raises(UserError, match="invariance"):
        build(invariance=-1.0)
