import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jepakit.errors import UserError
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.modulation import ModulatedBlock
from jepakit.nn.transformer import initialise_transformer


def block(moved=True, **options):
    torch.manual_seed(0)
    model = ModulatedBlock(8, 2, 5, **options).double()
    if moved:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_it_starts_as_the_identity_and_can_leave_it():
    model = block(moved=False)
    x, condition = torch.randn(2, 4, 8).double(), torch.randn(2, 4, 5).double()
    initialise_transformer(model, nn.ModuleList([model]))  # must not open the gates
    assert model.mlp.fc1.weight.any()
    out = model(x, condition)
    assert torch.equal(out, x)
    (out - 1).square().sum().backward()
    gradient = model.modulation[1].weight.grad.reshape(6, 8, 5).flatten(1).norm(dim=1)
    assert (gradient > 0).tolist() == [False, False, True, False, False, True]  # the gates open first


def test_against_the_formula():
    """x + gate * f(norm(x) * (1 + scale) + shift), for attention and then for the MLP, each token with its own condition."""
    model = block()
    x, condition = torch.randn(2, 4, 8).double(), torch.randn(2, 4, 5).double()
    weight, bias = model.modulation[1].weight.reshape(6, 8, 5), model.modulation[1].bias.reshape(6, 8)
    parts = torch.einsum("pdc,bnc->pbnd", weight, F.silu(condition)) + bias[:, None, None]
    shift1, scale1, gate1, shift2, scale2, gate2 = parts

    def norm(y):
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()

    middle = x + gate1 * model.attn(norm(x) * (1 + scale1) + shift1, AttentionLayout(order="causal"))
    expected = middle + gate2 * model.mlp(norm(middle) * (1 + scale2) + shift2)
    torch.testing.assert_close(model(x, condition, AttentionLayout(order="causal")), expected, rtol=1e-10, atol=1e-12)


def test_a_causal_block_sees_no_later_token_nor_its_condition():
    model, layout = block(), AttentionLayout(order="causal")
    x, condition = torch.randn(1, 6, 8).double(), torch.randn(1, 6, 5).double()
    before = model(x, condition, layout)
    x[:, 4:], condition[:, 4:] = 9, -9
    after = model(x, condition, layout)
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=0)
    assert (after[:, 4:] - before[:, 4:]).norm() > 1


def test_one_condition_for_all_tokens():
    model = block()
    x, condition = torch.randn(2, 4, 8).double(), torch.randn(2, 1, 5).double()
    torch.testing.assert_close(model(x, condition), model(x, condition.expand(-1, 4, -1)))


def test_dropout_is_for_training_only():
    model = block(dropout=0.5)
    x, condition = torch.randn(2, 4, 8).double(), torch.randn(2, 4, 5).double()
    assert not torch.equal(model(x, condition), model(x, condition))
    model.eval()
    torch.testing.assert_close(model(x, condition), block()(x, condition))
    with pytest.raises(UserError, match="dropout must be"):
        ModulatedBlock(8, 2, 5, dropout=1.5)
