"""The health monitor: what it calls collapsed, what it costs, that it is repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.systems.i_jepa import IJEPA, IJEPAConfig
from jepakit.systems.lejepa import LeJEPA, LeJEPAConfig
from jepakit.training.config import HealthConfig, TrainingConfig
from jepakit.training.health import SIGREG_FLOOR, Cadence, HealthMonitor, gaussianity, judge

BEFORE = {"rankme": 60.0, "std": 0.3, "cosine": 0.9, "spread": 0.2, "energy_shuffled": 1.0}
HEALTHY = {
    "rankme": 50.0, "std": 0.8, "cosine": 0.2, "spread": 0.4, "energy_shuffled": 2.0, "pairs_below": 0.99,
    "energy_margin": 0.15,
}  # fmt: skip


def verdict(**changes: float) -> str:
    return judge(HEALTHY | changes, BEFORE, step=500, steps=1000, rank_limit=128)[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "healthy"),
        ({"spread": 0.001}, "collapsed"),
        ({"rankme": 4.0}, "collapsed"),
        ({"rankme": 20.0, "energy_shuffled": 0.05}, "collapsed"),
        ({"std": 0.05}, "collapsed"),
        ({"cosine": 0.99}, "collapsed"),
        ({"pairs_below": 0.5}, "fragmented"),
        ({"rankme": 20.0}, "warning"),
        ({"energy_shuffled": 0.05}, "healthy"),  # low energies alone: the predictor is good
    ],
)
def test_each_sickness_has_its_name(changes: dict[str, float], expected: str) -> None:
    assert verdict(**changes) == expected


@pytest.mark.parametrize("alike", [{"std": 0.05}, {"cosine": 0.99}])
def test_a_common_direction_is_no_collapse_while_much_else_is_told_apart(alike: dict[str, float]) -> None:
    """V-JEPA before noise: cosine .97 from .94, yet 97 % of pairs told apart by half of their energy, and better probes."""
    assert verdict(**alike, energy_margin=0.5) == "warning"
    assert verdict(**alike, energy_margin=0.5, pairs_below=0.8) == "collapsed"
    assert verdict(**alike, energy_margin=0.1) == "collapsed"


def test_no_verdict_before_training() -> None:
    assert judge(HEALTHY, BEFORE, step=0, steps=1000, rank_limit=128)[0] == "start"


def test_a_random_encoder_is_not_called_collapsed_for_being_alike() -> None:
    alike = HEALTHY | {"cosine": 0.97, "std": 0.09}
    before = BEFORE | {"cosine": 0.975, "std": 0.085}
    assert judge(alike, before, step=500, steps=1000, rank_limit=128)[0] == "healthy"


def test_gaussianity_reaches_the_floor_for_gaussians_and_leaves_it_for_few_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(2000, 16, generator=generator)
    assert gaussianity(gaussian * 3 + 5) < SIGREG_FLOOR  # below: mean and scale are fitted to the sample
    line = torch.randn(2000, 1, generator=generator) * torch.randn(1, 16, generator=generator)
    assert gaussianity(line) > 50


@pytest.mark.parametrize("batch_size", [16, 128, 1024])
def test_measures_cost_below_three_percent_of_the_encoder_passes(batch_size: int) -> None:
    health, training = HealthConfig(), TrainingConfig(batch_size=batch_size)
    cadence = Cadence.plan(health, training, health.health_samples, 512)
    passes = (
        (health.health_samples + 6 * 64) / cadence.geometry
        + health.health_samples * health.lidar_views / cadence.lidar
        + (512 + health.health_samples) / cadence.knn
    )
    assert passes <= 0.03 * 4 * batch_size


def make_monitor(kind: str) -> tuple[HealthMonitor, torch.nn.Module]:
    images = open_images(ImageDataConfig(data="digits"), 0)
    inputs = ImageInputs.of(images)
    torch.manual_seed(0)
    system = LeJEPA(LeJEPAConfig(), inputs) if kind == "lejepa" else IJEPA(IJEPAConfig(), inputs)
    held_out = [images.train[i] for i in range(100)]
    bank = [images.train[i] for i in range(100, 400)]
    arguments = (HealthConfig(health_every=5, lidar_views=3), TrainingConfig(), torch.device("cpu"))
    return HealthMonitor(system, held_out, bank, "classification", *arguments), system


@pytest.mark.parametrize("kind", ["lejepa", "i-jepa"])
def test_a_line_holds_every_measure_is_repeatable_and_leaves_the_system_alone(kind: str) -> None:
    monitor, system = make_monitor(kind)
    system.train()
    before = {name: t.clone() for name, t in system.state_dict().items()}
    rng = torch.random.get_rng_state()
    first, second = monitor.measure(0, 10), monitor.measure(0, 10)
    assert first == second
    assert torch.equal(rng, torch.random.get_rng_state())
    assert system.training
    assert all(torch.equal(t, before[name]) for name, t in system.state_dict().items())
    named = {
        "rankme",
        "lidar",
        "alpha_req",
        "std",
        "cosine",
        "sigreg",
        "energy_margin",
        "pairs_below",
        "knn",
        "verdict",
    }
    assert named <= {name.removeprefix("health/") for name in first}
    assert 0.3 < first["health/knn"] <= 1  # even random features of digits have neighbours
    assert first["health/lidar_n"] == 100
    assert first["health/lidar_q"] == 3


def test_constant_embeddings_are_called_collapsed() -> None:
    monitor, system = make_monitor("lejepa")
    monitor.measure(0, 10)
    last = system.network.encoder.blocks[-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()
    line = monitor.measure(5, 10)
    assert line["health/verdict"] == "collapsed"
    assert "anti_collapse" in line["health/message"]


def test_nan_embeddings_are_called_diverged() -> None:
    monitor, system = make_monitor("i-jepa")
    with torch.no_grad():
        next(iter(system.target.parameters())).fill_(float("nan"))
    assert monitor.measure(5, 10)["health/verdict"] == "diverged"


def test_the_reference_survives_a_checkpoint() -> None:
    monitor, _ = make_monitor("lejepa")
    monitor.measure(0, 10)
    other, _ = make_monitor("lejepa")
    other.load_state_dict(monitor.state_dict())
    assert other.measure(5, 10) == monitor.measure(5, 10)


def test_a_class_missing_from_the_bank_is_not_asked_for() -> None:
    images = open_images(ImageDataConfig(data="digits"), 0)
    labels = images.train.labels
    held_out = [images.train[int(i)] for i in np.flatnonzero(labels < 4)[:40]]
    bank = [images.train[int(i)] for i in np.flatnonzero(labels < 3)[40:140]]
    system = LeJEPA(LeJEPAConfig(), ImageInputs.of(images))
    monitor = HealthMonitor(
        system, held_out, bank, "classification", HealthConfig(lidar_views=2), TrainingConfig(), torch.device("cpu")
    )
    assert 0 <= monitor.measure(0, 1)["health/knn"] <= 1


def test_too_few_samples_give_no_verdict() -> None:
    images = open_images(ImageDataConfig(data="digits"), 0)
    system = LeJEPA(LeJEPAConfig(), ImageInputs.of(images))
    held_out = [images.train[i] for i in range(12)]
    monitor = HealthMonitor(
        system, held_out, [], None, HealthConfig(lidar_views=2), TrainingConfig(), torch.device("cpu")
    )
    monitor.measure(0, 10)
    line = monitor.measure(10, 10)
    assert line["health/verdict"] == "unknown"
    assert "12 samples" in line["health/message"]
