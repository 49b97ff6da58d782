"""Learning rate and weight decay against their closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepakit.training.config import TrainingConfig
from jepakit.training.schedules import learning_rate, weight_decay

STEPS = 100


def rates(steps=STEPS, **options):
    config = TrainingConfig(lr=2.0, **options)
    return [learning_rate(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_warm_up_rises_linearly_to_the_peak_from_above_nothing(schedule):
    found = rates(schedule=schedule, warmup=0.2, final_lr=0.1)
    assert found[:20] == pytest.approx([2.0 * (step + 1) / 20 for step in range(20)])
    assert max(found) == pytest.approx(2.0)
    assert found[20] == pytest.approx(2.0)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_last_step_has_the_final_rate_and_the_way_there_never_rises(schedule, warmup):
    found = rates(schedule=schedule, warmup=warmup, final_lr=0.05)
    assert found[-1] == pytest.approx(0.1)
    down = found[int(warmup * STEPS) :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(down))


def test_closed_forms_half_way():
    options = {"warmup": 0.0, "final_lr": 0.1}
    assert rates(101, schedule="linear", **options)[50] == pytest.approx(1.1)
    assert rates(101, schedule="cosine", **options)[50] == pytest.approx(1.1)
    assert rates(101, schedule="cosine", **options)[25] == pytest.approx(0.2 + 1.8 * (1 + math.sqrt(0.5)) / 2)
    assert set(rates(schedule="constant", warmup=0.0)) == {2.0}


def test_wsd_holds_and_then_cools_down_linearly():
    found = rates(schedule="wsd", warmup=0.1, cooldown=0.3, final_lr=0.0)
    assert found[10:71] == [2.0] * 61
    assert found[70:] == pytest.approx([2.0 * (1 - k / 29) for k in range(30)])
    assert rates(schedule="wsd", warmup=0.0, cooldown=0.0, final_lr=0.0)[:-1] == [2.0] * (STEPS - 1)


@given(
    st.sampled_from(["cosine", "linear", "wsd", "constant"]), st.integers(1, 50), st.floats(0, 1), st.floats(0, 1),
    st.floats(0, 1),
)  # fmt: skip
def test_a_rate_is_always_between_nothing_and_the_peak(schedule, steps, warmup, cooldown, final):
    for rate in rates(steps, schedule=schedule, warmup=warmup, cooldown=cooldown, final_lr=final):
        assert 0.0 <= rate <= 2.0 + 1e-12


def test_weight_decay_is_constant_or_a_cosine_to_its_end():
    constant = TrainingConfig(weight_decay=0.05)
    assert {weight_decay(constant, step, STEPS) for step in range(STEPS)} == {0.05}
    rising = TrainingConfig(weight_decay=0.04, weight_decay_end=0.4)
    found = [weight_decay(rising, step, 101) for step in range(101)]
    assert (found[0], found[50], found[100]) == (pytest.approx(0.04), pytest.approx(0.22), pytest.approx(0.4))
    assert all(later > earlier for earlier, later in itertools.pairwise(found))
    assert weight_decay(rising, 0, 1) == pytest.approx(0.04)
