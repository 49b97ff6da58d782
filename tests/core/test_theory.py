"""What the field teaches about collapse and about what is learned, on linear networks where the answer is known.

Two views of a signal x with variances `SIGNAL` along six axes, each with its own isotropic noise. The batch is built so
that its second moments are *exactly* those of the population, and linear networks with a squared energy see nothing
else: closed forms hold to the accuracy of the optimisation. Collapse and survival follow Tian, Chen and Ganguli (ICML
2021, arXiv 2102.06810), canonical directions Balestriero and LeCun (NeurIPS 2022, arXiv 2205.11508).
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from jepakit.core.anticollapse import BarlowTwinsConfig, SIGRegConfig, VICRegConfig, make_anticollapse
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.latent import DiscreteLatent, FreeEnergy
from jepakit.core.targets import make_target

SIGNAL = torch.tensor([1.0, 0.7, 0.4, 0.05, 0.02, 0.01], dtype=torch.float64)
NOISE = 0.3
RATE = 0.1


def exact_columns(batch, columns, seed=0):
    """`[batch, columns]` of mean 0, unit variance and no correlation at all (divisor batch - 1)."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(batch, columns + 1, generator=generator, dtype=torch.float64)
    raw[:, 0] = 1
    return torch.linalg.qr(raw).Q[:, 1:] * math.sqrt(batch - 1)


def two_views():
    signal, first, second = exact_columns(64, 18).split(6, dim=1)
    signal = signal * SIGNAL.sqrt()
    return signal + math.sqrt(NOISE) * first, signal + math.sqrt(NOISE) * second


def linear(inputs, outputs, seed=0):
    layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
    nn.init.normal_(layer.weight, std=inputs**-0.5, generator=torch.Generator().manual_seed(seed))
    return layer


def train(kind, *, predictor, steps=1500, momentum=0.0, weight_decay=0.0, width=4, seed=0):
    """Gradient descent on half the squared distance of each view's prediction from the other's target, both ways."""
    encoder = linear(6, width, seed)
    head = nn.Identity()
    if predictor:
        head = linear(width, width)
        nn.init.eye_(head.weight)
    target = make_target(kind, encoder)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=RATE, weight_decay=weight_decay)
    a, b = two_views()
    energy = Energy(name="l2")
    for _ in range(steps):
        optimiser.zero_grad()
        there, back = energy(head(encoder(a)), target(b)), energy(head(encoder(b)), target(a))
        (width / 2 * (mean_over_tokens(there) + mean_over_tokens(back))).backward()
        optimiser.step()
        target.update(momentum)
    return encoder.weight.detach(), head.weight.detach() if predictor else torch.eye(width, dtype=torch.float64)


def angle_to_top_axes(weight, count):
    """Largest angle in degrees between the strongest `count` directions an encoder reads and the signal's."""
    rows = torch.linalg.svd(weight).Vh[:count].T.numpy()
    return math.degrees(scipy.linalg.subspace_angles(rows, np.eye(6)[:, :count]).max())


# --- targets: who collapses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("predictor", [False, True])
def test_a_shared_target_with_gradient_collapses(predictor):
    weight, _ = train("shared", predictor=predictor, steps=600)
    assert weight.norm() < 1e-6


def test_stop_gradient_without_predictor_collapses_blind_to_the_signal():
    """The pull is the noise covariance alone: every direction shrinks at the same rate, whatever it holds."""
    start, steps = linear(6, 4).weight.detach(), 50
    weight, _ = train("stop-gradient", predictor=False, steps=steps)
    scale = 64 - 1  # sums over the batch divide by 64, its moments by 63
    torch.testing.assert_close(weight, (1 - 2 * RATE * NOISE * scale / 64) ** steps * start)
    assert train("stop-gradient", predictor=False, steps=1000)[0].norm() < 1e-6


def survivors(weight_decay):
    """Strengths at which encoder and predictor hold each axis of the signal, from the balanced fixed point
    s p - p^2 (s + noise) = decay, per side; 0 where it has no real solution: the axis is forgotten."""
    moments, decay = 63 / 64, weight_decay / 2  # both directions are summed, the decay counts once
    s, total = SIGNAL * moments, (SIGNAL + NOISE) * moments
    root = s**2 - 4 * decay * total
    return torch.where(root > 0, (s + root.clamp_min(0).sqrt()) / (2 * total), 0)


