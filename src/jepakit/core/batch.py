"""What travels from the loader to a step: named tensors, batch first, and named streams of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Any]
"""Tensors by name, `[batch, ...]`; one of no dimension (`step`) holds for the whole batch. `id [batch]` says which samples.

A dict inside is a stream with samples of its own (images beside video), itself a Batch, or a group of numbers (`counts`).
"""


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """`function` of a tensor, or of every tensor in nested dicts."""
    if isinstance(tree, dict):
        return {name: map_tensors(function, part) for name, part in tree.items()}
    return function(tree)


def concatenate(trees: Sequence[Any]) -> Any:
    """Tensors, or dicts of tensors, joined along the batch; a ragged axis is padded with zeros to the longest."""
    if isinstance(trees[0], dict):
        return {name: concatenate([tree[name] for tree in trees]) for name in trees[0]}
    shape = [max(tensor.shape[axis] for tensor in trees) for axis in range(1, trees[0].ndim)]
    if all(list(tensor.shape[1:]) == shape for tensor in trees):
        return torch.cat(list(trees))
    joined = trees[0].new_zeros(sum(map(len, trees)), *shape)
    start = 0
    for tensor in trees:
        joined[(slice(start, start + len(tensor)), *(slice(0, n) for n in tensor.shape[1:]))] = tensor
        start += len(tensor)
    return joined


def batch_size(batch: Batch) -> int:
    """Samples of the batch; of all its streams where it has only those."""
    if "id" in batch:
        return len(batch["id"])
    return sum(batch_size(part) for part in batch.values() if isinstance(part, dict) and part)


def split_batch(batch: Batch, pieces: int) -> list[Batch]:
    """A batch cut into pieces of nearly the same size, each stream by itself; numbers that hold for all go to each."""
    return [_piece(batch, index, pieces) for index in range(pieces)]


def _piece(batch: Batch, index: int, pieces: int) -> Batch:
    samples = len(batch["id"]) if "id" in batch else 0
    start, end = index * samples // pieces, (index + 1) * samples // pieces
    cut: Batch = {}
    for name, part in batch.items():
        if isinstance(part, dict):
            inner = part if "id" in part or "id" not in batch else {**part, "id": batch["id"]}
            cut[name] = _piece(inner, index, pieces)
            if inner is not part:
                del cut[name]["id"]  # an input of several tensors, cut with the batch it belongs to
        else:
            cut[name] = part if part.ndim == 0 else part[start:end]
    return cut


def count_of(batch: Batch, name: str) -> Tensor | None:
    """What a mean is to be divided by where the whole step's count is known (`System.counts`), else None."""
    counts = batch.get("counts")
    return None if counts is None else counts[name]
