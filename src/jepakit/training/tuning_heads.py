"""What answers from an encoder's tokens: a linear layer on their mean, or the attentive probe of V-JEPA.

Both read what the frozen encoder's tokens vary in: an encoder's embeddings are mostly alike (of an I-JEPA on digits two have a
cosine of 0.9), and a head on them as they are learns that first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError
from jepakit.nn.attentive_pooler import AttentiveClassifier, AttentivePoolerConfig
from jepakit.nn.tokens import Tokens


class Head(nn.Module):
    """`head(tokens) -> [batch, outputs]`, of what it reads standardised: `(x - mean) * scale`, set once before training."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def read(self, tokens: Tokens) -> Tensor:
        """What is standardised, `[batch, (tokens,) dim]`."""
        raise NotImplementedError

    @torch.no_grad()
    def standardise(self, batches: Iterable[Tokens]) -> None:
        """Take mean and deviation from these tokens; a dimension that is constant becomes 0."""
        read = torch.cat([self.read(tokens).flatten(0, -2).double() for tokens in batches])
        std = read.std(0, correction=0)
        self.mean.copy_(read.mean(0))
        self.scale.copy_(torch.where(std > 1e-6 * std.amax(), 1 / std.clamp_min(1e-30), 0))


class LinearHead(Head):
    """A linear layer on the mean over a sample's tokens."""

    def __init__(self, dim: int, outputs: int):
        super().__init__(dim)
        self.linear = nn.Linear(dim, outputs)
        nn.init.zeros_(self.linear.weight)  # all answers are alike at first
        nn.init.zeros_(self.linear.bias)

    def read(self, tokens: Tokens) -> Float[Tensor, "batch dim"]:
        return tokens.mean()

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch outputs"]:
        return self.linear((self.read(tokens) - self.mean) * self.scale)


class AttentiveHead(Head):
    """V-JEPA's attentive probe. Errors: samples of unequally many tokens."""

    def __init__(self, dim: int, outputs: int):
        super().__init__(dim)
        config = AttentivePoolerConfig(dim=dim, heads=math.gcd(dim, 16), eps=1e-6)
        self.classifier = AttentiveClassifier(config, outputs)

    def read(self, tokens: Tokens) -> Float[Tensor, "batch tokens dim"]:
        if tokens.lengths is not None:
            raise UserError("head attentive reads samples of equally many tokens, these differ: use --head linear.")
        return tokens.values

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch outputs"]:
        return self.classifier((self.read(tokens) - self.mean) * self.scale)



def make_head(kind: str, dim: int, outputs: int) -> Head:
    """The head of this kind, on tokens of this width."""
    return LinearHead(dim, outputs) if kind == "linear" else AttentiveHead(dim, outputs)
