"""The attentive probe: the released one's numbers, and what it does with tokens."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepakit.errors import UserError
from jepakit.nn.attentive_pooler import AttentiveClassifier, AttentivePooler, AttentivePoolerConfig

# Computed by facebookresearch/vjepa2 (MIT), commit c2963a4, at random weights.
RELEASED = Path(__file__).parents[1] / "fixtures" / "vjepa2_attentive_probe.safetensors"


def test_agrees_with_the_released_probe():
    tensors = load_file(RELEASED)
    model = AttentiveClassifier(AttentivePoolerConfig(dim=64, heads=2, blocks=3), 5)
    prefix = "classifier.module."
    model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    torch.testing.assert_close(model(tensors["input.tokens"]), tensors["output.logits"], atol=1e-6, rtol=1e-5)


def test_each_query_looks_for_itself_and_order_does_not_count():
    torch.manual_seed(0)
    pooler = AttentivePooler(AttentivePoolerConfig(dim=24, heads=4, blocks=1, queries=3)).double()
    tokens = torch.randn(2, 7, 24, dtype=torch.float64)
    seen = pooler(tokens)
    assert seen.shape == (2, 3, 24)
    torch.testing.assert_close(pooler(tokens[:, torch.randperm(7)]), seen)
    with torch.no_grad():
        pooler.query_tokens[0, 1] += torch.randn(24)
    moved = pooler(tokens)
    assert torch.equal(moved[:, [0, 2]], seen[:, [0, 2]])
    assert (moved[:, 1] - seen[:, 1]).abs().max() > 1e-3


def test_shapes_that_do_not_fit():
    with pytest.raises(UserError, match="multiple of heads"):
        AttentivePoolerConfig(dim=30, heads=4)
    with pytest.raises(UserError, match="tokens of 24 numbers"):
        AttentivePooler(AttentivePoolerConfig(dim=24, heads=4))(torch.randn(1, 2, 12))
