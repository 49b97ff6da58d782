"""Short-term memory: what was met, and apart from it what was only imagined (LeCun 2022, section 3.1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jepakit.errors import UserError, check_range


@dataclass(frozen=True, eq=False)
class Entries:
    """Rows of a memory, oldest first.

    episode: a whole number for each episode. time: in steps of the model from its start. state, goal: embeddings, flat; of a
    task without a goal 0. action: the block begun in this state, as episodes hold it. cost: the intrinsic cost of being there.
    imagined: whether it only was.
    """

    episode: Int[Tensor, "n"]
    time: Int[Tensor, "n"]
    state: Float[Tensor, "n dim"]
    goal: Float[Tensor, "n dim"]
    action: Float[Tensor, "n action"]
    cost: Float[Tensor, "n"]
    imagined: Bool[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, rows: Tensor | slice) -> Entries:
        return Entries(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def concatenate(several: Sequence[Entries]) -> Entries:
        """One after the other."""
        return Entries(*(torch.cat([getattr(one, field.name) for one in several]) for field in fields(Entries)))


class ShortTermMemory:
    """Appended to, never edited; when it is full the oldest entries are forgotten.

    Args:
        capacity: entries kept, of real and imagined ones each.
    """

    def __init__(self, capacity: int = 100_000):
        check_range("capacity", capacity, 1)
        self.capacity = capacity
        self._kept: dict[bool, list[Entries]] = {False: [], True: []}

    def __len__(self) -> int:
        return sum(len(part) for parts in self._kept.values() for part in parts)

    def append(self, entries: Entries) -> None:
        """Remember these. Errors: real and imagined ones together; other widths than those that are there."""
        if not len(entries):
            return
        imagined = bool(entries.imagined[0])
        if bool((entries.imagined != imagined).any()):
            raise UserError("memory: what was met and what was imagined are appended apart.")
        known = next((part for parts in self._kept.values() for part in parts), entries)
        (state, action), (ours, done) = ((one.state.shape[1], one.action.shape[1]) for one in (known, entries))
        if (state, action) != (ours, done):
            raise UserError(
                f"memory: it holds states of {state} and actions of {action} numbers, these have {ours} and {done}. Keep a "
                "memory for each model."
            )
        parts = self._kept[imagined]
        parts.append(entries)
        if len(parts) > 64:  # few long parts are quicker to search than many short ones
            self._kept[imagined] = parts = [Entries.concatenate(parts)]
        while sum(map(len, parts)) > self.capacity:
            over = sum(map(len, parts)) - self.capacity
            parts[0] = parts[0][over:]
            if not len(parts[0]):
                parts.pop(0)

    def holds(self, imagined: bool = False) -> bool:
        """Whether anything was met, or imagined."""
        return bool(self._kept[imagined])

    def entries(self, imagined: bool = False) -> Entries:
        """All of what was met, or of what was imagined. Errors: there is nothing."""
        parts = self._kept[imagined]
        if not parts:
            raise UserError(f"memory: nothing was {'imagined' if imagined else 'met'} yet.")
        return Entries.concatenate(parts)

    def newest(self, count: int, imagined: bool = False) -> Entries:
        """What was met (or imagined) last: `count` entries or as many as there are, oldest first. Errors: there is nothing."""
        check_range("count", count, 1)
        parts = self._kept[imagined]
        if parts and len(parts[-1]) >= count:  # what one step of all environments wrote
            return parts[-1][-count:]
        return self.entries(imagined)[-count:]

    def at(self, time: int, episode: int | None = None, imagined: bool = False) -> Entries:
        """What was met (or imagined) at a time, of one episode or of all."""
        found = self.entries(imagined)
        rows = found.time == time
        return found[rows if episode is None else rows & (found.episode == episode)]

    def nearest(self, state: Float[Tensor, "dim"], k: int = 1, imagined: bool = False) -> Entries:
        """The k entries whose states are most alike, the most alike first (Euclidean distance)."""
        check_range("k", k, 1)
        found = self.entries(imagined)
        distance = (found.state - state.flatten()).square().sum(1)
        return found[distance.topk(min(k, len(found)), largest=False).indices]

    def later(self, delay: int) -> tuple[Entries, Float[Tensor, "n"]]:
        """What was met, wherever it is known what was met `delay` steps after it in the same episode, and the cost then: what
        a critic learns from. Imagined costs are never among them."""
        check_range("delay", delay, 1)
        found = self.entries()
        span = int(found.time.max()) + delay + 1
        key = found.episode * span + found.time
        order = key.argsort()
        wanted = key + delay
        place = torch.searchsorted(key[order], wanted).clamp(max=len(key) - 1)
        there = order[place]
        known = key[there] == wanted
        return found[known], found.cost[there[known]]
