import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jepakit.randomness import Draws, derive_seed

ids = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)


@given(ids=ids, seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
def test_a_sample_draws_the_same_in_any_batch(ids, seed, epoch):
    together = Draws(seed, "masks", epoch, ids)
    values = together.uniform(3), together.integers(10, 2), together.normal(4)
    for place, sample in enumerate(ids):
        alone = Draws(seed, "masks", epoch, [sample])
        for ours, theirs in zip((alone.uniform(3), alone.integers(10, 2), alone.normal(4)), values, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[place])


def test_each_sample_has_its_own_epoch():
    mixed = Draws(0, "views", [3, 5], [7, 7]).uniform(4)
    np.testing.assert_array_equal(mixed[0], Draws(0, "views", 3, [7]).uniform(4)[0])
    np.testing.assert_array_equal(mixed[1], Draws(0, "views", 5, [7]).uniform(4)[0])


def test_calls_continue_a_stream():
    at_once, in_parts = Draws(1, "a", 0, [4, 9]), Draws(1, "a", 0, [4, 9])
    parts = np.concatenate([in_parts.uniform(2), in_parts.uniform(3)], axis=1)
    np.testing.assert_array_equal(at_once.uniform(5), parts)


@pytest.mark.parametrize("change", ["seed", "stream", "epoch", "id", "next"])
def test_streams_are_uniform_and_independent(change):
    """Neighbouring seeds, streams, epochs, samples and calls: uniform each, uncorrelated in pairs."""
    count = 20_000
    base = {"seed": 0, "stream": "masks", "epoch": 0, "ids": np.arange(count)}
    other = dict(base)
    if change == "id":
        other["ids"] = base["ids"] + 1
    elif change == "stream":
        other["stream"] = "views"
    elif change != "next":
        other[change] = 1
    first = Draws(**base)
    x = first.uniform()
    y = first.uniform() if change == "next" else Draws(**other).uniform()
    assert x.shape == (count,)
    if change == "id":
        x, y = x[::2], y[::2]
    assert stats.kstest(y, "uniform").pvalue > 1e-3
    assert stats.kstest((x + y) % 1, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(len(x))


def test_distributions():
    draws = Draws(0, "test", 0, np.arange(50_000))
    assert stats.kstest(draws.normal(), "norm").pvalue > 1e-3
    spread = draws.uniform(low=-2.0, high=3.0)
    assert stats.kstest(spread, stats.uniform(-2, 5).cdf).pvalue > 1e-3
    counts = np.bincount(draws.integers(7), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3


def test_integers_take_a_bound_for_each_sample():
    draws = Draws(0, "test", 0, np.arange(3))
    high = np.array([[1], [5], [1000]])
    values = draws.integers(high, 2000)
    assert values.shape == (3, 2000)
    assert (values >= 0).all()
    assert (values < high).all()
    assert values[0].max() == 0
    assert values[1].max() == 4
    assert values[2].max() > 900


@given(seed=st.integers(0, 2**63), words=st.lists(st.one_of(st.text(max_size=8), st.integers(0, 2**64)), max_size=3))
def test_derived_seeds_repeat_and_fit_other_generators(seed, words):
    derived = derive_seed(seed, *words)
    assert derived == derive_seed(seed, *words)
    assert 0 <= derived < 2**63
    np.random.default_rng(derived)


def test_derived_seeds_differ():
    seeds = {derive_seed(s, *words) for s in range(50) for words in (("a",), ("b",), (0,), (1,), ("a", 1), (1, "a"))}
    assert len(seeds) == 50 * 6
