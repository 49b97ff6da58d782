"""Adapters: all that is trained, nothing at first, and gone after they are merged."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch

from jepakit.errors import UserError
from jepakit.training import lora
from jepakit.training.finetuning import BLOCK
from tests.training.test_finetuning import batch, changed, trained, tuned

peft = pytest.importorskip("peft")


@pytest.mark.parametrize(("kind", "predictor"), [("vit", "dropped"), ("vit", "kept"), ("convnet", "dropped")])
def test_only_adapters_and_the_head_learn_and_merging_keeps_the_answers(kind, predictor):
    system = tuned(kind, method="lora", rank=2, alpha=4.0, predictor=predictor)
    plain = tuned(kind, predictor=predictor).state_dict()
    images = batch()["inputs"]
    before = copy.deepcopy(system.state_dict())
    names = changed(before, trained(system).state_dict())
    assert names
    assert all("lora_" in name or name.startswith("head.") for name in names)
    assert not any(module.training for name, module in system.named_modules() if name.endswith("base_layer"))
    adapted = system.eval().scores(images)
    system.end_training()
    assert system.state_dict().keys() == plain.keys()
    assert torch.allclose(system.scores(images), adapted, atol=1e-5)
    moved = changed({**plain, **{n: t for n, t in system.state_dict().items() if n.startswith("head.")}}, system.state_dict())
    assert moved
    assert all(BLOCK.search(name) and name.endswith("weight") for name in moved)


def test_adapters_change_nothing_at_first():
    images = batch()["inputs"]
    first, second = tuned(method="lora").eval(), tuned().eval()
    assert torch.equal(first.read(images).values, second.read(images).values)


def test_the_number_of_trained_parameters_is_that_of_the_adapters_and_the_head():
    system = tuned(method="lora", rank=2)
    layers = [(16, 48), (16, 16), (16, 64), (64, 16)]  # qkv, proj, fc1, fc2
    adapters = 3 * sum(2 * (wide + narrow) for wide, narrow in layers)
    assert sum(p.numel() for p in system.parameters() if p.requires_grad) == adapters + 16 * 3 + 3


def test_an_adapter_counts_alpha_over_rank():
    outputs = []
    for alpha in (2.0, 4.0):
        system = tuned(method="lora", rank=2, alpha=alpha).eval()
        layer = system.encoder.blocks[0].mlp.fc1
        torch.manual_seed(3)
        torch.nn.init.normal_(layer.lora_B["default"].weight)
        x = torch.randn(5, 16)
        outputs.append(layer(x) - layer.base_layer(x))
    assert torch.allclose(2 * outputs[0], outputs[1], atol=1e-5)


def test_without_peft_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(UserError, match=r"method lora needs the package 'peft'.*pip install 'jepakit\[lora\]'"):
        tuned(method="lora")


def test_a_module_without_such_layers_is_refused():
    with pytest.raises(UserError, match="has no blocks whose layers an adapter could stand at"):
        lora.add_adapters(torch.nn.Linear(2, 2), BLOCK, 2, 4.0)
