"""The predictor of the masked shape: context tokens and mask tokens in, predicted embeddings at the queries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.packing import Packing
from jepakit.nn.positions import grid_ids, grid_positions, sincos_table
from jepakit.nn.rotary import Rotation, axis_width, rotary_angles, stretched
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
        encoder_dim: width of the tokens it reads: the encoder's, times the number of its levels.
        grid: sizes of the grid of tokens, one to three axes, such as `(rows, columns)`.
        output_dim: width of the predictions, `encoder_dim` when None.
        embed_hidden: width of a hidden layer between the encoder's tokens and the predictor's, for the several levels of
            V-JEPA 2.1 (arXiv 2603.14482); None: one linear layer.
        visible: build a second head that predicts at the context's own tokens (V-JEPA 2.1's dense loss).
        condition_dim: width of a condition, embedded by a linear layer; None: a condition has the predictor's width.
        rotation: positions are rotary ones (V-JEPA 2), see `nn.rotary`; None: a fixed table, added to the tokens.
        stretch: (rows, columns) that rotary positions are stretched to (V-JEPA 2.1); None: they are as they are.
        mask_tokens: how many there are; a query's kind says which one asks (V-JEPA: one for each kind of mask).
    """

    def __init__(
        self,
        config: PredictorConfig,
        encoder_dim: int,
        grid: tuple[int, ...],
        output_dim: int | None = None,
        *,
        embed_hidden: int | None = None,
        visible: bool = False,
        condition_dim: int | None = None,
        rotation: Rotation | None = None,
        stretch: tuple[int, int] | None = None,
        mask_tokens: int = 1,
    ):
        super().__init__()
        check_range("mask_tokens", mask_tokens, 1)
        self.config, self.grid, self.rotation, self.stretch = config, tuple(grid), rotation, stretch
        self.predictor_embed = _embed(encoder_dim, embed_hidden, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(mask_tokens, 1, config.dim))
        if rotation is None:
            self.predictor_pos_embed = nn.Parameter(sincos_table(self.grid, config.dim)[None], requires_grad=False)
        else:
            self.turned = axis_width(config.dim // config.heads, len(self.grid))
        self.predictor_blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.predictor_proj = nn.Linear(config.dim, output_dim or encoder_dim)
        self.predictor_proj_context = nn.Linear(config.dim, output_dim or encoder_dim) if visible else None
        self.condition_embed = None if condition_dim is None else nn.Linear(condition_dim, config.dim)
        initialise_transformer(self, self.predictor_blocks)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    @overload
    def forward(
        self,
        context: Tokens,
        queries: Ids,
        visible: Literal[False] = False,
        condition: Tensor | None = None,
        parts: Tensor | None = None,
        kind: int | Tensor = 0,
        grid: tuple[int, ...] | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        context: Tokens,
        queries: Ids,
        visible: Literal[True],
        condition: Tensor | None = None,
        parts: Tensor | None = None,
        kind: int | Tensor = 0,
        grid: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        context: Tokens,
        queries: Ids,
        visible: bool = False,
        condition: Float[Tensor, "batch *count width"] | None = None,
        parts: Int[Tensor, "batch queries"] | None = None,
        kind: int | Int[Tensor, "batch"] = 0,
        grid: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "batch queries out"] | tuple[Float[Tensor, "batch queries out"], Float[Tensor, "batch seen out"]]:
        """Predictions at the queried token ids, `[batch, queries, output_dim]`.

        Rows of padding (beyond `queries.lengths`) hold no meaning. Several levels of context tokens, `[batch, tokens,
        levels, dim]`, are read side by side.

        Args:
            visible: also return predictions at the context's tokens, `[batch, context tokens, output_dim]`.
            condition: what else the prediction depends on. `[batch, width]` is added to every token (a latent variable,
                an embedding of the modality); `[batch, count, width]` joins the sequence as tokens without position (the
                parameters of a transformation, one a token).
            parts: numbers from 1; a query then sees the context and the queries of its own part, and the context, read once
                for all of them, sees itself.
            kind: number of the mask token that asks, one for all rows or one each.
            grid: of the tokens, where positions are rotary and the clip is of another size than the predictor was made for.
        """
        here, there = self.predictor_embed(context.values.flatten(2)), self.mask_token[kind]
        angles = None
        if self.rotation is None:
            table = self.predictor_pos_embed.expand(len(queries.values), -1, -1)
            context_ids = Ids(grid_ids(context.positions, self.grid))
            x = torch.cat([here + context_ids.gather(table), there + queries.gather(table)], dim=1)
        else:
            angles = self._angles(context.positions, queries, grid or self.grid)
            x = torch.cat([here.to(there.dtype), there.expand(*queries.values.shape, -1)], dim=1)
        seen, asked = context.values.shape[1], queries.values.shape[1]
        embedded = self._condition(condition)
        if embedded is not None and embedded.dim() == 2:
            x = x + embedded[:, None]
        elif embedded is not None:
            x = torch.cat([x, embedded], dim=1)
        further = x.shape[1] - seen - asked
        if angles is not None:
            angles = F.pad(angles, (0, 0, 0, further))  # what has no position is not turned
        # 0 is the part that all see: the context and the condition.
        blocks = None if parts is None else F.pad(parts, (seen, further))
        packing = Packing.of([(context.lengths, seen), (queries.lengths, asked), (None, further)], x.device, blocks)
        if packing is not None:
            x = packing.pack(x)
            angles = None if angles is None else packing.pack(angles)
        layout = packing or self._layout(context, queries, further, blocks)
        for block in self.predictor_blocks:
            x = block(x, layout, angles)
        if packing is not None:
            x = packing.unpack(x)
        predictions = self.predictor_proj(self.predictor_norm(x[:, seen : seen + asked]))
        if not visible:
            return predictions
        if self.predictor_proj_context is None:
            raise UserError("This predictor has no head for visible tokens. Build it with visible=True.")
        return predictions, self.predictor_proj_context(self.predictor_norm(x[:, :seen]))

    def _angles(self, places: Tensor, queries: Ids, grid: tuple[int, ...]) -> Float[Tensor, "batch tokens turned"]:
        """Of the context's tokens and of the queries."""
        table = grid_positions(grid, places.device).expand(len(queries.values), -1, -1)
        positions = torch.cat([places, queries.gather(table)], dim=1)
        if self.stretch is not None:
            positions = stretched(positions, grid, self.stretch)
        return rotary_angles(positions, self.turned, self.rotation or "paired")

    def _layout(self, context: Tokens, queries: Ids, further: int, blocks: Tensor | None) -> AttentionLayout | None:
        """Of the padded sequence: context, queries, tokens of a condition."""
        keys = None
        if context.lengths is not None or queries.lengths is not None:
            keys = F.pad(torch.cat([context.valid, queries.valid], dim=1), (0, further), value=True)
        if blocks is not None:
            return AttentionLayout(keys=keys, order="star", blocks=blocks)
        return None if keys is None else AttentionLayout(keys=keys)

    def _condition(self, condition: Tensor | None) -> Tensor | None:
        """The condition in the predictor's width."""
        if self.condition_embed is not None:
            if condition is None or condition.shape[-1] != self.condition_embed.in_features:
                given = "none" if condition is None else list(condition.shape)
                raise UserError(
                    f"The predictor expects a condition [batch, {self.condition_embed.in_features}], got {given}."
                )
            return self.condition_embed(condition)
        width = self.mask_token.shape[-1]
        if condition is not None and condition.shape[-1] != width:
            raise UserError(
                f"A condition of width {condition.shape[-1]} does not fit the predictor's {width}. Build it with condition_dim."
            )
        return condition


def _embed(width: int, hidden: int | None, dim: int) -> nn.Module:
    if hidden is None:
        return nn.Linear(width, dim)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, dim))
