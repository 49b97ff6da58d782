import math

import pytest
import torch
from torch import nn

from jepakit.nn.tokens import valid_mask
from jepakit.nn.transformer import Attention, Block, attend, initialise_transformer


def qkv(dtype=torch.float32, batch=3, heads=2, tokens=9, head_dim=8):
    torch.manual_seed(0)
    return torch.randn(3, batch, heads, tokens, head_dim).to(dtype)


def by_hand(q, k, v, lengths):
    """One query at a time in float64, seeing only the real keys."""
    out = torch.empty_like(q, dtype=torch.float64)
    for b, h, n in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        keys, values = k[b, h, : lengths[b]].double(), v[b, h, : lengths[b]].double()
        weights = torch.softmax(keys @ q[b, h, n].double() / math.sqrt(q.shape[-1]), dim=0)
        out[b, h, n] = weights @ values
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("lengths", [[9, 9, 9], [9, 1, 4]])
def test_attention_against_the_formula(dtype, tolerance, lengths):
    q, k, v = qkv(dtype)
    keys = valid_mask(torch.tensor(lengths), 9)[:, None, None, :]
    out = attend(q, k, v, keys)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), by_hand(q, k, v, lengths), atol=tolerance, rtol=tolerance)
    if lengths == [9, 9, 9]:
        torch.testing.assert_close(attend(q, k, v), out)


def test_the_bfloat16_path_and_its_gradient_against_sdpa():
    inputs = qkv(torch.bfloat16)
    keys = valid_mask(torch.tensor([9, 2, 5]), 9)[:, None, None, :]
    gradients = []
    for kernel in (attend, lambda q, k, v, m: nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=m)):
        leaves = inputs.clone().requires_grad_()
        out = kernel(*leaves, keys)
        out.float().square().sum().backward()
        gradients.append((out.detach().float(), leaves.grad.float()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.06, rtol=0.05)
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_padding_never_leaks_through_a_block():
    torch.manual_seed(0)
    block = Block(16, 4)
    x = torch.randn(2, 6, 16)
    keys = valid_mask(torch.tensor([4, 6]), 6)[:, None, None, :]
    changed = x.clone()
    changed[0, 4:] = 100 * torch.randn(2, 16)
    torch.testing.assert_close(block(x, keys)[0, :4], block(changed, keys)[0, :4], rtol=0, atol=0)
    torch.testing.assert_close(block(x, keys)[0, :4], block(x[:1, :4])[0], atol=1e-6, rtol=1e-5)


def test_attention_does_not_mind_the_order_of_tokens():
    torch.manual_seed(0)
    attention = Attention(12, 3)
    x, order = torch.randn(2, 5, 12), torch.randperm(5)
    torch.testing.assert_close(attention(x)[:, order], attention(x[:, order]), atol=1e-6, rtol=1e-5)


def test_initial_weights_keep_their_scale_at_any_width_and_residual_outputs_shrink_with_depth():
    torch.manual_seed(0)
    module = nn.ModuleDict({"blocks": nn.ModuleList(Block(64, 4) for _ in range(8)), "patch": nn.Conv2d(3, 64, 8)})
    initialise_transformer(module, module["blocks"])

    def xavier(fan_in, fan_out):
        return math.sqrt(2 / (fan_in + fan_out))

    def std(layer):
        assert not layer.bias.any()
        return float(layer.weight.detach().std())

    assert std(module["patch"]) == pytest.approx(xavier(3 * 64, 64), rel=0.05)
    for index, block in enumerate(module["blocks"], start=1):
        assert std(block.attn.qkv) == pytest.approx(xavier(64, 192), rel=0.05)
        assert std(block.attn.proj) == pytest.approx(xavier(64, 64) / math.sqrt(2 * index), rel=0.05)
        assert std(block.mlp.fc1) == pytest.approx(xavier(64, 256), rel=0.05)
        assert std(block.mlp.fc2) == pytest.approx(xavier(256, 64) / math.sqrt(2 * index), rel=0.05)
