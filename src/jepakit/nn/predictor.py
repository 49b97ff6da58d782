"""The predictor of the masked shape: context tokens and mask tokens in, predicted embeddings at the queries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.coordinates import CoordinateEmbedding, CoordinatesConfig
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
        grid: sizes of the grid of tokens, one to three axes, such as `(rows, columns)`; `()` with coordinates.
        output_dim: width of the predictions, `encoder_dim` when None.
        embed_hidden: width of a hidden layer between the encoder's tokens and the predictor's, for the several levels of
            V-JEPA 2.1 (arXiv 2603.14482); None: one linear layer.
        visible: build a second head that predicts at the context's own tokens (V-JEPA 2.1's dense loss).
        condition_dim: width of a condition, embedded by a linear layer; None: a condition has the predictor's width.
        rotation: positions are rotary ones (V-JEPA 2), see `nn.rotary`; None: a fixed table, added to the tokens.
        stretch: (rows, columns) that rotary positions are stretched to (V-JEPA 2.1); None: they are as they are.
        coordinates: positions are real coordinates, see `nn.coordinates`; None: they are indices of the grid.
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
        coordinates: CoordinatesConfig | None = None,
        mask_tokens: int = 1,
    ):
        super().__init__()
        check_range("mask_tokens", mask_tokens, 1)
        if coordinates is not None and (grid or rotation is not None):
            raise UserError(
                f"coordinates: real coordinates lie on no grid, got grid {tuple(grid)} and rotation {rotation!r}. Give "
                "grid () and no rotation, or leave coordinates out."
            )
        self.config, self.grid, self.rotation, self.stretch = config, tuple(grid), rotation, stretch
        self.predictor_embed = _embed(encoder_dim, embed_hidden, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(mask_tokens, 1, config.dim))
        self.coordinate_embed = None if coordinates is None else CoordinateEmbedding(coordinates, config.dim)
        if coordinates is None and rotation is None:
            self.predictor_pos_embed = nn.Parameter(sincos_table(self.grid, config.dim)[None], requires_grad=False)
        elif coordinates is None:
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
        positions: Tensor | None = None,
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
        positions: Tensor | None = None,
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
        positions: Num[Tensor, "samples tokens axes"] | None = None,
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
            positions: of all tokens, which the queries' ids count; neighbouring rows of queries may be of one sample (see
                `Ids.gather`). Indices of the grid, or real coordinates. None: the ids count the grid in raster order.

        Errors: real coordinates for a predictor that knows a grid; coordinates of another number of axes, or none.
        """
        here, there = self.predictor_embed(context.values.flatten(2)), self.mask_token[kind]
        angles = None
        at_context, at_queries = context.positions, self._query_positions(context, queries, positions, grid or self.grid)
        if self.rotation is not None:
            angles = self._angles(torch.cat([at_context, at_queries], dim=1), grid or self.grid)
            x = torch.cat([here.to(there.dtype), there.expand(*queries.values.shape, -1)], dim=1)
        else:
            x = torch.cat([here + self._embedded(at_context, context), there + self._embedded(at_queries, queries)], dim=1)
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

    def _query_positions(
        self, context: Tokens, queries: Ids, positions: Tensor | None, grid: tuple[int, ...]
    ) -> Num[Tensor, "batch queries axes"]:
        """Positions of the queries, checked against what this predictor knows of places."""
        if self.coordinate_embed is None:
            if positions is None:
                positions = grid_positions(grid, context.positions.device)[None]
            axes, known = len(self.grid), f"indices of its grid of {' x '.join(map(str, self.grid))} tokens"
            for places in (positions, context.positions):
                if places.is_floating_point():
                    raise UserError(
                        f"positions: this predictor knows {known}, got real coordinates ({places.dtype}). Build it with "
                        "coordinates=CoordinatesConfig(...), or give whole numbers."
                    )
        else:
            axes, known = self.coordinate_embed.config.axes, f"{self.coordinate_embed.config.axes} coordinates a token"
            if positions is None:
                raise UserError(f"positions: this predictor expects {known}, of all tokens, got none. Give positions.")
        for places in (positions, context.positions):
            if places.shape[-1] != axes:
                raise UserError(
                    f"positions: this predictor knows {known}, got {places.shape[-1]} numbers a token. Give {axes}."
                )
        return queries.gather(positions)

    def _embedded(self, places: Tensor, tokens: Tokens | Ids) -> Float[Tensor, "batch tokens dim"]:
        """Positions as vectors to be added: rows of the table, or embedded coordinates."""
        if self.coordinate_embed is None:
            return Ids(grid_ids(places, self.grid)).gather(self.predictor_pos_embed)
        if tokens.lengths is not None:  # coordinates of padding may be anything, no number included
            places = torch.where(tokens.valid[..., None], places, 0)
        return self.coordinate_embed(places)

    def _angles(self, places: Tensor, grid: tuple[int, ...]) -> Float[Tensor, "batch tokens turned"]:
        """Rotary angles of tokens at these places of the grid."""
        if self.stretch is not None:
            places = stretched(places, grid, self.stretch)
        return rotary_angles(places, self.turned, self.rotation or "paired")

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
