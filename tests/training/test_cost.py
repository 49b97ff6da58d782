from __future__ import annotations

import pytest
import torch

from jepakit.training.config import TrainingConfig
from jepakit.training.cost import format_bytes, format_seconds, measure_cost, out_of_memory_advice
from tests.training.tiny_runs import tiny_trainer


def cost_of(trainer):
    batch = next(trainer.batches())
    return measure_cost(trainer.system, batch, trainer.config, trainer.device, trainer.dtype)


@pytest.mark.parametrize("system", ["i-jepa", "lejepa"])
def test_measuring_leaves_the_system_and_the_generator_alone(tmp_path, system):
    trainer = tiny_trainer(tmp_path, system)
    before = {name: t.clone() for name, t in trainer.system.state_dict().items()}
    state = torch.random.get_rng_state()
    cost = cost_of(trainer)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(t, before[name]) for name, t in trainer.system.state_dict().items())
    assert all(p.grad is None for p in trainer.system.parameters())
    trained = sum(p.numel() for p in trainer.system.parameters() if p.requires_grad)
    assert (cost.trained, cost.total) == (trained, sum(p.numel() for p in trainer.system.parameters()))
    assert (cost.total > cost.trained) == (system == "i-jepa")  # its target encoder
    assert cost.memory > 16 * trained
    assert cost.step_seconds > 0


def test_pieces_need_less_memory_and_bigger_batches_more(tmp_path):
    memory = {
        name: cost_of(tiny_trainer(tmp_path / name, "i-jepa", **options)).memory
        for name, options in {"whole": {"batch_size": 32}, "pieces": {"batch_size": 32, "accumulate": 4}}.items()
    }
    weights = 4 * 2 * 4 * cost_of(tiny_trainer(tmp_path / "whole", "i-jepa")).trained  # more than enough
    assert memory["pieces"] < memory["whole"]
    assert memory["whole"] > weights / 16


def test_numbers_are_said_as_people_say_them():
    assert [format_bytes(n) for n in (3e6, 999e6, 2.5e9)] == ["3 MB", "999 MB", "2.5 GB"]
    assert [format_seconds(s) for s in (12.4, 89, 91, 600, 7200)] == ["12 s", "89 s", "2 min", "10 min", "2.0 h"]


def test_advice_fits_the_loss():
    config = TrainingConfig(batch_size=64, accumulate=2)
    assert "--accumulate 4 (same result)" in out_of_memory_advice(config, joins_batch=False)
    assert "in 2 pieces" in out_of_memory_advice(config, joins_batch=False)
    joined = out_of_memory_advice(TrainingConfig(batch_size=64), joins_batch=True)
    assert "try 32" in joined
    assert "cannot be cut by --accumulate" in joined
