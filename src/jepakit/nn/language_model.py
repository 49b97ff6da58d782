"""A small causal language model, and how ragged texts are put into one sequence for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.positions import sincos_1d
from jepakit.nn.tokens import valid_mask
from jepakit.nn.transformer import Attention, TokenTransformer

KeysValues = tuple[Float[Tensor, "_batch heads _kept head_dim"], Float[Tensor, "_batch heads _kept head_dim"]]


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Sizes; `vocabulary` counts words and special tokens."""

    vocabulary: int
    dim: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "dim", "depth", "heads"):
            check_range(name, getattr(self, name), 1)
        if self.dim % self.heads or self.dim % 2:
            raise UserError(f"dim {self.dim} must be even and a multiple of heads {self.heads}.")


class LanguageModel(TokenTransformer):
    """Causal transformer over word ids, with the embedding table as the output layer too.

    Several texts may share a sequence: a token sees what lies before it in its own segment, and its position is counted
    from the start of that segment. A segment's hidden states therefore are those of its text alone. Positions are sines and
    cosines, so that no length is too long; table entries are drawn from N(0, 1 / dim) and multiplied by sqrt(dim) on the
    way in (Vaswani et al. 2017, section 3.4), which suits both ends.
    """

    def __init__(self, config: LanguageModelConfig):
        super().__init__()
        self.config, self.dim = config, config.dim
        self.embedding = nn.Embedding(config.vocabulary, config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
        self.add_blocks(config.dim, config.depth, config.heads, config.mlp_ratio)

    def forward(
        self, tokens: Int[Tensor, "batch tokens"], segments: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Hidden states after the last norm. `segments` numbers the text that each token belongs to, -1 is padding."""
        positions = segment_positions(segments)
        table = sincos_1d(torch.arange(tokens.shape[1], device=tokens.device), self.dim)
        embedded = self.embedding(tokens) * self.dim**0.5
        layout = AttentionLayout(segments=segments, order="causal")
        return self.run(embedded + table.to(embedded.dtype)[positions], positions[..., None], layout=layout).values

    def extend(
        self, tokens: Int[Tensor, "batch new"], past: Sequence[KeysValues] = ()
    ) -> tuple[Float[Tensor, "batch new dim"], tuple[KeysValues, ...]]:
        """Hidden states of tokens that go on with a text each, whose earlier tokens are not worked out again.

        past: keys and values of the earlier tokens in each block, as the last call gave them; none: the texts begin here.
        Returns: what `forward` says of these tokens in the whole texts, and the keys and values of all tokens so far.
        """
        seen = past[0][0].shape[2] if past else 0
        places = torch.arange(seen, seen + tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) * self.dim**0.5
        x = x + sincos_1d(places, self.dim).to(x.dtype)
        blocks: list[Any] = list(self.blocks)
        kept = []
        for number, block in enumerate(blocks):
            attended, known = _attend_on(block.attn, block.norm1(x), past[number] if past else None)
            kept.append(known)
            x = x + attended
            x = x + block.mlp(block.norm2(x))
        return self.norm(x), tuple(kept)

    def next_token_loss(
        self, hidden: Float[Tensor, "batch tokens dim"], tokens: Int[Tensor, "batch tokens"], asked: Tensor
    ) -> Float[Tensor, "asked"]:
        """Cross-entropy in nats of each token where `asked [batch, tokens]` is True, from the hidden state before it."""
        wanted = asked[:, 1:]
        logits = F.linear(hidden[:, :-1][wanted], self.embedding.weight)
        wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return F.cross_entropy(wide, tokens[:, 1:][wanted], reduction="none")


def _attend_on(
    attention: Attention, x: Float[Tensor, "batch new dim"], past: KeysValues | None
) -> tuple[Float[Tensor, "batch new dim"], KeysValues]:
    """What new tokens get from those before them and from one another, and the keys and values of all."""
    q, k, v = rearrange(attention.qkv(x), "b n (three h d) -> three b h n d", three=3, h=attention.heads)
    if past is not None:
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    new, known = q.shape[2], k.shape[2]
    seen = torch.ones(new, known, dtype=torch.bool, device=x.device).tril(known - new)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen if new > 1 else None)
    return attention.proj(rearrange(out, "b h n d -> b n (h d)")), (k, v)


def segment_positions(segments: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """Each token's place in its segment, from 0: what a text's tokens are numbered by wherever the text lies."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values


@dataclass(frozen=True)
class Texts:
    """Word ids of a text for each sample, padded at the right end with any id: `tokens [batch, tokens]`, `lengths [batch]`."""

    tokens: Int[Tensor, "batch tokens"]
    lengths: Int[Tensor, "batch"]

    def append(self, suffix: Int[Tensor, "added"]) -> Texts:
        """Every text with the same tokens after its own last one."""
        places = self.lengths[:, None] + torch.arange(len(suffix), device=self.lengths.device)
        grown = F.pad(self.tokens, (0, len(suffix)))
        grown = grown.scatter(1, places, suffix.to(grown).expand(len(grown), -1))
        return Texts(grown, self.lengths + len(suffix))


@dataclass(frozen=True)
class Packed:
    """Texts behind one another in one sequence, padded at the right end only.

    tokens, segments: `[batch, tokens]`; segments count the texts from 0, -1 is padding.
    last: `[batch, texts]`, where each text's last token lies.
    """

    tokens: Int[Tensor, "batch tokens"]
    segments: Int[Tensor, "batch tokens"]
    last: Int[Tensor, "batch texts"]

    def read(self, hidden: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "texts batch dim"]:
        """The hidden state at each text's last token."""
        return hidden.gather(1, self.last[..., None].expand(-1, -1, hidden.shape[-1])).transpose(0, 1)


def pack(*texts: Texts) -> Packed:
    """Put texts (no one empty) behind one another; however ragged, no gap is left between a sample's texts."""
    width = sum(part.tokens.shape[1] for part in texts)
    tokens = texts[0].tokens.new_zeros(len(texts[0].tokens), width + 1)  # one place more, where padding is thrown
    segments = torch.full_like(tokens, -1)
    start, last = torch.zeros_like(texts[0].lengths), []
    for number, part in enumerate(texts):
        count = part.tokens.shape[1]
        inside = start[:, None] + torch.arange(count, device=tokens.device)
        places = torch.where(valid_mask(part.lengths, count), inside, width)
        tokens = tokens.scatter(1, places, part.tokens)
        segments = segments.scatter(1, places, number)
        start = start + part.lengths
        last.append(start - 1)
    return Packed(tokens[:, :width], segments[:, :width], torch.stack(last, dim=1))
