"""Rollouts of a causal transformer over windows: nothing is worked out twice that is the same twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jepakit.nn.modulation import ModulatedBlock
from jepakit.nn.transformer import KeysValues

ROWS = 512  # of a batch that are taken at once: what a layer works on then stays in a processor's cache


class Layers(NamedTuple):
    """The parts of a predictor that a rollout passes through, tokens being `[batch, tokens, dim]`.

    embed: embeddings to tokens; positions: added to those of a window, `[1, history, dim]`; steer: actions to the conditions of
    the blocks; head: the last token to the next embedding.
    """

    embed: Callable[[Tensor], Tensor]
    positions: Tensor
    steer: Callable[[Tensor], Tensor]
    blocks: Sequence[ModulatedBlock]
    head: Callable[[Tensor], Tensor]


class Observed(NamedTuple):
    """What the rows start from: `count` observations and the actions after all but the newest."""

    embeddings: Float[Tensor, "batch seen embedding"]
    actions: Float[Tensor, "batch before action"]


def cached_rollout(
    layers: Layers, observed: Observed, owner: Int[Tensor, "rows"], actions: Float[Tensor, "rows horizon action"]
) -> Float[Tensor, "rows horizon embedding"]:
    """The embedding predicted after each action, from windows of the newest `history` observations.

    While a window grows, only its newest token is new: the keys and values of the others stand. Once it slides, its tokens
    have other positions and are worked out anew, those of observations once for each sample of `observed`, however many rows
    start from it. The last block answers the newest token only, and what an action makes of the blocks' norms is worked out
    when it is met first.

    owner: the sample of `observed` that each row starts from.
    """
    history, seen = layers.positions.shape[1], observed.embeddings.shape[1]
    tokens = [layers.embed(observed.embeddings[:, -1:])[owner]]  # from the newest observation on, those of each row
    modulations: list[list[Tensor]] = []  # of the actions after them, of each block
    past: list[KeysValues] = []
    predictions = []
    for t in range(actions.shape[1]):
        steer = layers.steer(actions[:, t : t + 1])
        modulations.append([block.modulation(steer) for block in layers.blocks])
        first = max(0, seen + t - history)  # the oldest observation of this window
        if t == 0 or first > 0:
            past, begin = [], max(0, first - (seen - 1))
            if first < seen - 1:
                past = [known[owner] for known in _prefix(layers, observed, first)]
        else:
            begin = t
        x = torch.cat(tokens[begin:], dim=1)
        place = seen - 1 + begin - first
        x, past = _through(layers, x + layers.positions[:, place : place + x.shape[1]], modulations[begin:], past)
        predictions.append(layers.head(x[:, -1:]))
        tokens.append(layers.embed(predictions[-1]))
    return torch.cat(predictions, dim=1)


def _prefix(layers: Layers, observed: Observed, first: int) -> list[KeysValues]:
    """Keys and values of each block for the observations from `first` to the last but one."""
    x = layers.embed(observed.embeddings[:, first:-1])
    x = x + layers.positions[:, : x.shape[1]]
    steer, known = layers.steer(observed.actions[:, first:]), []
    for block in layers.blocks:
        x, kept = block.following(x, block.modulation(steer))
        known.append(kept)
    return known


def _through(
    layers: Layers, x: Float[Tensor, "rows new dim"], modulations: list[list[Tensor]], past: list[KeysValues]
) -> tuple[Float[Tensor, "rows 1 dim"], list[KeysValues]]:
    """The newest token after all blocks, and the keys and values of all."""
    known = []
    for number, block in enumerate(layers.blocks):
        modulation = torch.cat([step[number] for step in modulations], dim=1)
        last = number == len(layers.blocks) - 1
        x, kept = block.following(x, modulation, past[number] if past else None, answers=1 if last else None)
        known.append(kept)
    return x, known
