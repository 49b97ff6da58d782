"""What answers from an encoder's tokens: a linear layer on their mean, or the attentive probe of V-JEPA.

Both read what the frozen encoder's tokens vary in: embeddings of one encoder are mostly alike, and a head on them as they are
learns that first. The linear head begins as the probe of the frozen encoder (LP-FT, Kumar et al. 2022, arXiv 2202.10054):
from a head that knows nothing, the encoder is bent towards whatever that says at first.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError
from jepakit.evaluation.linear import Link, choose_strength, fit_classifier, fit_ridge
from jepakit.nn.attentive_pooler import AttentiveClassifier, AttentivePoolerConfig
from jepakit.nn.tokens import Tokens
from jepakit.training.answers import Answers


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
    def begin(self, read: Tensor, labels: Tensor, answers: Answers, seed: int) -> None:
        """Take mean and deviation from what is read of some samples; a dimension that is constant becomes 0."""
        rows = read.flatten(0, -2).double()
        std = rows.std(0, correction=0)
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(torch.where(std > 1e-6 * std.amax(), 1 / std.clamp_min(1e-30), 0))


class LinearHead(Head):
    """A linear layer on the mean over a sample's tokens. It begins as the best probe of what it reads."""

    def __init__(self, dim: int, outputs: int):
        super().__init__(dim)
        self.linear = nn.Linear(dim, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def begin(self, read: Tensor, labels: Tensor, answers: Answers, seed: int) -> None:
        super().begin(read, labels, answers, seed)
        x = (read.double().cpu() - self.mean.double().cpu()) * self.scale.double().cpu()
        y = answers.wanted(labels.cpu()).double()
        if answers.task == "regression":
            found = fit_ridge(x, y)
        else:
            strata = labels.cpu().numpy() if answers.task == "classification" else np.zeros(len(x), dtype=np.int64)
            link: Link = "softmax" if answers.task == "classification" else "sigmoid"
            found = fit_classifier(x, y, link, lambda inner: choose_strength(inner, y, strata, link, seed))
        self.linear.weight.copy_(found.weight.T)
        self.linear.bias.copy_(found.bias)

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
