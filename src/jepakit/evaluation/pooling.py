"""From tokens to one feature vector a sample."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError, check_choice
from jepakit.nn.tokens import Tokens

Pooling = Literal["mean", "max", "concatenate"]


def pool(tokens: Tokens | Float[Tensor, "batch tokens dim"], how: Pooling = "mean") -> Float[Tensor, "batch features"]:
    """One vector a sample: the mean or the maximum over its real tokens, or all tokens side by side.

    "concatenate" keeps where things are and is as wide as tokens × dim; it needs the same tokens in every sample.
    """
    check_choice("pooling", how, get_args(Pooling))
    if isinstance(tokens, Tensor):
        tokens = Tokens(tokens, tokens.new_zeros(*tokens.shape[:2], 1))
    if tokens.values.dim() != 3:
        raise UserError(f"pooling needs tokens [batch, tokens, dim], got shape {list(tokens.values.shape)}.")
    if how == "mean":
        return tokens.mean()
    if how == "max":
        return tokens.values.masked_fill(~tokens.valid[..., None], -torch.inf).amax(dim=1)
    if tokens.lengths is not None and bool((tokens.lengths != tokens.values.shape[1]).any()):
        raise UserError("pooling 'concatenate' needs samples with equally many tokens; use 'mean' for ragged ones.")
    return tokens.values.flatten(1)
