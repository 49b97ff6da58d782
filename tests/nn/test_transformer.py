import math

import pytest
import torch
from torch import nn

from jepakit.errors import UserError
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.tokens import Ids
from jepakit.nn.transformer import Attention, Block, TokenTransformer, ZeroLinear, attend, initialise_transformer


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
    out = attend(q, k, v, AttentionLayout.padding(torch.tensor(lengths), 9))
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), by_hand(q, k, v, lengths), atol=tolerance, rtol=tolerance)
    if lengths == [9, 9, 9]:
        torch.testing.assert_close(attend(q, k, v), out)


def test_the_bfloat16_path_and_its_gradient_against_sdpa():
    inputs = qkv(torch.bfloat16)
    layout, gradients = AttentionLayout.padding(torch.tensor([9, 2, 5]), 9), []

    def fused(q, k, v, layout):
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=layout.keys[:, None, None, :])

    for kernel in (attend, fused):
        leaves = inputs.clone().requires_grad_()
        out = kernel(*leaves, layout)
        out.float().square().sum().backward()
        gradients.append((out.detach().float(), leaves.grad.float()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.06, rtol=0.05)
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_padding_never_leaks_through_a_block():
    torch.manual_seed(0)
    block = Block(16, 4)
    x = torch.randn(2, 6, 16)
    layout = AttentionLayout.padding(torch.tensor([4, 6]), 6)
    changed = x.clone()
    changed[0, 4:] = 100 * torch.randn(2, 16)
    torch.testing.assert_close(block(x, layout)[0, :4], block(changed, layout)[0, :4], rtol=0, atol=0)
    torch.testing.assert_close(block(x, layout)[0, :4], block(x[:1, :4])[0], atol=1e-6, rtol=1e-5)


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


def test_a_layer_that_starts_at_zero_stays_there():
    module = nn.ModuleDict({"blocks": nn.ModuleList([Block(8, 2)]), "gate": ZeroLinear(8, 4)})
    initialise_transformer(module, module["blocks"])
    assert not module["gate"].weight.any()
    assert not module["gate"].bias.any()


class Tower(TokenTransformer):
    def __init__(self, level_norms=()):
        super().__init__()
        torch.manual_seed(0)
        self.add_blocks(8, 3, 2, level_norms=level_norms)


@torch.no_grad()
def test_levels_with_norms_of_their_own():
    plain, tower = Tower(), Tower((1, 3))
    tower.blocks.load_state_dict(plain.blocks.state_dict())
    nn.init.constant_(tower.norms_block[0].weight, 2.0)
    nn.init.constant_(tower.norms_block[1].bias, 5.0)
    x, positions = torch.randn(2, 4, 8), torch.zeros(2, 4, 1)
    expected = plain.run(x, positions, levels=(1, 3)).values
    both = tower.run(x, positions, levels=(3, 1)).values
    torch.testing.assert_close(both[:, :, 1], 2 * expected[:, :, 0])
    torch.testing.assert_close(both[:, :, 0], expected[:, :, 1] + 5)
    torch.testing.assert_close(tower.run(x, positions).values, both[:, :, 0])
    assert "norm.weight" not in tower.state_dict()  # a norm that nobody uses would be a parameter without gradient


@torch.no_grad()
def test_a_layout_of_the_kept_tokens():
    tower, x, positions = Tower(), torch.randn(1, 5, 8), torch.arange(5)[None, :, None]
    packed = tower.run(
        x, positions, Ids(torch.tensor([[4, 0, 2, 3]])), layout=AttentionLayout(segments=torch.tensor([[0, 0, 1, 1]]))
    )
    apart = [tower.run(x, positions, Ids(torch.tensor([ids]))) for ids in ([4, 0], [2, 3])]
    torch.testing.assert_close(packed.values, torch.cat([part.values for part in apart], dim=1), atol=1e-6, rtol=1e-5)
    assert packed.positions.flatten().tolist() == [4, 0, 2, 3]


def test_mistakes_in_levels():
    with pytest.raises(UserError, match="rise from at least 1 to the depth 3"):
        Tower((1, 2))
    with pytest.raises(UserError, match=r"norms for the levels \[1, 3\] only"):
        Tower((1, 3)).run(torch.zeros(1, 2, 8), torch.zeros(1, 2, 1), levels=(2,))
    with pytest.raises(UserError, match=r"levels \[\] must lie"):
        Tower().run(torch.zeros(1, 2, 8), torch.zeros(1, 2, 1), levels=())
