"""The order of the data: an endless stream of shuffled epochs, cut into batches; a position in it is a step number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from jepakit.randomness import derive_seed


class Draw(NamedTuple):
    """One sample to fetch, the epoch it is drawn in, the step that will see it, the share of training done."""

    sample: int
    epoch: int
    step: int
    progress: float


class StreamSampler(Sampler[list[Draw]]):
    """Batches of steps `start` to `steps`. Every epoch is a fresh permutation; no sample is left out or doubled.

    Batches run on across the end of an epoch, so all have the same size. Batch `k` is a function of (seed, k) alone:
    to resume is to start at another step.
    """

    def __init__(self, samples: int, batch_size: int, steps: int, seed: int, start: int = 0):
        self.samples, self.batch_size, self.steps, self.seed, self.start = samples, batch_size, steps, seed, start

    def __len__(self) -> int:
        return self.steps - self.start

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self.seed, "order", epoch)).permutation(self.samples)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = -1, np.empty(0)
        for step in range(self.start, self.steps):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.samples != epoch:
                    epoch = position // self.samples
                    order = self._permutation(epoch)
                batch.append(Draw(int(order[position % self.samples]), epoch, step, step / self.steps))
            yield batch


class DrawnDataset(Dataset):
    """A data set asked by `Draw`: the sample carries the epoch, the step and the progress to the collator."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return {**self.dataset[draw.sample], "epoch": draw.epoch, "step": draw.step, "progress": draw.progress}
