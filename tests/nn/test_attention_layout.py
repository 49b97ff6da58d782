"""Layouts against attention written out for one query at a time, in float64."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from jepakit.errors import UserError
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.transformer import Attention, Block, attend

BATCH, HEADS, TOKENS, WIDTH = 2, 2, 6, 4
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, -1], [3, 3, 5, 5, 5, 5]])
BLOCKS = torch.tensor([[0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 2, 2]])
KEYS = torch.tensor([[True, True, True, True, False, False], [True] * 6])


def scores_like(batch=BATCH, heads=HEADS, seed=2):
    return torch.randn(batch, heads, TOKENS, TOKENS, generator=torch.Generator().manual_seed(seed))


LAYOUTS = {
    "none": {},
    "segments": {"segments": SEGMENTS},
    "shared segments": {"segments": SEGMENTS[:1]},
    "causal": {"order": "causal"},
    "causal segments": {"segments": SEGMENTS, "order": "causal"},
    "block-causal": {"order": "block-causal", "blocks": BLOCKS},
    "block-causal segments": {"segments": SEGMENTS, "order": "block-causal", "blocks": BLOCKS},
    "keys": {"keys": KEYS},
    "keys, causal": {"keys": KEYS, "order": "causal"},
    "bias": {"bias": scores_like()},
    "bias of all heads and samples": {"bias": scores_like(1, 1)},
    "bias, causal segments": {"bias": scores_like(BATCH, 1), "segments": SEGMENTS, "order": "causal"},
    "bias, keys": {"bias": scores_like(), "keys": KEYS},
    "gate": {"gate": scores_like().abs()},
    "gate, bias, keys": {"gate": scores_like(1, HEADS, 3), "bias": scores_like(), "keys": KEYS},
    "gate, causal": {"gate": scores_like(1, 1), "order": "causal"},
}


def qkv(dtype=torch.float64):
    return torch.randn(3, BATCH, HEADS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)


def sees(options, sample, query, key):
    """The docstring, one pair at a time."""
    segments, blocks, keys = (options.get(name) for name in ("segments", "blocks", "keys"))
    if query == key and (segments is not None or "order" in options):
        return True
    if segments is not None:
        row = segments[min(sample, len(segments) - 1)]
        if row[query] != row[key] or row[key] == -1:
            return False
    if keys is not None and not keys[sample, key]:
        return False
    if options.get("order") == "causal":
        return key <= query
    return blocks is None or bool(blocks[sample, key] <= blocks[sample, query])


def by_hand(q, k, v, options):
    q, k, v = q.double(), k.double(), v.double()
    bias, gate = options.get("bias", torch.zeros(1)), options.get("gate", torch.ones(1))
    bias, gate = (part.double().expand(BATCH, HEADS, TOKENS, TOKENS) for part in (bias, gate))
    out = []
    for b, h, n in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        seen = [m for m in range(TOKENS) if sees(options, b, n, m)]
        weights = torch.softmax(k[b, h, seen] @ q[b, h, n] / WIDTH**0.5 + bias[b, h, n, seen], dim=0)
        out.append((weights * gate[b, h, n, seen]) @ v[b, h, seen])
    return torch.stack(out).reshape(q.shape)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_value_and_gradient_against_the_formula(name, dtype, tolerance):
    options, inputs = LAYOUTS[name], qkv(dtype)
    results = []
    for function in (attend, by_hand):
        leaves = inputs.clone().requires_grad_()
        out = function(*leaves, AttentionLayout(**options) if function is attend else options)
        (out * torch.linspace(-1, 1, WIDTH)).sum().backward()
        results.append((out.detach().double(), leaves.grad.double()))
        assert out.dtype == (dtype if function is attend else torch.float64)
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "bias" in name or "gate" in name])
def test_bias_and_gate_learn(name):
    options = {key: part.double().requires_grad_() if key in ("bias", "gate") else part for key, part in LAYOUTS[name].items()}
    learned = [part for key, part in options.items() if key in ("bias", "gate")]
    layout, (q, k, v) = AttentionLayout(**options), qkv()
    with torch.no_grad():
        attend(q, k, v, layout)  # what was worked out without gradient must not be taken for what needs it
    for _ in range(2):  # nor a graph that was already walked
        ours = torch.autograd.grad(attend(q, k, v, layout).square().sum(), learned)
    expected = torch.autograd.grad(by_hand(q, k, v, options).square().sum(), learned)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3), st.sampled_from(["none", "causal"]))
def test_packed_segments_equal_separate_forwards(lengths, padding, order):
    """Value and gradient of two blocks over packed pieces, padding behind, against each piece alone."""
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(Block(8, 2) for _ in range(2))
    pieces = [torch.randn(1, length, 8) for length in lengths]
    numbers = [number for number, length in enumerate(lengths) for _ in range(length)] + [-1] * padding
    layout = AttentionLayout(segments=torch.tensor([numbers]), order=order)

    def gradients(outputs):
        loss = sum((out * torch.linspace(-1, 2, 8)).square().sum() for out in outputs)
        return torch.autograd.grad(loss, list(blocks.parameters()))

    def through(x, layout):
        for block in blocks:
            x = block(x, layout)
        return x

    packed = through(torch.cat([*pieces, torch.full((1, padding, 8), 7.0)], dim=1), layout)
    assert packed.isfinite().all()
    together = packed[:, : sum(lengths)].split(lengths, dim=1)
    apart = [through(piece, AttentionLayout(order=order)) for piece in pieces]
    for one, other in zip([*together, *gradients(together)], [*apart, *gradients(apart)], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "layout",
    [
        AttentionLayout.padding(torch.tensor([4, 0]), TOKENS),
        AttentionLayout(segments=torch.tensor([[0, 0, 1, 1, -1, -1], [-1] * 6])),
        AttentionLayout(segments=torch.tensor([[0, 0, 1, 1, -1, -1], [-1] * 6]), order="causal"),
    ],
    ids=["lengths", "segments", "causal segments"],
)
def test_padding_leaks_nothing_and_is_never_nan(layout, dtype):
    torch.manual_seed(0)
    attention = Attention(8, 2).to(dtype)
    x = torch.randn(2, TOKENS, 8, dtype=dtype, requires_grad=True)
    changed = x.detach().clone()
    changed[0, 4:] = 1e3
    out = attention(x, layout)
    torch.testing.assert_close(attention(changed, layout)[0, :4], out[0, :4], rtol=0, atol=0)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    (gradient,) = torch.autograd.grad(attention(x, layout)[0, :4].square().sum(), x)
    assert not gradient[0, 4:].any()
    assert not gradient[1].any()


def test_what_is_seen_is_worked_out_once_and_padding_stays_cheap():
    layout = AttentionLayout.padding(torch.tensor([2, 3]), 5)
    first = layout.mask(5, torch.device("cpu"), torch.float32)
    assert first.shape == (2, 1, 1, 5)
    assert layout.mask(5, torch.device("cpu"), torch.bfloat16) is first
    biased = AttentionLayout(bias=torch.zeros(1, 1, 5, 5), order="causal")
    assert biased.mask(5, torch.device("cpu"), torch.float32) is biased.mask(5, torch.device("cpu"), torch.float32)
    assert AttentionLayout().mask(5, torch.device("cpu"), torch.float32) is None
    assert AttentionLayout(order="causal").is_causal
    assert not AttentionLayout(order="causal", segments=SEGMENTS).is_causal


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionLayout(order="block-causal"), "without blocks"),
        (lambda: AttentionLayout(order="causal", blocks=BLOCKS), "with blocks"),
        (lambda: attend(*qkv(), AttentionLayout(segments=SEGMENTS[:, :4])), r"segments \[2, 4\] is for 4 tokens"),
        (lambda: attend(*qkv(), AttentionLayout(gate=torch.ones(1, 1, 3, 3))), "gate .* the sequence has 6"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()
