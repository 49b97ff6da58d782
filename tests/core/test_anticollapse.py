import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import logsumexp

from jepakit.core.anticollapse import (
    CONFIGS,
    BarlowTwinsConfig,
    InfoNCEConfig,
    SIGReg,
    SIGRegConfig,
    VICReg,
    VICRegConfig,
    draw_directions,
    epps_pulley,
    make_anticollapse,
)
from jepakit.errors import UserError

METHODS = list(CONFIGS)


def embeddings(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def correlated_views(views=3, batch=12, dim=5, seed=0):
    common = embeddings(1, batch, dim, seed=seed)
    return (common + 0.4 * embeddings(views, batch, dim, seed=seed + 1)) * torch.linspace(0.5, 1.5, dim) + 0.3


# --- every method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_gradients(name):
    method = make_anticollapse(name)
    views = correlated_views(views=3, batch=6, dim=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: method(v, 0)["loss"], (views,))


@pytest.mark.parametrize("name", METHODS)
def test_float32_agrees_with_float64_and_autocast_changes_nothing(name):
    method = make_anticollapse(name)
    views = correlated_views(batch=256, dim=16)
    exact, single = method(views, 3)["loss"], method(views.float(), 3)["loss"]
    torch.testing.assert_close(single.double(), exact, rtol=2e-5, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        cast = method(views.float(), 3)["loss"]
        low = method(views.bfloat16(), 3)["loss"]
    assert cast == single
    assert low.dtype == torch.float32
    assert low == method(views.bfloat16().float(), 3)["loss"]


@pytest.mark.parametrize("name", METHODS)
def test_does_not_depend_on_the_order_of_samples_or_views(name):
    method = make_anticollapse(name)
    views = correlated_views()
    shuffled = views[[2, 0, 1]][:, torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(method(shuffled, 0)["loss"], method(views, 0)["loss"])


@pytest.mark.parametrize("name", METHODS)
def test_mistakes_in_the_input_are_named(name):
    method = make_anticollapse(name)
    with pytest.raises(UserError, match="at least 2 samples, got 1"):
        method(torch.zeros(2, 1, 4), 0)
    broken = torch.zeros(2, 8, 4)
    broken[1, 2, 3] = float("nan")
    with pytest.raises(UserError, match="NaN or infinity at step 7"):
        method(broken, 7)


@pytest.mark.parametrize("name", ["barlow", "infonce"])
def test_one_view_is_not_enough(name):
    with pytest.raises(UserError, match="at least 2, got 1"):
        make_anticollapse(name)(torch.zeros(1, 8, 4), 0)


def test_choice_by_name_or_config():
    assert make_anticollapse("none") is None
    assert make_anticollapse(SIGRegConfig(weight=3.0), seed=5).config.weight == 3.0
    with pytest.raises(UserError, match="Did you mean 'vicreg'"):
        make_anticollapse("vicregg")


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (lambda: SIGRegConfig(convention="papers"), "sigreg.convention"),
        (lambda: SIGRegConfig(weight=-1.0), "sigreg.weight"),
        (lambda: SIGRegConfig(slices=0), "sigreg.slices"),
        (lambda: SIGRegConfig(knots=1), "sigreg.knots"),
        (lambda: SIGRegConfig(t_max=0.0), "sigreg.t_max"),
        (lambda: VICRegConfig(covariance=-1.0), "vicreg.covariance"),
        (lambda: BarlowTwinsConfig(redundancy=-1.0), "barlow.redundancy"),
        (lambda: BarlowTwinsConfig(weight=float("nan")), "barlow.weight"),
        (lambda: InfoNCEConfig(temperature=0.0), "infonce.temperature"),
        (lambda: InfoNCEConfig(weight=-1.0), "infonce.weight"),
    ],
)
def test_mistakes_in_options(config, option):
    with pytest.raises(UserError, match=option):
        config()


# --- SIGReg ---------------------------------------------------------------------------------------------------------


def sigreg_value(views, slices=128, step=0):
    return float(SIGReg(SIGRegConfig(slices=slices))(views, step)["sigreg"])


def epps_pulley_reference(samples, t):
    """|empirical - Gaussian characteristic function|^2 times the window, of one column of numbers."""
    return np.exp(-(t**2) / 2) * np.abs(np.exp(1j * t * samples).mean() - np.exp(-(t**2) / 2)) ** 2


def test_sigreg_against_the_definition():
    """33 knots on [-3, 3] written out, for both views; and the integral itself by adaptive quadrature."""
    views = correlated_views(views=2, batch=20, dim=4)
    config = SIGRegConfig(slices=7, weight=0.05, convention="paper")
    directions = draw_directions(4, 7, seed=9, step=3).double()
    directions = (directions / directions.norm(dim=0)).numpy()
    knots = np.linspace(-3, 3, 33)
    trapezoid, integral = [], []
    for view in views.numpy():
        for column in (view @ directions).T:
            trapezoid.append(20 * np.trapezoid([epps_pulley_reference(column, t) for t in knots], knots))
            integral.append(20 * quad(lambda t, column=column: epps_pulley_reference(column, t), -3, 3)[0])
    terms = SIGReg(config, seed=9)(views, 3)
    np.testing.assert_allclose(terms["sigreg"], np.mean(trapezoid), rtol=1e-7)  # directions are drawn in float32
    np.testing.assert_allclose(terms["loss"], 0.05 * np.mean(trapezoid), rtol=1e-7)
    np.testing.assert_allclose(terms["sigreg"], np.mean(integral), rtol=1e-2)


def test_statistic_on_the_whole_line_has_a_closed_form():
    """With many knots far out it is the test of Baringhaus and Henze (1988): sums of Gaussian kernels over pairs."""
    s = embeddings(40, 1, seed=3) * 1.3 + 0.2
    pairs = np.exp(-((s - s.T).numpy() ** 2) / 2).mean()
    closed = math.sqrt(2 * math.pi) * pairs - 2 * math.sqrt(math.pi) * np.exp(-(s.numpy() ** 2) / 4).mean()
    closed += math.sqrt(2 * math.pi / 3)
    np.testing.assert_allclose(epps_pulley(s, knots=201, t_max=8.0).item(), closed, rtol=1e-9)


@pytest.mark.parametrize(("batch", "dim"), [(64, 8), (64, 64), (1024, 8)])
def test_gaussian_floor_at_any_batch_size(batch, dim):
    values = [sigreg_value(embeddings(2, batch, dim, seed=seed), step=seed) for seed in range(4)]
    assert np.mean(values) == pytest.approx(SIGReg(SIGRegConfig()).floor, abs=0.15)


def test_floor_and_ceiling_are_the_published_ones():
    """Floor sqrt(2 pi) - sqrt(2 pi / 3) = 1.059 on the whole line; 0.402 a sample when all embeddings are 0."""
    wide = SIGReg(SIGRegConfig(knots=201, t_max=8.0))
    assert wide.floor == pytest.approx(math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3), rel=1e-9)
    sigreg = SIGReg(SIGRegConfig())
    assert sigreg.floor == pytest.approx(1.059, abs=0.01)
    for batch, published in [(32, 12.9), (128, 51.5), (512, 205.8)]:
        assert sigreg_value(torch.zeros(2, batch, 8)) == pytest.approx(published, abs=0.06)
        assert sigreg.ceiling(batch) == pytest.approx(sigreg_value(torch.zeros(1, batch, 8)), rel=1e-5)


