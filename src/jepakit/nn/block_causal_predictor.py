"""A dynamics predictor on tokens: a time step is a block of [action, condition?, tokens] that sees itself and the past.

The predictor of V-JEPA 2-AC (arXiv 2506.09985, section 3.1). No mask is ever made: a step's queries are given the keys of the
steps up to it and no others, in a whole window as in a rollout, which keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_choice, check_range
from jepakit.nn.attention_layout import AttentionLayout, attend
from jepakit.nn.positions import grid_positions
from jepakit.nn.rotary import Rotation, axis_width, rotary_angles, rotate
from jepakit.nn.transformer import Block, ZeroLinear, initialise_transformer
from jepakit.registry import SIZES

KeysValues = tuple[Float[Tensor, "_batch heads _kept head_dim"], Float[Tensor, "_batch heads _kept head_dim"]]


@dataclass(frozen=True, kw_only=True)
class BlockCausalPredictorConfig:
    """Shape of the predictor, and of what it reads.

    embedding, action: widths of a token and of an action; grid: (rows, columns) of the tokens of an observation; condition:
    width of a further token a step, such as an arm's pose (0: there is none); dim, depth, heads, mlp_ratio: of the
    transformer; residual: what is predicted is the change of each token, at first none; rotation: "tiled" for released weights,
    see `nn.rotary`.
    """

    embedding: int
    action: int
    grid: tuple[int, int]
    condition: int = 0
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    residual: bool = False
    rotation: Rotation = "paired"

    def __post_init__(self) -> None:
        for name in ("embedding", "action", "dim", "depth", "heads"):
            check_range(f"predictor.{name}", getattr(self, name), 1)
        check_range("predictor.grid", min(self.grid), 1)
        check_range("predictor.condition", self.condition, 0)
        check_choice("predictor.rotation", self.rotation, get_args(Rotation))
        if self.dim % self.heads:
            raise UserError(f"predictor.dim {self.dim} must be a multiple of heads ({self.heads}).")
        axis_width(self.dim // self.heads)

    @classmethod
    def of_size(
        cls, size: str, embedding: int, action: int, grid: tuple[int, int], residual: bool = False
    ) -> BlockCausalPredictorConfig:
        """The predictor of a named size (`jepakit list sizes`)."""
        dim, depth, heads = SIZES[size]["predictor"]
        return cls(embedding=embedding, action=action, grid=grid, dim=dim, depth=depth, heads=heads, residual=residual)


@dataclass(frozen=True, eq=False)
class Past:
    """The state of `BlockCausalPredictor`: the newest observation, and of each block the keys and values of the steps before.

    time: observations before the newest; valid: which of the tokens kept are real, None where all samples have seen equally
    many observations.
    """

    newest: Float[Tensor, "batch tokens embedding"]
    time: Int[Tensor, "batch"]
    kept: tuple[KeysValues, ...]
    valid: Bool[Tensor, "batch kept"] | None


class BlockCausalPredictor(nn.Module):
    """The tokens of the next observation from those of all before, actions and, where there is one, a condition a step.

    Every token sees its own step and the earlier ones. Positions are rotary: (time, row, column) for the observation's tokens,
    time alone for the others. Predictions end in a layer norm without parameters, as their targets do. There is no longest
    window; the tokens of T steps cost what T steps need.

    The condition is known, never predicted: for a rollout it is given step by step (`[rows, horizon, condition]`), by what
    works it out from the actions. A state that begins with more than one observation needs it from the beginning.
    """

    def __init__(self, config: BlockCausalPredictorConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.embedding, config.dim)
        self.embed_action = nn.Linear(config.action, config.dim)
        self.embed_condition = nn.Linear(config.condition, config.dim) if config.condition else None
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = (ZeroLinear if config.residual else nn.Linear)(config.dim, config.embedding)
        initialise_transformer(self, self.blocks)
        self.output_norm = nn.LayerNorm(config.embedding, elementwise_affine=False)

    def forward(
        self,
        embeddings: Float[Tensor, "batch time tokens embedding"],
        actions: Float[Tensor, "batch time action"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch time tokens embedding"]:
        """At each t the prediction of the tokens t + 1, from everything up to t.

        condition: `[batch, condition]` for all steps or `[batch, time, condition]`. Errors: a condition where the predictor has
        none, or none where it has one; tokens that do not lie on its grid.
        """
        x = self._tokens(embeddings, actions, condition)
        time = torch.arange(embeddings.shape[1], device=x.device)[None]
        return self._answer(self._through(x, time)[0], embeddings)

    def begin(
        self,
        embeddings: Float[Tensor, "batch time tokens embedding"],
        actions: Float[Tensor, "batch before action"],
        lengths: Int[Tensor, "batch"] | None = None,
        condition: Tensor | None = None,
    ) -> Past:
        """The state after `time` observations and the `time - 1` actions between them (and the conditions of these steps)."""
        batch, time = embeddings.shape[:2]
        if actions.shape[1] != time - 1:
            raise UserError(f"{time} observations have {time - 1} actions between them, got {actions.shape[1]}.")
        if lengths is not None and not 1 <= int(lengths.min()) <= int(lengths.max()) <= time:
            raise UserError(f"lengths lie between 1 and the {time} observations given, got {lengths.tolist()}.")
        before = torch.arange(time - 1, device=embeddings.device)
        kept: tuple[KeysValues, ...] = ()
        if time > 1:
            x = self._tokens(embeddings[:, :-1], actions, condition)
            kept = self._through(x, before[None])[1]
        if lengths is None:
            return Past(embeddings[:, -1], torch.full((batch,), time - 1, device=embeddings.device), kept, None)
        # What pads a sample comes after what is real, which never sees it; what is imagined later must not either.
        valid = (before < lengths[:, None] - 1).repeat_interleave(self._step, dim=1)
        return Past(embeddings[torch.arange(batch, device=lengths.device), lengths - 1], lengths - 1, kept, valid)

    def advance(
        self, state: Past, action: Float[Tensor, "batch action"], condition: Float[Tensor, "batch condition"] | None = None
    ) -> Past:
        """The state after one more action, its newest observation predicted."""
        x = self._tokens(state.newest[:, None], action[:, None], condition)
        x, kept = self._through(x, state.time[:, None], state.kept, state.valid)
        valid = None if state.valid is None else F.pad(state.valid, (0, self._step), value=True)
        return Past(self._answer(x, state.newest[:, None])[:, 0], state.time + 1, kept, valid)

    def go_on(
        self, state: Past, action: Float[Tensor, "batch action"], observed: Float[Tensor, "batch tokens embedding"]
    ) -> Past:
        """The state after one more action and what was then observed, from the keys and values of all before."""
        return replace(self.advance(state, action), newest=observed)

    def embedding(self, state: Past) -> Float[Tensor, "batch tokens embedding"]:
        """The newest observation's tokens, seen or predicted."""
        return state.newest

    @property
    def _step(self) -> int:
        """Tokens of a time step."""
        return 1 + (self.embed_condition is not None) + self.config.grid[0] * self.config.grid[1]

    def _tokens(self, embeddings: Tensor, actions: Tensor, condition: Tensor | None) -> Float[Tensor, "batch time step dim"]:
        """[action, condition?, tokens] of each time step, embedded; as precise as the embeddings, for much is added to them."""
        rows, columns = self.config.grid
        if embeddings.shape[2] != rows * columns:
            found = embeddings.shape[2]
            raise UserError(f"The predictor's grid of {rows} x {columns} tokens does not fit {found} tokens a step.")
        if (condition is None) != (self.embed_condition is None):
            raise UserError(
                "This predictor was built without a condition and was given one." if condition is not None
                else f"This predictor needs a condition of {self.config.condition} numbers a step and was given none."
            )
        parts = [self.embed_action(actions)[:, :, None], self.embed(embeddings)]
        if condition is not None and self.embed_condition is not None:
            given = condition[:, None].expand(-1, actions.shape[1], -1) if condition.dim() == 2 else condition
            parts.insert(1, self.embed_condition(given)[:, :, None])
        return torch.cat(parts, dim=2).to(embeddings.dtype)

    def _answer(
        self, x: Float[Tensor, "batch time step dim"], before: Float[Tensor, "batch time tokens embedding"]
    ) -> Float[Tensor, "batch time tokens embedding"]:
        """The next tokens, from what the blocks made of a step and its own tokens."""
        found = self.head(self.norm(x[:, :, -before.shape[2] :]))
        return self.output_norm(before + found if self.config.residual else found)

    def _through(
        self,
        x: Float[Tensor, "batch time step dim"],
        time: Int[Tensor, "#batch time"],
        past: Sequence[KeysValues] = (),
        valid: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch time step dim"], tuple[KeysValues, ...]]:
        """New steps through all blocks, after those of which keys and values are kept; and those of all of them."""
        angles, shape = self._angles(time), x.shape
        blocks: list[Any] = list(self.blocks)
        x, kept = x.flatten(1, 2), []
        for number, block in enumerate(blocks):
            attended, known = _attend(block, x, angles, past[number] if past else None, valid, shape[2])
            kept.append(known)
            x = x + attended
            x = x + block.mlp(block.norm2(x))
        return x.reshape(shape), tuple(kept)

    def _angles(self, time: Int[Tensor, "#batch time"]) -> Float[Tensor, "#batch tokens turned"]:
        """Of the tokens of each step: what is no part of the picture lies at row 0 and column 0, where nothing is turned."""
        config = self.config
        places = F.pad(grid_positions(config.grid, time.device), (0, 0, self._step - config.grid[0] * config.grid[1], 0))
        places = places.expand(*time.shape, -1, -1)
        times = time[:, :, None, None].expand(-1, -1, self._step, 1)
        positions = torch.cat([times, places], dim=3).flatten(1, 2)
        return rotary_angles(positions, axis_width(config.dim // config.heads), config.rotation)


def _attend(
    block: Block, x: Tensor, angles: Tensor, past: KeysValues | None, valid: Tensor | None, step: int
) -> tuple[Tensor, KeysValues]:
    """What new tokens get from those kept and from one another, step by step; and the keys and values of all.

    A step's queries meet the keys up to its own step: block-causal attention, of which nothing is worked out to be masked.
    """
    attention = block.attn
    q, k, v = rearrange(attention.qkv(block.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=attention.heads)
    q, k = rotate(q, angles), rotate(k, angles)
    if past is not None:
        k, v = (torch.cat([old.to(new.dtype), new], dim=2) for old, new in zip(past, (k, v), strict=True))
    found = []
    for begin in range(0, q.shape[2], step):
        seen = k.shape[2] - q.shape[2] + begin + step
        layout = None if valid is None else AttentionLayout(keys=F.pad(valid, (0, seen - valid.shape[1]), value=True))
        found.append(attend(q[:, :, begin : begin + step], k[:, :, :seen], v[:, :, :seen], layout))
    out = torch.cat(found, dim=2) if len(found) > 1 else found[0]
    return attention.proj(rearrange(out, "b h n d -> b n (h d)")), (k, v)
