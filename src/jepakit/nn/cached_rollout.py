"""Rollouts of a causal transformer over windows: nothing is worked out twice that is the same twice.

Tensors are time first here, `[tokens, rows, dim]`: what one time step needs lies together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from jepakit.nn.modulation import ModulatedBlock
from jepakit.nn.transformer import Attention

ROWS = 512  # that are taken at once: what a layer works on then stays in a processor's cache
KeysValues = list[Float[Tensor, "rows both"]]  # of each token: keys, then values, of all heads side by side
Modulation = tuple[Tensor, ...]  # shift, 1 + scale, gate of attention, then of the MLP: of one action for one block


class Layers(NamedTuple):
    """The parts of a predictor that a rollout passes through, `[rows, ...]` each.

    embed: embeddings to tokens; positions: added to those of a window, `[history, dim]`; steer: actions to the conditions of
    the blocks; head: the newest token to the next embedding.
    """

    embed: Callable[[Tensor], Tensor]
    positions: Tensor
    steer: Callable[[Tensor], Tensor]
    blocks: Sequence[ModulatedBlock]
    head: Callable[[Tensor], Tensor]


def cached_rollout(
    layers: Layers,
    embeddings: Float[Tensor, "batch seen embedding"],
    between: Float[Tensor, "batch before action"],
    owner: Int[Tensor, "rows"],
    actions: Float[Tensor, "rows horizon action"],
) -> Float[Tensor, "rows horizon embedding"]:
    """The embedding predicted after each action, from windows of the newest `history` observations.

    While a window grows, only its newest token is new: the keys and values of the others stand. Once it slides, its tokens
    have other positions and are worked out anew, those of observations once for each sample, however many rows start from it.
    The last block answers the newest token only, and what an action makes of the blocks' norms is worked out once.

    embeddings, between: what was seen, and the actions between.
    owner: the sample that each row starts from.
    """
    history, seen = len(layers.positions), embeddings.shape[1]
    tokens = [layers.embed(embeddings[:, -1])[owner]]  # from the newest observation on, those of each row
    modulations: list[list[Modulation]] = []  # by the actions from there on, of each block
    past: list[KeysValues] = []
    predictions: list[Tensor] = []
    for t in range(actions.shape[1]):
        modulations.append(_modulate(layers, actions[:, t]))
        first = max(0, seen + t - history)  # the oldest observation of this window
        begin = t  # the first of its tokens that has to be worked out
        if t == 0 or first > 0:
            begin, past = max(0, first - (seen - 1)), []
            if first < seen - 1:
                seen_before = _prefix(layers, embeddings[:, first:-1], between[:, first:])
                past = [[token[owner] for token in known] for known in seen_before]
        x = torch.stack(tokens[begin:])
        place = seen - 1 + begin - first
        x, past = _through(layers, x + layers.positions[place : place + len(x), None], modulations[begin:], past, answers=1)
        predictions.append(layers.head(x[0]))
        tokens.append(layers.embed(predictions[-1]))
    return torch.stack(predictions, dim=1)


def _modulate(layers: Layers, action: Float[Tensor, "rows action"]) -> list[Modulation]:
    """What an action makes of each block's norms."""
    steer = layers.steer(action)
    found: list[Modulation] = []
    for block in layers.blocks:
        shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(steer).chunk(6, dim=1)
        found.append((shift1, 1 + scale1, gate1, shift2, 1 + scale2, gate2))
    return found


def _prefix(layers: Layers, embeddings: Tensor, actions: Tensor) -> list[KeysValues]:
    """Each block's keys and values of the observations that a window begins with."""
    x = layers.embed(embeddings).transpose(0, 1) + layers.positions[: embeddings.shape[1], None]
    return _through(layers, x, [_modulate(layers, action) for action in actions.unbind(1)], [], answers=len(x))[1]


def _through(
    layers: Layers,
    x: Float[Tensor, "new rows dim"],
    modulations: list[list[Modulation]],
    past: list[KeysValues],
    answers: int,
) -> tuple[Float[Tensor, "answers rows dim"], list[KeysValues]]:
    """New tokens through all blocks, the last of them to the end; and each block's keys and values of all tokens."""
    known = []
    for number, block in enumerate(layers.blocks):
        asked = answers if number == len(layers.blocks) - 1 else len(x)
        steps = [step[number] for step in modulations]
        normed = [
            torch.addcmul(shift, token, scale) for token, (shift, scale, *_) in zip(block.norm1(x), steps, strict=True)
        ]
        attended, kept = _attend(block.attn, _stack(normed), past[number] if past else [], asked)
        known.append(kept)
        x, steps = x[-asked:], steps[-asked:]
        x = _stack([torch.addcmul(old, step[2], new) for old, step, new in zip(x, steps, attended, strict=True)])
        normed = [
            torch.addcmul(step[3], token, step[4]) for token, step in zip(block.norm2(x), steps, strict=True)
        ]
        found = block.mlp(_stack(normed))
        x = _stack([torch.addcmul(old, step[5], new) for old, step, new in zip(x, steps, found, strict=True)])
    return x, known


def _stack(tokens: list[Tensor]) -> Float[Tensor, "tokens *shape"]:
    """Several tokens as one tensor; a single one, which most steps have, is not copied."""
    return torch.stack(tokens) if len(tokens) > 1 else tokens[0][None]


def _attend(
    attention: Attention, x: Float[Tensor, "new rows dim"], past: KeysValues, answers: int
) -> tuple[Float[Tensor, "answers rows dim"], KeysValues]:
    """Causal attention of tokens that follow others, of which only keys and values are given; those of all come back.

    The bias of keys adds the same to all scores of a query, which a softmax does not see; that of values adds itself to every
    answer, as weights sum to 1: it is left to the output's.
    """
    inner = attention.proj.in_features
    (of_queries, others), (bias, _, of_values) = attention.qkv.weight.split([inner, 2 * inner]), attention.qkv.bias.chunk(3)
    known = [*past, *F.linear(x, others)]
    split = [rearrange(token, "b (two h d) -> two b h d", two=2, h=attention.heads) for token in known]
    keys, values = zip(*split, strict=True)
    # A token with nothing before it attends to itself alone: its value is the answer, whatever it asks.
    asked = min(answers, len(known) - 1)
    found = [values[0]] if asked < answers else []
    if asked:
        queries = F.linear(x[-asked:], of_queries, bias).unflatten(2, (attention.heads, -1))
        found += [_weigh(query, keys, values, len(known) - asked + number + 1) for number, query in enumerate(queries)]
    weight = attention.proj.weight
    return F.linear(_stack(found).flatten(2), weight, attention.proj.bias + weight @ of_values), known


def _weigh(
    query: Float[Tensor, "rows heads head_dim"],
    keys: Sequence[Float[Tensor, "rows heads head_dim"]],
    values: Sequence[Float[Tensor, "rows heads head_dim"]],
    seen: int,
) -> Float[Tensor, "rows heads head_dim"]:
    """What a query gets from the first few keys: number by number, four times as fast on CPUs as the fused kernel, which
    is made for long sequences."""
    query = query * query.shape[2] ** -0.5
    weights = torch.stack([(query * key).sum(2) for key in keys[:seen]]).softmax(0)[..., None]
    found = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:seen], strict=True):
        found = torch.addcmul(found, weight, value)
    return found
