"""AdamW: its groups, and its update against the paper's formula."""

from __future__ import annotations

import pytest
import torch

from jepakit.core.system import System
from jepakit.training.config import TrainingConfig
from jepakit.training.optimizer import build_optimizer, set_schedule
from tests.training.tiny_runs import tiny_trainer


@pytest.mark.parametrize(("system", "options"), [("i-jepa", {}), ("lejepa", {}), ("lejepa", {"backbone": "vit"})])
def test_each_trained_parameter_is_in_one_group_and_only_matrices_decay(tmp_path, system, options):
    model = tiny_trainer(tmp_path, system, **options).system
    decayed, plain = model.parameter_groups()
    assert (decayed["decay"], plain["decay"]) == (True, False)
    grouped = [id(p) for group in (decayed, plain) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter in decayed["params"]:
        name = names[id(parameter)]
        assert name.endswith("weight"), name
        assert "norm" not in name, name
        assert "token" not in name, name
    assert all(p.ndim == 1 or p.shape[0] == 1 for p in plain["params"])


def test_what_is_not_trained_is_not_optimised(tmp_path):
    trainer = tiny_trainer(tmp_path, "i-jepa")
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in trainer.system.target.parameters()}


class Matrix(System):
    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
        self.bias = torch.nn.Parameter(torch.tensor([3.0]))
        self.head = torch.nn.Parameter(torch.tensor([[4.0]]))

    def parameter_groups(self):
        return [
            {"params": [self.matrix], "decay": True},
            {"params": [self.bias], "decay": False},
            {"params": [self.head], "decay": True, "lr_scale": 0.1},
            {"params": [], "decay": True},
        ]


def test_updates_are_adamw_s():
    """After one step from zero moments Adam moves by lr * sign(gradient); decay shrinks by lr * decay before."""
    model = Matrix()
    config = TrainingConfig(lr=0.1, warmup=0.0, schedule="constant", weight_decay=0.5)
    optimizer = build_optimizer(model, config, torch.device("cpu"))
    assert set_schedule(optimizer, config, 0, 10) == {"lr": 0.1, "weight_decay": 0.5}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.matrix.data, torch.tensor([[1.0, -2.0]]) * (1 - 0.1 * 0.5) - 0.1)
    torch.testing.assert_close(model.bias.data, torch.tensor([3.0 - 0.1]))
    torch.testing.assert_close(model.head.data, torch.tensor([[4.0 * (1 - 0.01 * 0.5) - 0.01]]))
