"""Ragged tokens without their padding: the real ones of all samples in one row, `[batch, tokens, dim] <-> [1, total, dim]`.

All that a transformer does token by token then costs what the real tokens cost. Attention works on samples of equal
length together (on CUDA on all of them, as one jagged tensor), which needs neither padding nor, mostly, a mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from jepakit.nn.attention_layout import AttentionLayout, attend
from jepakit.nn.tokens import valid_mask


@dataclass(frozen=True, eq=False)
class Packing:
    """Which tokens of `[batch, tokens, ...]` are real and in which order they are packed: samples by their length.

    places: of the packed tokens in the flattened batch.
    offsets: where each sample begins, and the end of the last.
    groups: (samples, length), samples of equal length lie together.
    blocks: numbers of the packed tokens for the order "star"; None: all tokens of a sample see one another.
    """

    shape: tuple[int, int]
    places: Int[Tensor, "total"]
    offsets: Int[Tensor, "samples_and_end"]
    groups: tuple[tuple[int, int], ...]
    blocks: Int[Tensor, "total"] | None = None
    _pieces: dict[int, list[Packing]] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def of(parts: list[tuple[Tensor | None, int]], device: torch.device, blocks: Tensor | None = None) -> Packing | None:
        """From runs of tokens side by side, each `(lengths [batch] or None for full, tokens)`; blocks: numbers for the
        order "star". None where there is nothing to gain: no padding, or lengths that only the GPU knows."""
        ragged = [lengths for lengths, _ in parts if lengths is not None]
        if not ragged or any(lengths.device.type != "cpu" for lengths in ragged) or torch.compiler.is_compiling():
            return None
        batch = len(ragged[0])
        valid = np.concatenate(
            [
                np.ones((batch, tokens), dtype=bool) if lengths is None else valid_mask(lengths, tokens).numpy()
                for lengths, tokens in parts
            ],
            axis=1,
        )
        if valid.all():
            return None
        counts = valid.sum(1)
        order = np.argsort(counts, kind="stable")
        row, column = np.nonzero(valid[order])
        places = torch.from_numpy(order[row] * valid.shape[1] + column).to(device, non_blocking=True)
        groups = tuple((len(list(same)), int(n)) for n, same in itertools.groupby(counts[order].tolist()) if n)
        offsets = torch.from_numpy(np.cumsum([0, *counts[order]])).to(device, non_blocking=True)
        numbers = None if blocks is None else blocks.flatten().index_select(0, places)
        return Packing((batch, valid.shape[1]), places, offsets, groups, numbers)

    @cached_property
    def layouts(self) -> list[AttentionLayout | None]:
        """Who sees whom within a sample, for each group."""
        if self.blocks is None:
            return [None] * len(self.groups)
        found = zip(self.blocks.split(self.sizes), self.groups, strict=True)
        return [AttentionLayout(order="star", blocks=numbers.view(group)) for numbers, group in found]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each group."""
        return [count * length for count, length in self.groups]

    def pieces(self, most: int) -> list[Packing]:
        """The same samples in several packings, each of at most `most` tokens (but for a sample that is longer), in order."""
        if most not in self._pieces:
            self._pieces[most] = list(self._cut(most))
        return self._pieces[most]

    def _cut(self, most: int) -> Iterator[Packing]:
        cuts: list[list[tuple[int, int, int]]] = [[]]  # (group, first, end) of its samples
        room = most
        for number, (count, length) in enumerate(self.groups):
            first = 0
            while first < count:
                if room < length and cuts[-1]:
                    cuts.append([])
                    room = most
                end = min(count, first + max(1, room // length))
                cuts[-1].append((number, first, end))
                room -= (end - first) * length
                first = end
        token, sample = 0, len(self.offsets) - 1 - sum(count for count, _ in self.groups)  # after those without any token
        for cut in cuts:
            groups = tuple((end - first, self.groups[number][1]) for number, first, end in cut)
            tokens, samples = sum(count * length for count, length in groups), sum(count for count, _ in groups)
            yield Packing(
                self.shape,
                self.places[token : token + tokens],
                self.offsets[sample : sample + samples + 1] - token,
                groups,
                None if self.blocks is None else self.blocks[token : token + tokens],
            )
            token, sample = token + tokens, sample + samples

    def pack(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "1 total dim"]:
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, x: Float[Tensor, "1 total dim"]) -> Float[Tensor, "batch tokens dim"]:
        """`[batch, tokens, dim]`, zeros where there is no token."""
        batch, tokens = self.shape
        return x.new_zeros(batch * tokens, x.shape[2]).index_copy(0, self.places, x[0]).view(batch, tokens, -1)

    def attend(self, qkv: Float[Tensor, "1 total width"], heads: int) -> Float[Tensor, "1 total dim"]:
        """Self-attention of each sample, from queries, keys and values side by side."""
        if qkv.is_cuda and self.blocks is None:
            return self._jagged(qkv, heads)
        outputs = []
        for part, (count, _), layout in zip(qkv[0].split(self.sizes), self.groups, self.layouts, strict=True):
            q, k, v = rearrange(part, "(b n) (three h d) -> three b h n d", b=count, three=3, h=heads)
            outputs.append(rearrange(attend(q, k, v, layout), "b h n d -> (b n) (h d)"))
        return torch.cat(outputs)[None]

    def _jagged(self, qkv: Tensor, heads: int) -> Tensor:
        shortest, longest = self.groups[0][1], self.groups[-1][1]
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(x, self.offsets, min_seqlen=shortest, max_seqlen=longest).transpose(1, 2)
            for x in rearrange(qkv[0], "t (three h d) -> three t h d", three=3, h=heads)
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return rearrange(out.values(), "t h d -> 1 t (h d)")
