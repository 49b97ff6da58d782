"""Pre-norm transformer blocks; names are timm's (`norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`, `mlp.fc2`)."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


def attend(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys head_dim"],
    keys: Bool[Tensor, "batch 1 1 keys"] | None = None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Scaled dot-product attention; `keys` is False for keys that nobody may see."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # The fused CPU kernel's bfloat16 backward is 2 to 8 times slower than these plain products (torch 2.13).
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if keys is not None:
            scores = scores.masked_fill(~keys, -torch.inf)
        return scores.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys)


class Attention(nn.Module):
    """Multi-head self-attention over `[batch, tokens, dim]`; `keys` hides padding."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], keys: Bool[Tensor, "batch 1 1 tokens"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        out = attend(q, k, v, keys)
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each on a normalised input and added to the residual stream."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, round(dim * mlp_ratio))

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], keys: Bool[Tensor, "batch 1 1 tokens"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.attn(self.norm1(x), keys)
        return x + self.mlp(self.norm2(x))


def initialise_transformer(module: nn.Module, blocks: nn.ModuleList) -> None:
    """Xavier uniform for linear and patch layers, zero biases, and residual outputs scaled by 1/sqrt(2 depth index).

    The released models draw from a normal of 0.02, which suits a width of 1024. At 128 it leaves tokens that are nearly
    all position: targets that a prediction can reach without looking, and I-JEPA collapses. Xavier (as MAE) keeps
    content and position alike in size at any width. The rescale is the released constructors'.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.flatten(1))  # a patch layer is a linear layer over its pixels
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for index, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)  # for the type checker: a ModuleList does not say what it holds
        block.attn.proj.weight.data.div_(math.sqrt(2.0 * index))
        block.mlp.fc2.weight.data.div_(math.sqrt(2.0 * index))
