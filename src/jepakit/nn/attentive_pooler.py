"""The attentive probe of V-JEPA (arXiv 2404.08471, section 5) and V-JEPA 2 (arXiv 2506.09985): a transformer that reads tokens.

Names are the released code's, so that released probes load: `blocks.N`, `cross_attention_block`, `query_tokens`, `linear`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.transformer import MLP, Block


@dataclass(frozen=True, kw_only=True)
class AttentivePoolerConfig:
    """Shape of the probe.

    dim, heads: of the tokens it reads, and its own. blocks: of self-attention before the query looks (V-JEPA none, V-JEPA 2
    three). queries: vectors that look (action anticipation has one for each question). eps: of its norms, 1e-5 in released
    probes and 1e-6 in `transformers`.
    """

    dim: int
    heads: int = 16
    blocks: int = 0
    queries: int = 1
    mlp_ratio: float = 4.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("dim", "heads", "queries"):
            check_range(f"pooler.{name}", getattr(self, name), 1)
        check_range("pooler.blocks", self.blocks, 0)
        if self.dim % self.heads:
            raise UserError(f"pooler.dim {self.dim} must be a multiple of heads ({self.heads}).")


class CrossAttention(nn.Module):
    """Queries look at tokens. No layer mixes the heads afterwards: released probes were trained without it."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def forward(
        self, queries: Float[Tensor, "batch queries dim"], tokens: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch queries dim"]:
        q = rearrange(self.q(queries), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(tokens), "b n (two h d) -> two b h n d", two=2, h=self.heads)
        return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


class CrossAttentionBlock(nn.Module):
    """Cross-attention to normalised tokens and an MLP, each added to the queries."""

    def __init__(self, config: AttentivePoolerConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.eps)
        self.xattn = CrossAttention(config.dim, config.heads)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.eps)
        self.mlp = MLP(config.dim, round(config.dim * config.mlp_ratio))

    def forward(
        self, queries: Float[Tensor, "batch queries dim"], tokens: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch queries dim"]:
        queries = queries + self.xattn(queries, self.norm1(tokens))
        return queries + self.mlp(self.norm2(queries))


class AttentivePooler(nn.Module):
    """`pooler(tokens [batch, tokens, dim]) -> [batch, queries, dim]`."""

    def __init__(self, config: AttentivePoolerConfig):
        super().__init__()
        self.config = config
        self.query_tokens = nn.Parameter(torch.zeros(1, config.queries, config.dim))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio, config.eps) for _ in range(config.blocks)
        )
        self.cross_attention_block = CrossAttentionBlock(config)
        for index, layer in enumerate([*self.blocks, self.cross_attention_block], start=1):
            _initialise(layer, index)
        nn.init.trunc_normal_(self.query_tokens, std=0.02)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch queries dim"]:
        if tokens.shape[-1] != self.config.dim:
            raise UserError(f"The probe reads tokens of {self.config.dim} numbers, got {list(tokens.shape)}.")
        for block in self.blocks:
            tokens = block(tokens)
        return self.cross_attention_block(self.query_tokens.expand(len(tokens), -1, -1), tokens)


class AttentiveClassifier(nn.Module):
    """A pooler and a linear layer: `[batch, tokens, dim] -> [batch, outputs]`."""

    def __init__(self, config: AttentivePoolerConfig, outputs: int):
        super().__init__()
        check_range("outputs", outputs, 1)
        self.pooler = AttentivePooler(config)
        self.linear = nn.Linear(config.dim * config.queries, outputs)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch outputs"]:
        return self.linear(self.pooler(tokens).flatten(1))


def _initialise(block: nn.Module, index: int) -> None:
    """As released: a truncated normal of 0.02, what is added to the tokens the smaller the deeper."""
    for name, layer in block.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
            if name.endswith(("attn.proj", "mlp.fc2")):
                layer.weight.data.div_((2.0 * index) ** 0.5)
