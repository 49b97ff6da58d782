"""The order of the data: an endless stream of shuffled epochs, cut into batches; a position in it is a step number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from jepakit.randomness import derive_seed

WINDOW = 4  # shards whose samples are mixed, where data is read shard after shard


class Draw(NamedTuple):
    """One sample to fetch, the epoch it is drawn in, the step that will see it, the share of training done, and the
    companion stream it is from (None: the main one)."""

    sample: int
    epoch: int
    step: int
    progress: float
    stream: str | None = None


def permutation(samples: int, generator: np.random.Generator, shards: NDArray | None = None) -> NDArray[np.int64]:
    """An order of `samples`; of samples that lie in shards (`[samples]`, which) one window of shards after the other.

    The shards are permuted and cut into windows of `WINDOW`; the samples of a window are permuted among themselves. A store
    that reads forwards quickly and here and there slowly then has the few shards of a window to read, once an epoch.
    """
    order = generator.permutation(samples)
    if shards is None:
        return order
    _, shard = np.unique(shards, return_inverse=True)
    window = generator.permutation(int(shard.max()) + 1) // WINDOW
    return order[np.argsort(window[shard[order]], kind="stable")]


class Stream:
    """An endless row of samples: every epoch is a fresh permutation; no sample is left out or doubled."""

    def __init__(self, samples: int, batch_size: int, seed: int, name: str | None = None, shards: NDArray | None = None):
        self.samples, self.batch_size, self.name, self.shards = samples, batch_size, name, shards
        self.words = (seed, "order") if name is None else (seed, "order", name)
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int, steps: int) -> list[Draw]:
        """The draws of a step. Batches run on across the end of an epoch, so all have the same size."""
        draws = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            if position // self.samples != self.epoch:
                self.epoch = position // self.samples
                generator = np.random.default_rng(derive_seed(*self.words, self.epoch))
                self.order = permutation(self.samples, generator, self.shards)
            draws.append(Draw(int(self.order[position % self.samples]), self.epoch, step, step / steps, self.name))
        return draws


class StreamSampler(Sampler[list[Draw]]):
    """Batches of steps `start` to `steps`: the main stream's draws, then those of each companion.

    Batch `k` is a function of (seed, k) alone: to resume is to start at another step. Of several ranks each takes a
    contiguous slice of every stream's draws; the slices of all ranks, in order, are the batch of one process.

    Args:
        samples, batch_size: of the main stream; the batch is that of all ranks together.
        shards: the shard in which each of its samples lies, to be read shard after shard; None: in any order.
        companions: samples and batch size of each further stream, by name.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        *,
        shards: NDArray | None = None,
        companions: Mapping[str, tuple[int, int]] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.main, self.shards, self.companions = (samples, batch_size), shards, dict(companions or {})
        self.steps, self.seed, self.start, self.rank, self.ranks = steps, seed, start, rank, ranks

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        streams = [Stream(*self.main, self.seed, shards=self.shards)]
        streams += [Stream(*sizes, self.seed, name) for name, sizes in self.companions.items()]
        for step in range(self.start, self.steps):
            yield [draw for stream in streams for draw in self._share(stream.batch(step, self.steps))]

    def _share(self, draws: list[Draw]) -> list[Draw]:
        first, end = (number * len(draws) // self.ranks for number in (self.rank, self.rank + 1))
        return draws[first:end]


class DrawnDataset(Dataset):
    """Data sets asked by `Draw`: the sample carries the epoch, the step, the progress and (of a companion) the stream's
    name to the collator."""

    def __init__(self, dataset: Any, companions: Mapping[str, Any] | None = None):
        self.dataset, self.companions = dataset, dict(companions or {})

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        facts = {"epoch": draw.epoch, "step": draw.step, "progress": draw.progress}
        if draw.stream is None:
            return {**self.dataset[draw.sample], **facts}
        return {**self.companions[draw.stream][draw.sample], **facts, "stream": draw.stream}
