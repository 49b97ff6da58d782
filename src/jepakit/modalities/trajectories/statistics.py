"""Mean and deviation of the numbers of observations and actions, of whole data or, for a store, of a sample of its steps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepakit.modalities.pixels import unit
from jepakit.modalities.trajectories.episodes import Episodes
from jepakit.randomness import derive_seed

# The steps of a store that are looked at: enough of them, in 128 MB (as doubles), but some pictures.
SAMPLED, _NUMBERS, _LEAST = 4096, 2**24, 64

Scale = tuple[tuple[float, ...], tuple[float, ...]]


def scales(episodes: Episodes, begins: NDArray[np.int64], span: int) -> tuple[Scale, Scale]:
    """Mean and deviation of observations (of each number, or of each channel with pixels in [0, 1]), and of actions.

    The deviation of a channel is around the mean picture: what never changes, such as the walls of a room, says nothing, and
    would only make what does change there fainter beside other channels.

    begins: the first step of each window; span: steps of a window. Every step that windows see counts once. Of a store, or of
    pictures yet to be drawn, with more than 4,096 windows so many steps do (at most 2^24 numbers of them, but 64 steps), drawn
    alike each time.
    """
    chosen = _steps(episodes, begins, span)
    observations = unit(torch.from_numpy(episodes.observed(chosen))).double()
    actions = torch.from_numpy(episodes.single("actions", chosen)).double()
    return _scale(observations, [0] if observations.dim() == 2 else [0, 2, 3]), _scale(actions, [0])


def _steps(episodes: Episodes, begins: NDArray[np.int64], span: int) -> NDArray[np.int64]:
    in_memory = episodes.store is None and isinstance(episodes.observations, np.ndarray)
    if in_memory or len(begins) <= SAMPLED:
        return np.unique((begins[:, None] + np.arange(span)).reshape(-1))
    # A window's last action is not its own, and the last of an episode is padding: the steps before it.
    draws = np.random.default_rng(derive_seed(0, "normalisation"))
    most = max(_LEAST, min(SAMPLED, _NUMBERS // int(np.prod(episodes.observations.shape[1:]))))
    return np.sort(draws.choice(begins, most, replace=False) + draws.integers(max(span - 1, 1), size=most))


def _scale(values: Tensor, axes: list[int]) -> Scale:
    mean = values.mean(axes)
    # Of numbers that never change too, dividing by the deviation must give numbers.
    deviation = (values - values.mean(0)).square().mean(axes).sqrt().clamp_min(1e-3)
    return tuple(mean.tolist()), tuple(deviation.tolist())
