"""The predictor of the masked shape: context tokens and mask tokens in, predicted embeddings at the queries out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError, check_range
from jepakit.nn.positions import sincos_2d
from jepakit.nn.tokens import Ids, Tokens
from jepakit.nn.transformer import Block, initialise_transformer
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Shape of the masked predictor: narrower than the encoder, as deep as is worth it (paper: 384 wide, 12 deep)."""

    dim: int = 384
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads"):
            check_range(f"predictor.{name}", getattr(self, name), 1)
        if self.dim % self.heads or self.dim % 4:
            raise UserError(f"predictor.dim {self.dim} must be a multiple of heads ({self.heads}) and of 4.")

    @classmethod
    def of_size(cls, size: str, dim: int | None = None, depth: int | None = None) -> PredictorConfig:
        """The predictor of a named size, with another width or depth where given."""
        size_dim, size_depth, heads = SIZES[size]["predictor"]
        return cls(dim=size_dim if dim is None else dim, depth=size_depth if depth is None else depth, heads=heads)


class MaskedPredictor(nn.Module):
    """Transformer over `[context tokens, mask tokens at the queried positions]` (I-JEPA, arXiv 2301.08243, section 3).

    Args:
        config: its shape.
        encoder_dim: width of the tokens it reads.
        grid: `(rows, columns)` of the tokens.
        output_dim: width of the predictions, the encoder's when None.
    """

    def __init__(
        self, config: PredictorConfig, encoder_dim: int, grid: tuple[int, int], output_dim: int | None = None
    ):
        super().__init__()
        self.predictor_embed = nn.Linear(encoder_dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.predictor_pos_embed = nn.Parameter(sincos_2d(grid, config.dim)[None], requires_grad=False)
        self.predictor_blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.predictor_proj = nn.Linear(config.dim, output_dim or encoder_dim)
        self.columns = grid[1]
        initialise_transformer(self, self.predictor_blocks)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context: Tokens, queries: Ids) -> Float[Tensor, "batch queries output_dim"]:
        """Predictions at the queried token ids; rows of padding (beyond `queries.lengths`) hold no meaning."""
        table = self.predictor_pos_embed.expand(len(queries.values), -1, -1)
        context_ids = Ids(context.positions[..., 0] * self.columns + context.positions[..., 1])
        x = torch.cat(
            [
                self.predictor_embed(context.values) + context_ids.gather(table),
                self.mask_token + queries.gather(table),
            ],
            dim=1,
        )
        keys = None
        if context.lengths is not None or queries.lengths is not None:
            keys = torch.cat([context.valid, queries.valid], dim=1)[:, None, None, :]
        for block in self.predictor_blocks:
            x = block(x, keys)
        return self.predictor_proj(self.predictor_norm(x[:, context.values.shape[1] :]))
