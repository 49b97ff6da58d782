import math

import pytest
import torch
from torch import nn

from jepakit.core.energies import Energy
from jepakit.core.latent import ContinuousLatent, DiscreteLatent, FreeEnergy, NoLatent
from jepakit.errors import UserError

WIDTH = 3


def ambiguous_pairs(count, generator):
    """y = W x + m d, with m = +-1 that x does not tell and |d| = 1."""
    w = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.8, -0.3]])
    d = torch.tensor([0.6, 0.0, 0.8])
    x = torch.randn(count, 2, generator=generator)
    m = torch.randint(0, 2, (count, 1), generator=generator) * 2.0 - 1
    return x, x @ w.T + m * d


class Additive(nn.Module):
    """Pred(s_x, z) = A s_x + b + B z."""

    def __init__(self, latent):
        super().__init__()
        self.of_x = nn.Linear(2, WIDTH)
        self.of_z = nn.Linear(latent, WIDTH, bias=False) if latent else None

    def forward(self, s_x, z):
        return self.of_x(s_x) if z is None else self.of_x(s_x) + self.of_z(z)


def trained(latent, size, steps=250):
    """The free energy of matching and of shuffled pairs, summed over dimensions, after training on it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    predictor, free = Additive(size), FreeEnergy(latent)
    optimiser = torch.optim.Adam(predictor.parameters(), lr=0.03)
    for _ in range(steps):
        x, y = ambiguous_pairs(256, generator)
        optimiser.zero_grad()
        free.energy(predictor, x, y).mean().backward()
        optimiser.step()
    x, y = ambiguous_pairs(1000, generator)
    with torch.no_grad():
        return tuple(free.energy(predictor, x, partner) * WIDTH for partner in (y, y.roll(1, dims=0)))


def below(matching, shuffled):
    return (matching < shuffled).float().mean().item()


def test_without_latent_the_energy_stays_at_the_variance_of_what_x_does_not_tell():
    matching, _ = trained(NoLatent(), 0)
    assert matching.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("beta", [None, 20.0])
def test_a_discrete_latent_absorbs_it_and_tells_matching_pairs_from_shuffled(beta):
    matching, shuffled = trained(DiscreteLatent(codes=2, beta=beta), 2)
    assert matching.abs().mean() < 0.05
    assert below(matching, shuffled) >= 0.95


def test_a_small_continuous_latent_with_a_penalty_does_too():
    matching, shuffled = trained(ContinuousLatent(dim=1, weight=0.05, steps=8), 1)
    assert matching.mean() < 0.3
    assert below(matching, shuffled) >= 0.95


def test_negative_control_a_free_latent_of_full_width_makes_the_energy_flat():
    """z carries all of y: every y fits every x, and the energy tells matching from shuffled no better than a coin."""
    matching, shuffled = trained(ContinuousLatent(dim=WIDTH, weight=0.0), WIDTH, steps=40)
    assert shuffled.mean() < 1e-6
    assert 0.3 < below(matching, shuffled) < 0.7
    penalised, apart = trained(ContinuousLatent(dim=WIDTH, weight=1.0, steps=8), WIDTH, steps=100)
    assert below(penalised, apart) >= 0.9


def linear_problem(batch=5, latent=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(WIDTH, latent, generator=generator, dtype=torch.float64)
    s_x, s_y = torch.randn(2, batch, WIDTH, generator=generator, dtype=torch.float64)
    return b, s_x, s_y, (lambda x, z: x if z is None else x + z @ b.T)


def test_l2_search_finds_the_ridge_solution():
    b, s_x, s_y, predictor = linear_problem()
    z = FreeEnergy(ContinuousLatent(dim=2, weight=0.3)).infer(predictor, s_x, s_y)
    exact = torch.linalg.solve(b.T @ b / WIDTH + 0.3 * torch.eye(2), b.T @ (s_y - s_x).T / WIDTH).T
    torch.testing.assert_close(z, exact, rtol=0, atol=1e-7)


def test_l1_search_meets_the_lasso_conditions():
    """Gradient of the energy: -weight * sign(z) where z is not 0, within +-weight where it is; some entries are 0."""
    b, s_x, s_y, predictor = linear_problem(batch=40, latent=3)
    z = FreeEnergy(ContinuousLatent(dim=3, weight=0.4, penalty="l1", steps=200)).infer(predictor, s_x, s_y)
    gradient = 2 * (s_x + z @ b.T - s_y) @ b / WIDTH
    active = z != 0
    assert 0.1 < active.double().mean() < 0.9
    torch.testing.assert_close(gradient[active], -0.4 * z[active].sign(), rtol=0, atol=1e-5)
    assert (gradient[~active].abs() <= 0.4 + 1e-9).all()


def test_z_does_not_depend_on_the_rest_of_the_batch():
    _, s_x, s_y, predictor = linear_problem(batch=6)
    free = FreeEnergy(ContinuousLatent(dim=2, weight=0.3, steps=5))
    together = free.infer(predictor, s_x, s_y)
    torch.testing.assert_close(together[2:3], free.infer(predictor, s_x[2:3], s_y[2:3]))


def test_search_never_ends_above_where_it_started():
    """Also for an energy with many valleys, where a step can go wrong."""
    s_x, s_y = torch.randn(2, 200, 4, generator=torch.Generator().manual_seed(0))

    def waves(x, z):
        return torch.sin(9 * x + 7 * z @ torch.ones(2, 4)) * 2

    free, none = FreeEnergy(ContinuousLatent(dim=2, weight=0.0, steps=10)), FreeEnergy()
    at_zero = none.energy(lambda x, _: waves(x, torch.zeros(200, 2)), s_x, s_y)
    assert (free.energy(waves, s_x, s_y) <= at_zero + 1e-6).all()


@pytest.mark.parametrize("latent", [DiscreteLatent(codes=3), ContinuousLatent(dim=3, weight=0.2), NoLatent()])
def test_gradient_is_that_of_the_energy_at_the_z_found(latent):
    torch.manual_seed(0)
    predictor, encoder = Additive(3), nn.Linear(5, 2)
    inputs, s_y = torch.randn(7, 5), torch.randn(7, WIDTH, requires_grad=True)
    free = FreeEnergy(latent)
    s_x = encoder(inputs)
    z = free.infer(predictor, s_x, s_y)
    assert all(p.grad is None for p in [*predictor.parameters(), *encoder.parameters(), s_y])
    parameters = [predictor.of_x.weight, encoder.weight, s_y]
    if z is not None:
        assert not z.requires_grad
        parameters.append(predictor.of_z.weight)
    given = (predictor(s_x, z) - s_y).square().mean()
    expected = torch.autograd.grad(given, parameters, retain_graph=True)
    got = torch.autograd.grad(free.energy(predictor, s_x, s_y).mean(), parameters)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_exact_minimum_over_codes_and_its_soft_bounds():
    torch.manual_seed(0)
    predictor = Additive(4)
    s_x, s_y = torch.randn(9, 2), torch.randn(9, WIDTH)
    each = torch.stack(
        [(predictor(s_x, torch.eye(4)[k].expand(9, -1)) - s_y).square().mean(-1) for k in range(4)], dim=1
    )
    exact = FreeEnergy(DiscreteLatent(codes=4))
    z = exact.infer(predictor, s_x, s_y)
    assert torch.equal(z.argmax(1), each.argmin(1))
    assert torch.equal(z.sum(1), torch.ones(9))
    torch.testing.assert_close(exact.energy(predictor, s_x, s_y), each.min(1).values)
    for beta in (1.0, 50.0):
        soft = FreeEnergy(DiscreteLatent(codes=4, beta=beta)).energy(predictor, s_x, s_y)
        assert (soft <= each.min(1).values + 1e-6).all()
        assert (soft >= each.min(1).values - math.log(4) / beta - 1e-6).all()
        torch.testing.assert_close(soft, -torch.logsumexp(-beta * each, 1) / beta)


def test_a_lesson_is_taught_to_the_best_code_and_a_share_of_it_to_all():
    x, y = ambiguous_pairs(7, torch.Generator().manual_seed(0))
    predictor = Additive(3)
    each = torch.stack([Energy(name="l2")(predictor(x, z.expand(7, -1)), y) for z in torch.eye(3)], 1)
    for shared, expected in ((0.0, each.amin(1)), (1.0, each.mean(1)), (0.3, 0.7 * each.amin(1) + 0.3 * each.mean(1))):
        free = FreeEnergy(DiscreteLatent(codes=3, shared=shared))
        torch.testing.assert_close(free.lesson(predictor, x, y), expected)
        torch.testing.assert_close(free.energy(predictor, x, y), each.amin(1))  # which is judged as before
    with pytest.raises(UserError, match="codes"):
        FreeEnergy(ContinuousLatent(dim=2)).lesson(predictor, x, y)


def taught(shared):
    """What two codes imagine of x > 0, where y = x and one code alone is ever the best, and of x < 0, where y = x +- 1."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    free, optimiser = FreeEnergy(DiscreteLatent(codes=2, shared=shared)), torch.optim.Adam(net.parameters(), lr=3e-3)

    def predictor(x, z):
        return net(torch.cat([x, z], 1))

    for _ in range(600):
        x = 4 * torch.rand(256, 1, generator=generator) - 2
        sign = torch.randint(0, 2, (256, 1), generator=generator) * 2.0 - 1
        y = torch.where(x < 0, x + sign, x)
        optimiser.zero_grad()
        free.lesson(predictor, x, y).mean().backward()
        optimiser.step()
    x = torch.linspace(-1.8, 1.8, 37)[:, None]
    with torch.no_grad():
        both = torch.cat([predictor(x, z.expand(37, -1)) - x for z in torch.eye(2)], 1)
    return both[x[:, 0] > 0.4], both[x[:, 0] < -0.4].sort(1).values