def population_value(std, mean, directions, batch):
    """Expected statistic of Gaussian embeddings: N times the distance of characteristic functions, and the bias."""
    t = np.linspace(-3, 3, 33)
    projected_std = np.sqrt(((directions.T @ std) ** 2).sum(1))[:, None]
    phi = np.exp(1j * t * (directions.T @ mean)[:, None] - (projected_std * t) ** 2 / 2)
    window = np.exp(-(t**2) / 2)
    distance = np.trapezoid(window * np.abs(phi - window) ** 2, t)
    bias = np.trapezoid(window * (1 - np.abs(phi) ** 2), t)
    return (batch * distance + bias).mean()


@pytest.mark.parametrize(
    ("std", "mean", "published"),
    [
        (np.eye(8) * 0.5, np.zeros(8), (39, 0.08)),
        (np.eye(8) * 2, np.zeros(8), (62, 0.08)),
        (np.outer(np.ones(8), np.eye(8)[0]), np.zeros(8), (40, 0.2)),
        (np.eye(8), np.ones(8), (107, 0.1)),
    ],
    ids=["std 0.5", "std 2", "rank 1", "mean + 1"],
)
def test_sick_embeddings_score_what_theory_and_the_published_table_say(std, mean, published):
    batch, slices = 256, 256
    views = embeddings(4, batch, 8, seed=2) @ torch.tensor(std).T + torch.tensor(mean)
    value = sigreg_value(views, slices)
    directions = draw_directions(8, slices, seed=0, step=0).double().numpy()
    assert value == pytest.approx(population_value(std, mean, directions, batch), rel=0.1)
    assert value == pytest.approx(published[0], rel=published[1])


