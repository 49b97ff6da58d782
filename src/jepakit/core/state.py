"""The state of a world model: a tree of tensors that a planner copies, picks from and stacks without knowing what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from jepakit.errors import UserError, check_range


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`function` of every tensor of a tree (and of those at the same places of the `others`), in a tree of the same kind.

    A tree is a tensor, or a dict, a tuple (named or not), a list or a dataclass of trees. Anything else in it (a number, a
    word, None) belongs to the tree's kind and stays.

    Errors: the others have another structure.
    """
    if any(type(other) is not type(tree) for other in others):
        kinds = ", ".join(type(part).__name__ for part in (tree, *others))
        raise UserError(f"States of one model have one structure; here one part is of different kinds: {kinds}.")
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        if any(other.keys() != tree.keys() for other in others):
            raise UserError(f"States of one model have one structure; here {sorted(tree)} stand beside other names.")
        return {name: map_tree(function, part, *(other[name] for other in others)) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        if any(len(other) != len(tree) for other in others):
            raise UserError(f"States of one model have one structure; here {len(tree)} parts stand beside another number.")
        parts = [map_tree(function, *together) for together in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree) if field.init]
        changed = {n: map_tree(function, getattr(tree, n), *(getattr(other, n) for other in others)) for n in names}
        return dataclasses.replace(tree, **changed)
    if any(other != tree for other in others):
        raise UserError(f"States of one model have one structure; here {tree!r} stands beside another value.")
    return tree


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in its order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tree(note, tree)
    return found


@dataclass(frozen=True, eq=False)
class State:
    """What a world model knows of each sample of a batch: one vector, a window of three, a recurrent state, cached keys
    and values, latent samples. Only the model that made it looks inside; see `map_tree` for what a tree may be.

    tree: its tensors are batch first, `[batch, ...]`; one of no dimension holds for the whole batch.

    Errors: no tensor with a batch axis, or tensors of different batch sizes.
    """

    tree: Any

    def __post_init__(self) -> None:
        sizes = sorted({len(tensor) for tensor in tensors_of(self.tree) if tensor.ndim})
        if len(sizes) != 1:
            raise UserError(f"The tensors of a state share their first axis, the batch; here it has the sizes {sizes}.")

    @property
    def batch(self) -> int:
        """Number of samples."""
        return next(len(tensor) for tensor in tensors_of(self.tree) if tensor.ndim)

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """`function` of each tensor that has a batch axis."""
        return State(map_tree(lambda tensor: function(tensor) if tensor.ndim else tensor, self.tree))

    def expand(self, candidates: int) -> State:
        """Each sample `candidates` times in a row: `[batch, ...] -> [batch * candidates, ...]`."""
        check_range("candidates", candidates, 1)
        return self.map(lambda tensor: tensor.repeat_interleave(candidates, dim=0))

    def index(self, samples: Int[Tensor, "chosen"]) -> State:
        """The state of these samples, in this order; a sample may be asked for twice."""
        return self.map(lambda tensor: tensor[samples.to(tensor.device)])

    def select(self, chosen: Int[Tensor, "batch"]) -> State:
        """Of an expanded state, candidate `chosen[i]` of sample i: the reverse of `expand` once a plan is decided."""
        if not len(chosen) or self.batch % len(chosen):
            raise UserError(
                f"select: {len(chosen)} choices for a state of {self.batch}, which is no whole number of candidates each."
            )
        candidates = self.batch // len(chosen)
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < candidates:
            raise UserError(f"select: candidates are numbered from 0 to {candidates - 1}, got {chosen.tolist()}.")
        return self.index(torch.arange(len(chosen), device=chosen.device) * candidates + chosen)

    def detach(self) -> State:
        """Without the graph behind it."""
        return State(map_tree(Tensor.detach, self.tree))

    def to(self, device: torch.device) -> State:
        """On another device."""
        return State(map_tree(lambda tensor: tensor.to(device), self.tree))

    @staticmethod
    def concatenate(states: Sequence[State]) -> State:
        """The samples of several states of one model as one batch. Errors: none given, or of different structure."""
        if not states:
            raise UserError("concatenate needs at least one state.")
        first, *others = (state.tree for state in states)

        def join(*parts: Tensor) -> Tensor:
            if parts[0].ndim:
                return torch.cat(parts)
            if not all(torch.equal(part, parts[0]) for part in parts):
                raise UserError("concatenate: the states differ in a number that holds for the whole batch.")
            return parts[0]

        return State(map_tree(join, first, *others))