def test_what_z_does_not_change_all_codes_know_and_futures_come_a_little_closer():
    sure, doubtful = taught(0.3)
    assert sure.abs().amax() < 0.15
    torch.testing.assert_close(doubtful, torch.tensor([[-0.7, 0.7]]).expand_as(doubtful), atol=0.2, rtol=0)
    alone, parted = taught(0.0)
    torch.testing.assert_close(parted, torch.tensor([[-1.0, 1.0]]).expand_as(parted), atol=0.2, rtol=0)
    assert alone.abs().amin(1).amax() < 0.15
    assert alone.abs().amax() > 0.5  # the negative control: one code goes on as in the doubtful part


def test_one_z_serves_all_tokens_of_a_sample():
    free = FreeEnergy(DiscreteLatent(codes=2), Energy(name="l1"))
    s_x = torch.zeros(1, 3, 2)
    s_y = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]])

    def predictor(x, z):
        return x + (z[:, 0] - z[:, 1])[:, None, None]

    torch.testing.assert_close(free.energy(predictor, s_x, s_y), torch.tensor([2 / 3]))
    assert torch.equal(free.infer(predictor, s_x, s_y), torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("latent", [DiscreteLatent(codes=2), DiscreteLatent(codes=2, beta=9.0), ContinuousLatent(dim=2)])
def test_padding_has_no_part_in_z_nor_in_the_energy(latent):
    """A ragged batch is its samples one by one, whatever stands in the padding."""
    torch.manual_seed(0)
    free, of_z = FreeEnergy(latent), nn.Linear(2, WIDTH).double()
    s_x, s_y = torch.randn(2, 4, 3, WIDTH, dtype=torch.float64)
    lengths = torch.tensor([3, 1, 2, 0])
    valid = torch.arange(3) < lengths[:, None]
    s_y[~valid] = 1e6

    def predictor(x, z):
        return x + of_z(z)[:, None]

    together = free.energy(predictor, s_x, s_y, valid)
    for i, length in enumerate(lengths[:3]):
        alone = free.energy(predictor, s_x[i : i + 1, :length], s_y[i : i + 1, :length])
        torch.testing.assert_close(together[i : i + 1], alone)
    assert torch.isfinite(together).all()


def test_one_context_may_serve_several_targets_each_with_its_z():
    context, targets = torch.zeros(1, WIDTH), torch.tensor([[1.0] * WIDTH, [-1.0] * WIDTH, [0.9] * WIDTH])

    def predictor(x, z):
        return x + (z[:, :1] - z[:, 1:])

    z = FreeEnergy(DiscreteLatent(codes=2)).infer(predictor, context, targets)
    assert z.argmax(1).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("latent", "option"),
    [
        (lambda: DiscreteLatent(codes=1), "latent.codes"),
        (lambda: DiscreteLatent(codes=2, beta=0.0), "latent.beta"),
        (lambda: ContinuousLatent(dim=0), "latent.dim"),
        (lambda: ContinuousLatent(dim=1, weight=-1.0), "latent.weight"),
        (lambda: ContinuousLatent(dim=1, steps=0), "latent.steps"),
        (lambda: ContinuousLatent(dim=1, penalty="l3"), "latent.penalty"),
    ],
)
def test_mistakes_in_options(latent, option):
    with pytest.raises(UserError, match=option):
        latent()