def test_stop_gradient_with_predictor_and_weight_decay_learns_the_strong_axes():
    """Those, and only those, whose signal beats the decay: s^2 > 4 decay (s + noise); at the strength foretold."""
    expected = survivors(0.01)[:4]
    assert (expected > 0).tolist() == [True, True, True, False]
    weight, head = train("stop-gradient", predictor=True, weight_decay=0.01, steps=3000)
    strengths = torch.linalg.svdvals(weight)
    torch.testing.assert_close(strengths, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(torch.linalg.svdvals(head)[:3], expected[:3], atol=2e-3, rtol=0)
    assert angle_to_top_axes(weight, 3) < 1


def test_too_much_weight_decay_collapses_it_again():
    assert (survivors(0.6) == 0).all()
    weight, _ = train("stop-gradient", predictor=True, weight_decay=0.6, steps=400)
    assert weight.norm() < 1e-3


def test_momentum_zero_is_stop_gradient_step_for_step():
    options = {"predictor": True, "weight_decay": 0.01, "steps": 200}
    for a, b in zip(train("ema", momentum=0.0, **options), train("stop-gradient", **options), strict=True):
        assert torch.equal(a, b)


def test_an_ema_target_learns_with_a_predictor_and_collapses_without():
    expected = survivors(0.01)[:4]
    weight, _ = train("ema", momentum=0.98, predictor=True, weight_decay=0.01, steps=3000)
    torch.testing.assert_close(torch.linalg.svdvals(weight), expected, atol=2e-3, rtol=0)
    assert angle_to_top_axes(weight, 3) < 1
    alone, _ = train("ema", momentum=0.98, predictor=False, steps=2000)
    assert alone.norm() < 1e-3


@pytest.mark.parametrize("predictor", [False, True])
def test_momentum_one_regresses_random_features(predictor):
    """The target never moves: no collapse, and no learning of what is strong, only of what the random encoder reads."""
    start = linear(6, 2).weight.detach()
    weight, head = train("ema", momentum=1.0, predictor=predictor, width=2, steps=1000)
    expected = start * (SIGNAL / (SIGNAL + NOISE))  # least squares of start @ x' from x
    torch.testing.assert_close(head @ weight, expected, atol=1e-9, rtol=0)
    assert torch.linalg.svdvals(weight)[-1] > 0.1
    learned, _ = train("stop-gradient", predictor=True, weight_decay=0.01, width=2, steps=1000)
    assert angle_to_top_axes(learned, 2) < 1
    assert angle_to_top_axes(weight, 2) > 30


# --- anti-collapse: what is learned ---------------------------------------------------------------------------------

METHODS = {
    "vicreg": VICRegConfig(),
    "barlow": BarlowTwinsConfig(redundancy=1.0),
    "sigreg": SIGRegConfig(weight=20.0, slices=8),
}


def descend(config, views, outputs, steps=200, seed=0):
    """A linear encoder shared by both views, under the method (and the mean square between views where it has none)."""
    encoder = linear(views[0].shape[1], outputs, seed)
    method = make_anticollapse(config)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        embedded = torch.stack([encoder(view) for view in views])
        loss = method(embedded, step)["loss"]
        if not method.aligns_views:
            loss = loss + (embedded[0] - embedded[1]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return encoder


def canonical_directions(views, count):
    """Directions that the views agree on most, `[inputs, count]`: C w = rho S w with the views' covariances."""
    a, b = (view.numpy() - view.numpy().mean(0) for view in views)
    agreement, spread = (a.T @ b + b.T @ a) / 2, (a.T @ a + b.T @ b) / 2
    return scipy.linalg.eigh(agreement, spread)[1][:, ::-1][:, :count]


def angle(encoder, directions):
    return math.degrees(scipy.linalg.subspace_angles(encoder.weight.detach().numpy().T, directions).max())


def halves_of_a_stationary_signal(samples=3000, sensors=12):
    """A signal on a ring of sensors, of which the context sees a random half and the target is the other half.

    Stationary, so its principal components are waves; its covariance has the diagonal 1, so hiding sensors at random
    leaves their order: the wave of variance v has the canonical correlation (v - 1) / (v + 1).
    """
    frequency = torch.fft.fftfreq(sensors, 1 / sensors, dtype=torch.float64).abs()
    variance = torch.where(frequency == 0, 4.0, torch.where(frequency == 1, 2.5, 0.0)) + (3 / 12)
    angles = 2 * math.pi * torch.outer(torch.arange(sensors), torch.fft.fftfreq(sensors, 1 / sensors)) / sensors
    waves = (angles.cos() + angles.sin()).double() / sensors**0.5  # Hartley's, an orthonormal basis
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, sensors, generator=generator, dtype=torch.float64) * variance.sqrt() @ waves.T
    visible = torch.rand(samples, sensors, generator=generator) < 0.5
    return (x * visible, x * ~visible), waves[:, frequency <= 1].numpy()


@pytest.mark.parametrize("name", METHODS)
def test_the_masked_linear_jepa_finds_the_top_principal_components(name):
    views, top = halves_of_a_stationary_signal()
    encoder = descend(METHODS[name], views, outputs=3)
    assert angle(encoder, canonical_directions(views, 3)) < 3
    assert angle(encoder, top) < 8
    random = linear(12, 3, seed=1)
    assert angle(random, top) > 45


@pytest.mark.parametrize("name", METHODS)
def test_the_paired_linear_jepa_prefers_what_the_views_share_to_what_is_large(name):
    """Axis 0 is the largest, but each view has its own: canonical directions are learned, not principal components."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.tensor([0.5, 1.5, 1.2, 0.3, 0.2], dtype=torch.float64).sqrt()
    own = torch.tensor([4.0, 0.2, 0.2, 0.5, 0.5], dtype=torch.float64).sqrt()
    x, *noise = torch.randn(3, 2000, 5, generator=generator, dtype=torch.float64)
    views = tuple(x * shared + e * own for e in noise)
    encoder = descend(METHODS[name], views, outputs=2)
    assert angle(encoder, canonical_directions(views, 2)) < 4
    assert angle(encoder, np.eye(5)[:, 1:3]) < 8
    largest = np.linalg.eigh(np.cov(views[0].numpy().T))[1][:, -2:]
    assert angle(encoder, largest) > 60


def test_without_the_method_the_same_encoder_collapses():
    views, _ = halves_of_a_stationary_signal(samples=500)
    encoder = descend(VICRegConfig(variance=0.0, covariance=0.0), views, outputs=3)
    assert encoder.weight.norm() < 1e-3


# --- energy ---------------------------------------------------------------------------------------------------------


def test_a_trained_jepa_gives_matching_pairs_the_lower_free_energy():
    """Encoders, predictor and a two-valued z trained together (criteria 1 to 4 of LeCun 2022), on held-out pairs."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 4, generator=generator)
    jump = torch.randn(6, generator=generator) * 1.5

    def pairs(count):
        x = torch.randn(count, 4, generator=generator)
        sign = torch.randint(0, 2, (count, 1), generator=generator) * 2.0 - 1
        return x, x @ mixing.T + sign * jump + 0.1 * torch.randn(count, 6, generator=generator)

    torch.manual_seed(0)
    of_x, of_y = nn.Linear(4, 4), nn.Linear(6, 5)
    from_x, from_z = nn.Linear(4, 5), nn.Linear(2, 5, bias=False)
    free = FreeEnergy(DiscreteLatent(codes=2))

    def predictor(s_x, z):
        return from_x(s_x) + from_z(z)

    regulariser = make_anticollapse("vicreg")
    modules = nn.ModuleList([of_x, of_y, from_x, from_z])
    untrained = copy.deepcopy(modules.state_dict())
    optimiser = torch.optim.Adam(modules.parameters(), lr=0.02)
    for step in range(400):
        x, y = pairs(256)
        s_x, s_y = of_x(x), of_y(y)
        spread = regulariser(s_x[None], step)["loss"] + regulariser(s_y[None], step)["loss"]
        optimiser.zero_grad()
        (25 * free.energy(predictor, s_x, s_y).mean() + spread).backward()
        optimiser.step()
    x, y = pairs(2000)

    @torch.no_grad()
    def share_below():
        matching, shuffled = (free.energy(predictor, of_x(x), of_y(partner)) for partner in (y, y.roll(1, dims=0)))
        return (matching < shuffled).float().mean().item()

    assert share_below() >= 0.95
    modules.load_state_dict(untrained)
    assert share_below() < 0.8
