"""Which token attends to which: segments, an order within them, a bias on the scores, a gate on the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from jepakit.errors import UserError, check_choice
from jepakit.nn.tokens import valid_mask

ORDERS = ("none", "causal", "block-causal", "star")


@dataclass(frozen=True, eq=False)
class AttentionLayout:
    """One description for padding, packed texts, causal actions and adjacency. Without any field, all see all.

    segments: a token sees only tokens of its own segment number; -1 is padding, which nobody sees and which sees itself.
    order: within its segment a token sees all ("none"), itself and what lies before it in the sequence ("causal"), its own
        block and those of lower number ("block-causal"), or its own block and block 0 ("star").
    blocks: the number of each token's block, for "block-causal" and "star".
    bias: added to the scores before the softmax.
    gate: multiplies the weights after the softmax, which then need not sum to 1 (the Hadamard attention of Graph-JEPA,
        arXiv 2309.16014).
    keys: False for tokens that nobody may see; the cheap form of padding where order and segments do not matter. A
        sample without a single real token sees its padding, so that nothing is NaN.

    What may be seen is worked out once for all the blocks that get the same object; make a new one for other tokens.
    """

    segments: Int[Tensor, "#batch tokens"] | None = None
    order: Literal["none", "causal", "block-causal", "star"] = "none"
    blocks: Int[Tensor, "#batch tokens"] | None = None
    bias: Float[Tensor, "#batch #heads tokens tokens"] | None = None
    gate: Float[Tensor, "#batch #heads tokens tokens"] | None = None
    keys: Bool[Tensor, "#batch tokens"] | None = None
    _known: dict[tuple[object, ...], Tensor | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_choice("attention order", self.order, ORDERS)
        if (self.blocks is not None) != (self.order in ("block-causal", "star")):
            raise UserError(
                f"attention: blocks belong to the orders 'block-causal' and 'star', which need them; got order {self.order!r} "
                f"{'without' if self.blocks is None else 'with'} blocks."
            )

    @staticmethod
    def padding(lengths: Int[Tensor, "batch"], tokens: int, device: torch.device | None = None) -> AttentionLayout:
        """Nobody sees the padding at the end of each sample."""
        return AttentionLayout(keys=valid_mask(lengths, tokens, device))

    @property
    def is_causal(self) -> bool:
        """Causal and nothing else, for which kernels need no mask."""
        others = (self.segments, self.bias, self.gate, self.keys)
        return self.order == "causal" and all(other is None for other in others)

    def visible(self, tokens: int, device: torch.device) -> Bool[Tensor, "batch 1 queries tokens"] | None:
        """True where a query may see a key, `[batch or 1, 1, tokens or 1, tokens]`; None when all see all."""
        place = ("visible", tokens, device)
        if place not in self._known:
            self._known[place] = self._visible(tokens, device)
        return self._known[place]

    def mask(self, tokens: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """What `scaled_dot_product_attention` takes: `visible`, or with a bias the bias, -inf where nothing is seen."""
        if self.bias is None:
            return self.visible(tokens, device)
        place = ("mask", tokens, device, dtype)
        if place in self._known:
            return self._known[place]
        visible, bias = self.visible(tokens, device), self.bias.to(device, dtype)
        mask = bias if visible is None else torch.where(visible, bias, -torch.inf)
        if not mask.requires_grad and not self.bias.requires_grad:  # a kept graph could be walked back only once
            self._known[place] = mask
        return mask

    def _visible(self, tokens: int, device: torch.device) -> Tensor | None:
        self._check(tokens)
        if self.segments is None and self.order == "none":
            if self.keys is None:
                return None
            return (self.keys | ~self.keys.any(dim=1, keepdim=True))[:, None, None, :]
        seen = torch.ones(1, tokens, tokens, dtype=torch.bool, device=device)
        if self.order == "causal":
            seen = seen.tril()
        if self.blocks is not None:
            own, other = self.blocks[:, :, None], self.blocks[:, None, :]
            seen = other <= own if self.order == "block-causal" else (other == own) | (other == 0)
        if self.segments is not None:
            seen = seen & (self.segments[:, None, :] == self.segments[:, :, None]) & (self.segments >= 0)[:, None, :]
        if self.keys is not None:
            seen = seen & self.keys[:, None, :]
        return (seen | torch.eye(tokens, dtype=torch.bool, device=device))[:, None]

    def _check(self, tokens: int) -> None:
        for name in ("segments", "blocks", "keys", "bias", "gate"):
            part = getattr(self, name)
            if part is not None and part.shape[-1] != tokens:
                raise UserError(
                    f"attention {name} {list(part.shape)} is for {part.shape[-1]} tokens, the sequence has {tokens}."
                )


def attend(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads tokens head_dim"],
    v: Float[Tensor, "batch heads tokens head_dim"],
    layout: AttentionLayout | None = None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Scaled dot-product attention; `layout` says who sees whom (None: all see all).

    Queries of some tokens only, such as the newest ones, need a layout of `keys` alone, or none."""
    gate = None if layout is None else layout.gate
    # The fused CPU kernel's bfloat16 backward is 2 to 8 times slower than plain products (torch 2.13).
    by_products = gate is not None or (q.device.type == "cpu" and q.dtype == torch.bfloat16)
    if layout is not None and layout.is_causal and not by_products:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mask = None if layout is None else layout.mask(k.shape[2], q.device, q.dtype)
    if not by_products:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1)
    if gate is not None:
        weights = weights * gate.to(weights)
    return weights @ v
