"""A transformer block that a condition steers: adaptive layer norm with gates, closed at the start (AdaLN-zero)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import check_range
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.transformer import MLP, Attention, ZeroLinear


class ModulatedBlock(nn.Module):
    """`Block` whose norms take scale and shift, and whose branches take a gate, from a condition (DiT, arXiv 2212.09748).

    Each token has its own condition, such as the action taken at its time step. Scale, shift and gate come from a linear
    layer that starts at zero: the block then passes its input on unchanged, and the condition enters as far as it helps
    (LeWorldModel, arXiv 2603.19312, conditions each layer of its predictor on actions so).

    Args:
        dim: width of the tokens.
        heads: attention heads.
        condition_dim: width of the condition.
        dropout: share of each branch's output that training sets to 0.
        head_dim: width of a head; None: `dim / heads`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        condition_dim: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        head_dim: int | None = None,
    ):
        super().__init__()
        check_range("dropout", dropout, 0, 1)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(dim, heads, head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.mlp = MLP(dim, round(dim * mlp_ratio))
        self.modulation = nn.Sequential(nn.SiLU(), ZeroLinear(condition_dim, 6 * dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        condition: Float[Tensor, "#batch #tokens condition_dim"],
        layout: AttentionLayout | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """`condition` may have one token for all, or one sample for all."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        x = x + gate1 * self.dropout(self.attn(self.norm1(x) * (1 + scale1) + shift1, layout))
        return x + gate2 * self.dropout(self.mlp(self.norm2(x) * (1 + scale2) + shift2))