def test_directions_are_unit_and_redrawn_from_seed_and_step():
    first = draw_directions(16, 32, seed=1, step=5)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(32))
    assert torch.equal(first, draw_directions(16, 32, seed=1, step=5))
    for seed, step in [(1, 6), (2, 5)]:
        assert (first - draw_directions(16, 32, seed=seed, step=step)).abs().max() > 0.1
    views = correlated_views()
    method = SIGReg(SIGRegConfig(slices=4), seed=1)
    assert method(views, 0)["loss"] == method(views, 0)["loss"]
    assert method(views, 0)["loss"] != method(views, 1)["loss"]


def scale_gradient(config, batch, repeats):
    """d loss / d scale of embeddings scale * (exponential - 1) / 2: far from Gaussian, and the same at any N."""
    generator = torch.Generator().manual_seed(batch)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    total = 0.0
    for step in range(repeats):
        sample = torch.empty(1, batch, 8, dtype=torch.float64).exponential_(generator=generator) - 1
        total += torch.autograd.grad(make_anticollapse(config)(scale * sample / 2, step)["loss"], scale)[0].item()
    return total / repeats


def test_weight_means_the_same_at_any_batch_size_unless_it_is_the_papers():
    per_sample = SIGRegConfig(slices=32)
    small, large = scale_gradient(per_sample, 128, 64), scale_gradient(per_sample, 1024, 8)
    assert large < -0.1
    assert small == pytest.approx(large, rel=0.06)
    paper = SIGRegConfig(slices=32, convention="paper", weight=0.02)
    assert scale_gradient(paper, 1024, 8) / scale_gradient(paper, 128, 64) == pytest.approx(8, rel=0.06)


def test_conversion_from_the_papers_lambda():
    """(1 - lambda) inv + lambda T and inv + w T / N differ by a factor when lambda / (1 - lambda) = w / N."""
    views, batch, weight = correlated_views(batch=64), 64, 0.05
    invariance = (views - views.mean(0)).square().mean()
    w = batch * weight / (1 - weight)
    papers = make_anticollapse(SIGRegConfig(convention="paper", weight=weight))
    paper = (1 - weight) * invariance + papers(views, 0)["loss"]
    ours = invariance + make_anticollapse(SIGRegConfig(weight=w))(views, 0)["loss"]
    torch.testing.assert_close(paper, (1 - weight) * ours)


def test_sigreg_opens_a_collapsed_cloud():
    points = (0.05 * embeddings(1, 128, 4, dtype=torch.float32)).requires_grad_()
    method, optimiser = SIGReg(SIGRegConfig(slices=32)), torch.optim.Adam([points], lr=0.05)
    before = sigreg_value(points.detach())
    for step in range(150):
        optimiser.zero_grad()
        method(points, step)["loss"].backward()
        optimiser.step()
    assert before > 40
    assert sigreg_value(points.detach(), step=10_000) < 1.2
    torch.testing.assert_close(torch.cov(points.detach()[0].T), torch.eye(4), atol=0.15, rtol=0)


# --- VICReg ---------------------------------------------------------------------------------------------------------


def vicreg_reference(a, b):
    """The paper's algorithm 1 for one pair of branches, without weights."""
    terms = {"invariance": ((a - b) ** 2).mean(), "variance": 0.0, "covariance": 0.0}
    for z in (a, b):
        terms["variance"] += np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4)).mean()
        cov = np.cov(z.T)
        terms["covariance"] += (cov**2).sum() / len(cov) - (np.diag(cov) ** 2).sum() / len(cov)
    return terms