def test_futures_of_a_code_are_all_codes_and_those_of_numbers_follow_the_prior_that_the_penalty_implies():
    """Normal for the sum of squares, Laplace (kurtosis 6) for that of absolute values, of the given root mean square."""
    assert torch.equal(DiscreteLatent(codes=3).draw(16), torch.eye(3))
    scale = torch.tensor([0.5, 2.0])
    for penalty, kurtosis in (("l2", 3.0), ("l1", 6.0)):
        latent = ContinuousLatent(dim=2, penalty=penalty)
        drawn = latent.draw(200_000, seed=1, scale=scale)
        size = drawn.square().mean(0).sqrt()
        torch.testing.assert_close(size, scale, rtol=0.02, atol=0)
        torch.testing.assert_close((drawn / size).pow(4).mean(0), torch.full((2,), kurtosis), rtol=0.05, atol=0)
        torch.testing.assert_close(drawn.mean(0), torch.zeros(2), atol=0.02, rtol=0)
        assert torch.equal(latent.draw(4, seed=2), latent.draw(4, seed=2))
        assert not torch.equal(latent.draw(4, seed=2), latent.draw(4, seed=3))
        assert torch.equal(latent.guess(), torch.zeros(2))


@pytest.mark.parametrize("latent", [NoLatent(), DiscreteLatent(codes=2), ContinuousLatent(dim=2, weight=0.1)])
def test_the_energy_at_the_z_found_is_the_free_energy(latent):
    torch.manual_seed(0)
    size = {NoLatent: 0}.get(type(latent), 2)
    x, y = ambiguous_pairs(20, torch.Generator().manual_seed(0))
    predictor, free = Additive(size), FreeEnergy(latent)
    z = free.infer(predictor, x, y)
    torch.testing.assert_close(free.energy_at(predictor, x, y, z), free.energy(predictor, x, y))
    if z is not None:
        other = free.energy_at(predictor, x, y, z.roll(1, dims=1) + 0.1 * isinstance(latent, ContinuousLatent))
        assert (other >= free.energy(predictor, x, y) - 1e-6).all()
