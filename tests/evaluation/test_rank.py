import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.evaluation.rank import (
    alpha_req,
    lidar,
    mean_correlation,
    mean_cosine,
    normalised_std,
    rankme,
)

P, N, Q = 64, 1000, 50


def views(signal_std, noise_std, n=N, q=Q, seed=0):
    """[n, q, P]: a sample's own part (std per dimension) plus noise of each view (std per dimension)."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=(n, 1, P)) * signal_std
    return signal + generator.normal(size=(n, q, P)) * noise_std


def living(r, std):
    return np.where(np.arange(P) < r, std, 0.0)


# values measured once for the specification of the metric, with another implementation
@pytest.mark.parametrize(
    ("r", "expected_lidar", "expected_rankme"), [(1, 1.02, 30.6), (4, 4.01, 18.7), (16, 15.9, 23.9), (64, 62.0, 63.5)]
)
def test_lidar_and_rankme_anchors(r, expected_lidar, expected_rankme):
    e = views(living(r, 3.0), 0.1)
    found = lidar(e)
    assert found.value == pytest.approx(expected_lidar, rel=0.02)
    assert rankme(e[:, 0]) == pytest.approx(expected_rankme, rel=0.03)
    assert (found.n, found.q, found.noise) == (N, Q, False)


@pytest.mark.parametrize(("n", "q", "expected"), [(200, 10, 4.07), (500, 10, 4.13), (1000, 10, 4.14), (1000, 50, 4.03)])
def test_lidar_sees_through_nuisance_that_rankme_counts(n, q, expected):
    e = views(living(4, 3.0), np.where(np.arange(P) < 4, 0.1, 3.0), n, q)
    assert lidar(e).value == pytest.approx(expected, rel=0.03)
    assert rankme(e[:, 0]) > 55


def test_lidar_flags_pure_noise_whose_value_is_maximal():
    found = lidar(views(0.0, 1.0))
    assert found.value == pytest.approx(61.9, rel=0.02)
    assert found.noise
    assert 1 / Q < found.top < 5 / Q  # the largest direction of noise stands above the mean, 1 / q


def test_lidar_equals_the_definition():
    generator = np.random.default_rng(3)
    e = generator.normal(size=(30, 1, 6)) @ generator.normal(size=(6, 6)) + generator.normal(size=(30, 4, 6))
    mu = e.mean(1)
    s_b = sum(np.outer(m - mu.mean(0), m - mu.mean(0)) for m in mu) / 29
    s_w = sum(np.outer(v - m, v - m) for rows, m in zip(e, mu, strict=True) for v in rows) / (30 * 3) + 1e-4 * np.eye(6)
    half = scipy.linalg.inv(scipy.linalg.sqrtm(s_w))
    p = np.linalg.eigvalsh(half @ s_b @ half)
    top, p = p[-1], p / p.sum() + 1e-8
    assert lidar(e).value == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-9)
    assert lidar(e).top == pytest.approx(top, rel=1e-9)


def test_rankme_equals_the_definition():
    z = np.random.default_rng(0).normal(size=(50, 7)) * np.arange(1, 8)
    s = np.linalg.svd(z, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert rankme(z) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)


@pytest.mark.parametrize("r", [1, 3, 16, 32])
def test_an_isotropic_embedding_of_r_directions_has_rank_r(r):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0][:, :r]
    orthonormal = np.linalg.qr(np.random.default_rng(1).normal(size=(400, r)))[0]
    z = orthonormal @ basis.T
    assert rankme(z) == pytest.approx(r, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_spectral_measures_ignore_order_rotation_and_scale(seed, scale):
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(40, 6)) * generator.uniform(0.2, 2, size=6) + generator.normal(size=6)
    turned = scale * z[generator.permutation(40)] @ np.linalg.qr(generator.normal(size=(6, 6)))[0]
    for measure in (rankme, lambda e: rankme(e, centre=True), lambda e: alpha_req(e).alpha, mean_cosine):
        assert measure(turned) == pytest.approx(measure(z), rel=1e-6, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_lidar_ignores_any_invertible_map_of_the_embedding(seed):
    generator = np.random.default_rng(seed)
    e = 3 * generator.normal(size=(60, 1, 4)) + generator.normal(size=(60, 5, 4))
    turns = [np.linalg.qr(generator.normal(size=(4, 4)))[0] for _ in range(2)]
    mapped = e @ turns[0] * generator.uniform(0.3, 3, size=4) @ turns[1]
    assert lidar(mapped, delta=1e-12).value == pytest.approx(lidar(e, delta=1e-12).value, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_of_a_power_law_spectrum_is_its_exponent(alpha):
    u = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 33)))[0]
    u = np.linalg.qr(u - u.mean(0))[0][:, :32]  # centred and orthonormal: the covariance spectrum is what we set
    u -= u.mean(0)
    found = alpha_req(u * np.arange(1, 33.0) ** (-alpha / 2))
    assert found.alpha == pytest.approx(alpha, rel=0.03)
    assert found.fit > 0.99
    assert (found.first, found.last) == (2, 32)


def test_alpha_of_two_directions_is_infinite():
    z = np.zeros((50, 8))
    z[:, :2] = np.random.default_rng(0).normal(size=(50, 2))
    assert alpha_req(z).alpha == math.inf


def test_mean_cosine_equals_the_loop_over_pairs():
    z = np.random.default_rng(0).normal(size=(20, 5)) + 0.5
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(20) for j in range(20) if i != j]
    assert mean_cosine(z) == pytest.approx(np.mean(pairs), rel=1e-9)


def test_mean_correlation_equals_numpy():
    z = np.random.default_rng(0).normal(size=(50, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    correlation = np.abs(np.corrcoef(z.T))
    assert mean_correlation(z) == pytest.approx((correlation.sum() - 6) / 30, rel=1e-9)


def test_the_healthy_and_the_collapsed():
    generator = np.random.default_rng(0)
    spread = generator.normal(size=(4000, 64))
    collapsed = np.ones((4000, 64)) + 1e-3 * spread
    assert normalised_std(spread) == pytest.approx(1, abs=0.02)
    assert normalised_std(collapsed) < 0.01
    assert mean_cosine(spread) == pytest.approx(0, abs=0.01)
    assert mean_cosine(collapsed) > 0.999
    assert mean_correlation(spread) == pytest.approx(math.sqrt(2 / (math.pi * 4000)), rel=0.05)


@pytest.mark.parametrize("measure", [rankme, normalised_std, lambda z: alpha_req(z).alpha])
def test_a_constant_embedding_gives_a_number_for_every_measure(measure):
    assert not math.isnan(measure(torch.ones(20, 4)))
    assert not math.isnan(measure(torch.zeros(20, 4)))


def test_a_constant_embedding_has_rank_one():
    assert rankme(torch.ones(20, 4)) == pytest.approx(1, abs=1e-3)
    assert lidar(torch.ones(20, 3, 4)).noise


def test_half_precision_is_computed_in_float64():
    z = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert rankme(z) == rankme(z.double())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rankme(torch.ones(4)), r"\[samples, dim\], got shape \[4\]"),
        (lambda: rankme(torch.ones(1, 4)), "at least two samples"),
        (lambda: rankme(torch.full((3, 4), torch.nan)), "NaN"),
        (lambda: lidar(torch.ones(4, 3)), r"\[samples, views, dim\]"),
        (lambda: lidar(torch.ones(4, 1, 3)), "two views"),
        (lambda: mean_correlation(torch.ones(4, 1)), "two dimensions"),
    ],
)
def test_messages(call, words):
    with pytest.raises(UserError, match=words):
        call()


METRICS = [
    rankme, lambda z: rankme(z, centre=True), lambda z: alpha_req(z).alpha, normalised_std, mean_cosine,
    mean_correlation, lambda z: lidar(z.reshape(-1, 5, 6)).value,
]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("n", [5, 50])
def test_working_in_blocks_of_a_memory_map_changes_nothing(metric, rows, n, tmp_path, monkeypatch):
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(n, 30)) + 3)
    z = np.load(tmp_path / "z.npy", mmap_mode="r")
    whole = metric(z)
    monkeypatch.setattr("jepakit.evaluation.streaming.BLOCK_NUMBERS", rows * 30)
    assert metric(z) == pytest.approx(whole, rel=1e-6)  # the root of a rounded zero is about 1e-8
