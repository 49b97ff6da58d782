"""Pre-norm transformer blocks; names are timm's (`norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`, `mlp.fc2`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError
from jepakit.nn.attention_layout import AttentionLayout, attend
from jepakit.nn.packing import Packing
from jepakit.nn.rotary import Rotation, axis_width, rotary_angles, rotate
from jepakit.nn.tokens import Ids, Tokens

# Bytes of an MLP's hidden tokens that a CPU works on at once. glibc takes larger ones from the system for every layer anew,
# page by page: a token of 12,000 costs a tenth more than one of 4,000 (ViT-S, `python -m benchmarks ragged`).
PIECE = 24 * 2**20


class Attention(nn.Module):
    """Multi-head self-attention over `[batch, tokens, dim]`, or over packed tokens; `layout` says who sees whom.

    head_dim: width of a head; None: `dim / heads`, so that the heads together are as wide as the tokens.

    angles: of rotary positions, by which queries and keys are turned, see `nn.rotary`.
    """

    def __init__(self, dim: int, heads: int, head_dim: int | None = None):
        super().__init__()
        self.heads, inner = heads, dim if head_dim is None else heads * head_dim
        self.qkv = nn.Linear(dim, 3 * inner)
        self.proj = nn.Linear(inner, dim)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        layout: AttentionLayout | Packing | None = None,
        angles: Float[Tensor, "#batch tokens turned"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        if isinstance(layout, Packing) and angles is None:
            return self.proj(layout.attend(self.qkv(x), self.heads))
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        if isinstance(layout, Packing):
            turned = rearrange(torch.stack([q, k, v]), "three b h n d -> b n (three h d)")
            return self.proj(layout.attend(turned, self.heads))
        out = attend(q, k, v, layout)
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

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, round(dim * mlp_ratio))

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        layout: AttentionLayout | Packing | None = None,
        angles: Float[Tensor, "#batch tokens turned"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        if isinstance(layout, Packing) and not x.is_cuda:
            pieces = layout.pieces(PIECE // (self.mlp.fc1.out_features * x.element_size()))
            if len(pieces) > 1:
                sizes = [sum(piece.sizes) for piece in pieces]
                turned = [None] * len(sizes) if angles is None else angles.split(sizes, dim=1)
                parts = zip(x.split(sizes, dim=1), pieces, turned, strict=True)
                return torch.cat([self(*part) for part in parts], dim=1)
        x = x + self.attn(self.norm1(x), layout, angles)
        return x + self.mlp(self.norm2(x))


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero and that `initialise_transformer` leaves there."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class TokenTransformer(nn.Module):
    """Blocks over embedded tokens with the choice of tokens and of depths: what encoders of any modality share.

    A subclass makes its stem and positions first, calls `add_blocks` last in its constructor, and turns its inputs into
    tokens for `run`.
    """

    blocks: nn.ModuleList
    norm: nn.LayerNorm
    norms_block: nn.ModuleList
    level_norms: tuple[int, ...] = ()
    rotation: Rotation | None = None

    def add_blocks(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        level_norms: Sequence[int] = (),
        rotation: Rotation | None = None,
    ) -> None:
        """Blocks and final norm, then initial weights for everything that the module holds.

        rotation: how queries and keys are turned by the positions that `run` gets; None: they are not, and what is embedded
        knows its place.
        level_norms: block numbers (1-based, `depth` last) with a norm of their own instead of the one `norm` (V-JEPA 2.1,
        `norms_block`); `run` then returns these levels and no others.
        """
        if level_norms and (list(level_norms) != sorted(set(level_norms)) or level_norms[-1] != depth or level_norms[0] < 1):
            raise UserError(f"level_norms {list(level_norms)} must rise from at least 1 to the depth {depth}.")
        self.rotation = rotation
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.level_norms = tuple(level_norms)
        if level_norms:
            self.norms_block = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in level_norms)
        else:
            self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise_transformer(self, self.blocks)

    def run(
        self,
        x: Float[Tensor, "batch tokens dim"],
        positions: Tensor,
        keep: Ids | None = None,
        levels: Sequence[int] | None = None,
        layout: AttentionLayout | None = None,
        turn_by: Tensor | None = None,
    ) -> Tokens:
        """Normalised outputs for all tokens, or only for those kept, which do not see the others.

        Args:
            x: embedded tokens, positions added.
            positions: `[batch, tokens, axes]`.
            turn_by: positions for the rotation where they are not those, `[batch, tokens, axes]`.
            keep: ids of the tokens to encode, ragged allowed.
            levels: block numbers (1-based, `depth` is the last) whose outputs are returned as `[batch, tokens, levels,
                dim]`; None: the last block's, `[batch, tokens, dim]`.
            layout: who sees whom among the tokens that are kept; None: all but padding.
        """
        self._check_levels(levels)
        lengths, angles = None, None
        if self.rotation is not None:
            turn_by = positions if turn_by is None else turn_by
            attention: Any = self.blocks[0].attn
            width = axis_width(x.shape[-1] // attention.heads, turn_by.shape[-1])
            angles = rotary_angles(turn_by, width, self.rotation)
        if keep is not None:
            x, positions, lengths = keep.gather(x), keep.gather(positions), keep.lengths
            angles = None if angles is None else keep.gather(angles)
        packing = None if layout is not None else Packing.of([(lengths, x.shape[1])], x.device)
        seen = packing or layout
        if packing is not None:
            x = packing.pack(x)
            angles = None if angles is None else packing.pack(angles)
        elif layout is None and lengths is not None:
            seen = AttentionLayout.padding(lengths, x.shape[1], x.device)
        outputs: dict[int, Tensor] = {}
        last = len(self.blocks)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, seen, angles)
            if number in (levels or (last,)):
                output = self._normalise(x, number)
                outputs[number] = output if packing is None else packing.unpack(output)
        if levels is None:
            return Tokens(outputs[last], positions, lengths)
        return Tokens(torch.stack([outputs[level] for level in levels], dim=2), positions, lengths)

    def _normalise(self, x: Tensor, number: int) -> Tensor:
        return self.norms_block[self.level_norms.index(number)](x) if self.level_norms else self.norm(x)

    def _check_levels(self, levels: Sequence[int] | None) -> None:
        depth = len(self.blocks)
        if levels is None:
            return
        if not levels or not all(1 <= level <= depth for level in levels):
            raise UserError(f"levels {list(levels)} must lie between 1 and the depth {depth}.")
        if self.level_norms and not set(levels) <= set(self.level_norms):
            raise UserError(f"levels {list(levels)}: this encoder has norms for the levels {list(self.level_norms)} only.")


def initialise_transformer(module: nn.Module, blocks: nn.ModuleList) -> None:
    """Xavier uniform for linear and patch layers, zero biases, and residual outputs scaled by 1/sqrt(2 depth index).

    The released models draw from a normal of 0.02, which suits a width of 1024. At 128 it leaves tokens that are nearly
    all position: targets that a prediction can reach without looking, and I-JEPA collapses. Xavier (as MAE) keeps
    content and position alike in size at any width. The rescale is the released constructors'.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d) and not isinstance(layer, ZeroLinear):
            nn.init.xavier_uniform_(layer.weight.flatten(1))  # a patch layer is a linear layer over its pixels
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for index, block in enumerate(blocks, start=1):
        for name in ("attn.proj.weight", "mlp.fc2.weight"):
            block.get_parameter(name).data.div_(math.sqrt(2.0 * index))
