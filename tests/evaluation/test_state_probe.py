"""Probes of the state: what is there is read, what is not is not, and the smooth probe stays near beside the data."""

import numpy as np
import torch
from scipy.stats import pearsonr

from jepakit.evaluation.state_probe import StateProbe, correlations, network_probe, probe_rows, varying


def states_and_embeddings(n=400, seed=0):
    generator = np.random.default_rng(seed)
    states = np.stack([generator.uniform(-1, 1, n), 10 * generator.normal(size=n), np.full(n, 4.0)], axis=1)
    mix = np.random.default_rng(99).normal(size=(2, 16))
    return states, torch.from_numpy(np.tanh(states[:, :2] / [1, 10] @ mix)).float()


def test_what_an_embedding_holds_is_read_and_what_never_varies_is_none():
    (states, train), (asked, test) = states_and_embeddings(), states_and_embeddings(seed=1)
    rows = probe_rows("encoder", train, states, test, asked, np.arange(400) // 8)
    assert [row["probe"] for row in rows] == ["linear", "network"]
    for row in rows:
        assert row["r"][0] > 0.95
        assert row["r"][1] > 0.95
        assert row["r"][2] is None
        assert row["low"][0] < row["r"][0] <= row["high"][0] <= 1
        assert row["error"][2] < 0.01
    assert varying(states).tolist() == [True, True, False]
    noise = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    assert abs(probe_rows("noise", noise, states, noise.flip(0), asked, np.arange(400), network=False)[0]["r"][0]) < 0.25


def test_r_is_pearsons():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(50, 2)), generator.normal(size=(50, 2))
    found = correlations(a, b, np.arange(50))
    for k in range(2):
        np.testing.assert_allclose(found["r"][k], pearsonr(a[:, k], b[:, k]).statistic, atol=1e-10)


def test_the_network_draws_nothing_from_the_global_generator_and_repeats():
    states, train = states_and_embeddings(100)
    before = torch.get_rng_state()
    first = network_probe(train, states, train, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(network_probe(train, states, train, seed=3), first)


def test_a_probe_does_not_lean_on_directions_of_hardly_any_variance():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(500, 1, generator=generator)
    faint = 1e-4 * states  # exact, but tiny; the other two are noisy copies
    noisy = states + 0.1 * torch.randn(500, 30, generator=generator)
    probe = StateProbe.fit(torch.cat([noisy, faint], 1), states.double().numpy())
    moved = torch.cat([noisy, faint + 1e-4], 1)  # a little beside
    assert np.abs(probe(moved) - states.numpy()).mean() < 0.5
    assert probe(moved.unflatten(0, (50, 10))).shape == (50, 10, 1)


def test_a_number_that_never_changed_in_training_does_not_mislead_the_network():
    states, train = states_and_embeddings(200)
    train = torch.cat([train, torch.ones(200, 1)], dim=1)
    test = train.clone()
    test[:, -1] = 2.0
    np.testing.assert_allclose(network_probe(train, states, test), network_probe(train, states, train))
