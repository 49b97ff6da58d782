"""How a comparison is made: both sides in turn, the fastest of several rounds, and the most memory each holds at once."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_LIBC = ctypes.CDLL(None) if hasattr(ctypes.CDLL(None), "malloc_trim") else None


@dataclass(frozen=True)
class Result:
    """One line of the table. `ours` and `reference` are in `unit`; `memory_ratio` is our peak extra memory over the
    reference's (below 1 is less)."""

    name: str
    ours: float
    reference: float
    unit: str = "s"
    memory_ratio: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times better ours is: times faster where the unit is a time, times more where it is a rate or share."""
        more_is_better = self.unit.endswith("/s") or self.unit == "share"
        return self.ours / self.reference if more_is_better else self.reference / self.ours


def compare(
    name: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    note: str = "",
    repeats: int = 5,
    memory: bool = True,
    of_rounds: Callable[[list[float]], float] = min,
) -> Result:
    """Seconds of both. Taking turns, so that what else the machine does falls on both alike; the fastest round counts.

    In its turn each side runs twice and the second run counts: the first finds memory in the sizes that the other left.

    of_rounds: `statistics.median` for sides of unequal length that differ by little: the shorter one more often finds a
    moment in which nothing else runs.
    """
    sides = (ours, reference)
    rounds = [[(seconds(side), seconds(side))[1] for side in sides] for _ in range(repeats)]
    best = [of_rounds(list(side)) for side in zip(*rounds, strict=True)]
    ratio = peak_memory(ours) / max(peak_memory(reference), 1) if memory else None
    return Result(name, best[0], best[1], "s", ratio, note)


def seconds(side: Callable[[], object]) -> float:
    """Wall time of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    side()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(side: Callable[[], object]) -> int:
    """Bytes that one call holds at its peak over what was held before: on the GPU as torch counts them, else resident."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side()
        return torch.cuda.max_memory_allocated() - before
    if _LIBC is not None:
        _LIBC.malloc_trim(0)  # freed memory that the allocator has kept would hide what is taken now
    before = peak = resident()
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.0005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        side()
        peak = max(peak, resident())
    finally:
        done.set()
        watcher.join()
    return peak - before


def resident() -> int:
    """Bytes of memory this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
