"""Systems of kinds that no paper here has go through the real loop, health and checkpoints, and open again by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jepakit
from jepakit.config import default_config, read_config, write_config
from jepakit.core.batch import Batch, split_batch
from jepakit.errors import UserError
from jepakit.files import read_json
from jepakit.training.loop import Trainer
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.pretrain import build_trainer, decide, open_data, prepare_system
from tests.contracts.toy_data import ToySamples
from tests.contracts.toy_systems import SYSTEMS

TRAINING = {
    "steps": 5, "log_every": 2, "health_every": 3, "checkpoint_every": 2, "health_samples": 12, "lidar_views": 2,
    "workers": 0, "threads": 1, "precision": "float32", "device": "cpu",
}  # fmt: skip
LATENT = {"toy-latent-masked": {"latent": "discrete"}, "toy-latent-dynamics": {"latent": "discrete"}}


def toy_trainer(path: Path, name: str, **options: Any) -> Trainer:
    """A trainer at its start, its run folder made; or one that may `restore()` what the folder holds."""
    config = default_config(name, SYSTEMS[name][1]).override(**{**TRAINING, **LATENT.get(name, {}), **options})
    data = open_data(config)
    decided = decide(config, data)
    folder, device = RunFolder(path), torch.device("cpu")
    if not folder.config.exists():
        folder.create()
        write_config(folder.config, decided)
    return build_trainer(decided, folder, data, prepare_system(decided, device, None), device)


def batch_of(trainer: Trainer, count: int = 10, first: int = 0) -> Batch:
    samples = ToySamples(trainer.system.inputs.world, np.arange(first, first + count))
    return trainer.system.collator(0)([samples[i] for i in range(count)])


class Killed(BaseException):
    """What nothing in the loop may catch: the process is gone."""


class KillAt:
    """A logger that ends the process at a metrics line."""

    def __init__(self, step: int):
        self.step = step

    def log(self, line: dict[str, Any]) -> None:
        if line["step"] == self.step and line["kind"] == "train":
            raise Killed

    def close(self) -> None:
        pass


def lines(trainer: Trainer) -> list[dict[str, Any]]:
    written = trainer.folder.read_metrics()
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in written]


@pytest.mark.parametrize("name", SYSTEMS)
def test_trains_is_watched_and_resumes_exactly(tmp_path, name):
    whole = toy_trainer(tmp_path / "whole", name)
    assert whole.train().ended == "finished"
    health = [line for line in lines(whole) if line["kind"] == "health"]
    assert [line["step"] for line in health] == [0, 3, 5]
    assert all(math.isfinite(line[f"health/{what}"]) for line in health for what in ("rankme", "lidar", "energy_margin"))
    assert all(math.isfinite(line["loss"]) for line in lines(whole) if line["kind"] == "train")

    broken = toy_trainer(tmp_path / "broken", name)
    broken.loggers = [KillAt(4)]
    with pytest.raises(Killed):
        broken.train()
    resumed = toy_trainer(tmp_path / "broken", name)
    resumed.restore()
    assert resumed.step == 2
    resumed.train()
    assert lines(resumed) == lines(whole)
    for key, value in whole.system.state_dict().items():
        assert torch.equal(value, resumed.system.state_dict()[key]), key
    assert read_config(tmp_path / "broken").system == name


@pytest.mark.parametrize("name", SYSTEMS)
def test_pretrain_measures_what_fits_and_ends_with_a_report(tmp_path, name):
    """A world model over any modality is evaluated on the windows that its data gives; without any there is nothing to ask."""
    options = {**TRAINING, **LATENT.get(name, {})}
    done = jepakit.pretrain(name, data=SYSTEMS[name][1], out=tmp_path / "run", **options)
    assert done.outcome.ended == "finished"
    assert bool(done.rows) == (name == "toy-cloud")
    assert (tmp_path / "run" / "report.html").exists()
    evaluation = tmp_path / "run" / "evaluation.json"
    assert evaluation.exists() == (name in ("toy-recurrent", "toy-fused", "toy-cloud"))
    if name == "toy-cloud":
        assert {row.features for row in done.rows} == {"encoder", "random init", "numbers", "pca"}
    elif evaluation.exists():
        section = read_json(evaluation)["world_model"]
        assert section["rollout"]["horizons"] == [1, 2, 3]
        assert section["state"]["variables"] == ["x", "y", "speed x", "speed y"]
        assert set(section["surprise"]["events"]) == {"skips ahead", "another scene", "frozen", "another's action"}
    else:
        words = "gives no windows" if name == "toy-latent-dynamics" else "only a world model"
        with pytest.raises(UserError, match=words):
            jepakit.evaluate(tmp_path / "run", evaluators=["world"])
        with pytest.raises(UserError, match="has no labels, so there is nothing to evaluate against"):
            jepakit.evaluate(tmp_path / "run")


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_parameter_learns_and_no_step_draws_by_chance(tmp_path, name):
    trainer = toy_trainer(tmp_path, name)
    batch = batch_of(trainer)
    first = trainer.system.step(batch)["loss"]
    first.backward()
    still = [n for n, p in trainer.system.named_parameters() if p.requires_grad and p.grad is None]
    assert not still  # DDP would wait for them
    assert torch.equal(trainer.system.step(batch)["loss"], first)


@pytest.mark.parametrize("latent", ["discrete", "continuous"])
@pytest.mark.parametrize("name", ["toy-latent-masked", "toy-latent-dynamics"])
def test_pieces_of_a_batch_add_up(tmp_path, name, latent):
    """z belongs to the sample, so that a loss with a search inside is still a sum over samples."""
    trainer = toy_trainer(tmp_path, name, latent=latent, precision="float64")
    system = trainer.system.double()
    batch = {n: t.double() if t.is_floating_point() else t for n, t in batch_of(trainer, 9).items()}
    whole = system.step(batch)["loss"]
    whole.backward()
    joined = [p.grad.clone() for p in system.parameters() if p.requires_grad]
    system.zero_grad()
    counts = system.counts(batch)
    parts = [system.step({**piece, "counts": counts})["loss"] for piece in split_batch(batch, 2)]
    torch.testing.assert_close(sum(parts), whole)
    sum(parts).backward()
    for gradient, parameter in zip(joined, (p for p in system.parameters() if p.requires_grad), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(
    ("name", "latent"),
    [
        ("toy-latent-masked", "none"),
        ("toy-latent-masked", "discrete"),
        pytest.param("toy-latent-masked", "continuous", marks=pytest.mark.slow),
        ("toy-latent-dynamics", "none"),
        ("toy-latent-dynamics", "discrete"),
    ],
)
def test_z_absorbs_what_a_coin_decides(tmp_path, name, latent):
    """The future lies at +1 or -1 of what can be known. Without z nothing is better than the mean, whose error is the
    coin's variance, 1; with z it is nearly nothing, and a penalised number comes close to it."""
    steps = {"steps": 60, "health_every": 60, "checkpoint_every": 60}
    trainer = toy_trainer(tmp_path, name, latent=latent, lr=1e-2, **steps)
    trainer.train()
    trainer.system.eval()
    with torch.no_grad():
        error = float(trainer.system.step(batch_of(trainer, 200, first=1000))["prediction"])  # held out
    if latent == "none":
        assert error == pytest.approx(1.0, abs=0.15)
    else:
        assert error < {"discrete": 0.2, "continuous": 0.4}[latent]