@pytest.mark.parametrize("number", [2, 4])
def test_vicreg_is_the_papers_pair_loss_over_all_pairs(number):
    views = correlated_views(views=number)
    pairs = [vicreg_reference(a, b) for a, b in combinations(views.numpy(), 2)]
    terms = make_anticollapse("vicreg")(views, 0)
    for name in ("invariance", "variance", "covariance"):
        np.testing.assert_allclose(terms[name], np.mean([pair[name] for pair in pairs]), rtol=1e-10)
    total = 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]
    torch.testing.assert_close(terms["loss"], total)


def test_vicreg_of_one_view_is_its_variance_and_covariance():
    views = correlated_views(views=2)
    alone = [VICReg(VICRegConfig())(views[i : i + 1], 0) for i in range(2)]
    both = VICReg(VICRegConfig())(views, 0)
    assert "invariance" not in alone[0]
    for name in ("variance", "covariance"):
        torch.testing.assert_close(alone[0][name] + alone[1][name], both[name])
    torch.testing.assert_close(alone[0]["loss"], 25 * alone[0]["variance"] + alone[0]["covariance"])


def test_vicreg_weights_do_not_grow_with_the_batch():
    """The noise floor of the covariance term is (dim - 1) / (N - 1); a real correlation adds the same at any N."""
    for batch, repeats in [(32, 60), (256, 20)]:
        white = [VICReg(VICRegConfig())(embeddings(1, batch, 8, seed=s), 0)["covariance"] for s in range(repeats)]
        assert float(torch.stack(white).mean()) == pytest.approx(7 / (batch - 1), rel=0.15)
        twins = [embeddings(1, batch, 1, seed=s).expand(-1, -1, 8) for s in range(repeats)]
        copied = torch.stack([VICReg(VICRegConfig())(z, 0)["covariance"] for z in twins]).mean()
        assert float(copied) == pytest.approx(7 * (1 + 2 / (batch - 1)), rel=0.2)  # E[var^2] = 1 + 2 / (N - 1)


# --- Barlow Twins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 3])
def test_barlow_twins_against_numpy(number):
    views = correlated_views(views=number)
    diagonals, off_diagonals = [], []
    for a, b in combinations(views.numpy(), 2):
        a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (a, b))
        c = a.T @ b / len(a)
        diagonals.append(((1 - np.diag(c)) ** 2).sum())
        off_diagonals.append((c**2).sum() - (np.diag(c) ** 2).sum())
    terms = make_anticollapse(BarlowTwinsConfig(redundancy=0.02, weight=3.0))(views, 0)
    np.testing.assert_allclose(terms["diagonal"], np.mean(diagonals), rtol=1e-10)
    np.testing.assert_allclose(terms["off_diagonal"], np.mean(off_diagonals), rtol=1e-10)
    np.testing.assert_allclose(terms["loss"], 3 * (np.mean(diagonals) + 0.02 * np.mean(off_diagonals)), rtol=1e-10)


def test_barlow_twins_noise_floor_falls_with_the_batch():
    for batch in (64, 512):
        terms = [make_anticollapse("barlow")(embeddings(2, batch, 8, seed=s), 0) for s in range(20)]
        floor = float(torch.stack([t["off_diagonal"] for t in terms]).mean())
        assert floor == pytest.approx(8 * 7 / batch, rel=0.15)


# --- InfoNCE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 3])
def test_infonce_against_numpy(number):
    views = correlated_views(views=number)
    losses = []
    for a, b in permutations(views.numpy(), 2):
        a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
        logits = a @ b.T / 0.1
        losses.append((logsumexp(logits, axis=1) - np.diag(logits)).mean())
    terms = make_anticollapse(InfoNCEConfig(temperature=0.1, weight=2.0))(views, 0)
    np.testing.assert_allclose(terms["infonce"], np.mean(losses), rtol=1e-10)
    np.testing.assert_allclose(terms["loss"], 2 * np.mean(losses), rtol=1e-10)


def test_infonce_costs_log_n_when_collapsed_and_has_a_floor():
    """The number of negatives is part of the objective: log N for constants, log(1 + (N - 1) exp(-2 / t)) at best."""
    for batch in (2, 64, 256):
        collapsed = make_anticollapse("infonce")(torch.ones(2, batch, 8, dtype=torch.float64), 0)["loss"]
        assert float(collapsed) == pytest.approx(math.log(batch))
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64).expand(2, 2, 2)
    best = make_anticollapse(InfoNCEConfig(temperature=0.5))(opposite, 0)["loss"]
    assert float(best) == pytest.approx(math.log(1 + math.exp(-4)))
