"""Random draws that are a function of (seed, stream, epoch, sample id): the same on any number of workers.

Each sample owns a counter-based stream (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014). Nothing is kept between calls, so the order of the samples, the worker that draws and the
batch they fall into do not matter, and a whole batch is drawn at once.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of 64-bit words that passes the usual tests of randomness."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Draws:
    """Uniform draws for a batch of samples, each from its own stream.

    Args:
        seed: the run's seed.
        stream: what is drawn ("masks", "views", ...); streams with different names are independent.
        epoch: the epoch of each sample, `[batch]` or one number for all.
        ids: the id of each sample, `[batch]`.
    """

    def __init__(self, seed: int, stream: str, epoch: int | Sequence[int] | NDArray, ids: Sequence[int] | NDArray):
        ids_array = np.atleast_1d(np.asarray(ids, dtype=np.uint64))
        epochs = np.broadcast_to(np.asarray(epoch, dtype=np.uint64), ids_array.shape)
        with np.errstate(over="ignore"):
            state = np.full_like(ids_array, seed % 2**64)
            for word in (np.uint64(zlib.crc32(stream.encode())), epochs, ids_array):
                state = _mix(state + _GOLDEN + word * np.uint64(0xD1342543DE82EF95))
        self._state = state
        self._counter = 0

    def __len__(self) -> int:
        return len(self._state)

    def some(self, samples: NDArray[np.int64]) -> Draws:
        """The streams of some of the samples, from where they stand."""
        chosen = copy.copy(self)
        chosen._state = self._state[samples]
        return chosen

    def _words(self, count: int) -> NDArray[np.uint64]:
        steps = np.arange(self._counter + 1, self._counter + count + 1, dtype=np.uint64)
        self._counter += count
        with np.errstate(over="ignore"):
            return _mix(self._state[:, None] + steps[None, :] * _GOLDEN)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Uniform numbers in [low, high), `[batch, *shape]`. Each call continues each sample's stream."""
        words = self._words(int(np.prod(shape, dtype=int)))
        unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (low + unit * (high - low)).reshape(len(self), *shape)

    def integers(self, high: int | NDArray, *shape: int) -> NDArray[np.int64]:
        """Uniform integers in [0, high), `[batch, *shape]`; `high` may be an array that broadcasts to it."""
        return np.floor(self.uniform(*shape) * high).astype(np.int64)

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """Standard normal numbers, `[batch, *shape]` (Box-Muller)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(*shape)))
        return radius * np.cos(2.0 * np.pi * self.uniform(*shape))


def derive_seed(seed: int, *words: int | str) -> int:
    """A 63-bit seed for a generator of another library, independent for different `words`."""
    state = np.asarray([seed % 2**64], dtype=np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            value = zlib.crc32(word.encode()) if isinstance(word, str) else word % 2**64
            state = _mix(state + _GOLDEN + np.asarray([value], dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    return int(state[0] >> np.uint64(1))