def test_a_fused_window_does_not_see_ahead(tmp_path):
    """Through the system: predictions up to a step do not change with what any sensor says after it."""
    trainer = toy_trainer(tmp_path, "toy-fused")
    system, batch = trainer.system.eval(), batch_of(trainer, 6)
    changed = dict(batch["inputs"])
    for name in ("speed", "place"):
        stream = changed[name]
        changed[name] = {**stream, "values": torch.where(stream["times"][..., None] > 2, 9.0, stream["values"])}
    before, after = (system.encode(inputs).values for inputs in (batch["inputs"], changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().max() > 1e-3


def test_a_recurrent_state_imagines_what_its_steps_predict(tmp_path):
    """Rollout equals stepwise prediction, at any number of observations seen, and a state can be copied and picked from."""
    trainer = toy_trainer(tmp_path, "toy-recurrent")
    system, batch = trainer.system.eval(), batch_of(trainer, 5)
    seen = {"inputs": batch["inputs"][:, :3], "actions": batch["actions"][:, :2]}
    state = system.observe(seen)
    rolled = system.rollout(state, batch["actions"][:, 2:])
    step = state
    for t in range(2):
        step = system.predict(step, batch["actions"][:, 2 + t])
        torch.testing.assert_close(system.embedding(step), rolled.embeddings[:, t])
    frames = system.encode(batch["inputs"]).values
    taught = system.predictor(frames[:, :3], batch["actions"][:, :3])
    torch.testing.assert_close(taught[:, 2], rolled.embeddings[:, 0])

    lengths = torch.tensor([3, 1, 2, 3, 1])
    short = system.observe({**seen, "lengths": lengths})
    for i, length in enumerate(lengths):
        inputs, actions = seen["inputs"][i : i + 1, :length], seen["actions"][i : i + 1, : length - 1]
        alone = system.observe({"inputs": inputs, "actions": actions})
        torch.testing.assert_close(short.index(torch.tensor([i])).tree["hidden"], alone.tree["hidden"])

    many = state.expand(4)
    futures = system.rollout(many, torch.randn(20, 2, 2)).last
    picked = futures.select(torch.tensor([0, 3, 1, 2, 0]))
    assert torch.equal(picked.tree["hidden"][1], futures.tree["hidden"][7])


def test_a_pyramid_learns_motion_from_coarse_to_fine(tmp_path):
    """What the warped levels pull on is the flow in pixels, the same number on all of them; it comes to explain motion."""
    trainer = toy_trainer(tmp_path, "toy-flow")
    batch = batch_of(trainer, 16)
    flow, energies = trainer.system.motion(batch["inputs"])
    assert flow.values.shape == (16, 2, 16, 16)
    assert energies.shape == (3, 16)
    for number, energy in enumerate(energies):  # every level teaches the heads up to its own
        heads = [head.weight for head in trainer.system.flow_heads]
        got = torch.autograd.grad(energy.sum(), heads, retain_graph=True, allow_unused=True)
        assert [g is not None and bool(g.any()) for g in got] == [i <= number for i in range(3)]
