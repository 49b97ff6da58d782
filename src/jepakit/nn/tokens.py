"""The two types that travel everywhere: `Tokens` (embeddings with positions) and `Ids` (which tokens)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def valid_mask(
    lengths: Int[Tensor, "batch"], tokens: int, device: torch.device | None = None
) -> Bool[Tensor, "batch tokens"]:
    """True where a token is real, False where it is padding; on `device`, or where the lengths are."""
    lengths = lengths.to(device or lengths.device, non_blocking=True)
    return torch.arange(tokens, device=lengths.device)[None, :] < lengths[:, None]


@dataclass(frozen=True)
class Ids:
    """Token ids, a list for each sample: `values [batch, count]`, padded at the end, `lengths [batch]` (None: full).

    Ids count the grid in raster order. Padding holds a valid id (0), never a marker, so that it can be gathered. Lengths may
    stay on the host when the ids are on a GPU: what is to be packed is then known without waiting for it.
    """

    values: Int[Tensor, "batch count"]
    lengths: Int[Tensor, "batch"] | None = None

    @property
    def valid(self) -> Bool[Tensor, "batch count"]:
        if self.lengths is None:
            return torch.ones_like(self.values, dtype=torch.bool)
        return valid_mask(self.lengths, self.values.shape[1], self.values.device)

    def gather(self, tokens: Tensor) -> Tensor:
        """The tokens at these ids: `[batch, tokens, ...] -> [batch, count, ...]`.

        Several lists for each sample, in neighbouring rows, read the same tokens: `[batch / lists, tokens, ...]` will do.
        """
        rows, count = self.values.shape
        lists = rows // max(1, len(tokens))
        index = self.values.reshape(len(tokens), lists * count, *([1] * (tokens.dim() - 2)))
        return torch.gather(tokens, 1, index.expand(-1, -1, *tokens.shape[2:])).reshape(rows, count, *tokens.shape[2:])


@dataclass(frozen=True)
class Tokens:
    """Embedded tokens.

    values: `[batch, tokens, dim]`, or `[batch, tokens, levels, dim]` when several depths were asked for.
    positions: `[batch, tokens, axes]`, grid indices or real coordinates.
    lengths: `[batch]`, or None when every sample has all its tokens. Ragged is the normal case.
    """

    values: Tensor
    positions: Tensor
    lengths: Int[Tensor, "batch"] | None = None

    @property
    def valid(self) -> Bool[Tensor, "batch tokens"]:
        if self.lengths is None:
            return torch.ones(self.values.shape[:2], dtype=torch.bool, device=self.values.device)
        return valid_mask(self.lengths, self.values.shape[1], self.values.device)

    def mean(self) -> Tensor:
        """Mean over a sample's real tokens: `[batch, (levels,) dim]`."""
        if self.lengths is None:
            return self.values.mean(dim=1)
        keep = self.valid.reshape(*self.values.shape[:2], *([1] * (self.values.dim() - 2)))
        count = self.lengths.to(keep.device, non_blocking=True).reshape(-1, *([1] * (self.values.dim() - 2)))
        return torch.where(keep, self.values, 0).sum(dim=1) / count
