"""iCEM: CEM with draws that are correlated in time, elites that are used again, and a population that shrinks.

Pinneri et al., "Sample-efficient Cross-Entropy Method for Real-time Planning", CoRL 2020 (arXiv 2008.06389). White noise
cancels itself over a horizon, so that an agent moved by it stays about; noise with a spectrum of 1 / f^exponent gets somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import check_range
from jepakit.worlds.planners.gaussian import GaussianConfig, GaussianSearch
from jepakit.worlds.planners.search import Search


def coloured(white: Float[Tensor, "*shape horizon action"], exponent: float) -> Float[Tensor, "*shape horizon action"]:
    """White noise along the horizon made into noise whose power falls as 1 / f^exponent, still of deviation 1 at each step.

    exponent 0 leaves it white, 1 is pink, 2 brown. The constant part, of frequency 0, gets the power of the lowest frequency,
    as in Timmer and König, "On generating power law noise", 1995.
    """
    horizon = white.shape[-2]
    if exponent == 0 or horizon == 1:
        return white
    frequency = torch.fft.rfftfreq(horizon, device=white.device, dtype=white.dtype)
    frequency[0] = frequency[1]
    gain = frequency.pow(-exponent / 2)
    # Of the whole spectrum the mean power is the variance at a step; the half kept by rfft holds most frequencies twice.
    twice = torch.full_like(gain, 2.0)
    twice[0] = 1
    if horizon % 2 == 0:
        twice[-1] = 1
    gain = gain / (twice * gain.square()).sum().div(horizon).sqrt()
    return torch.fft.irfft(torch.fft.rfft(white, dim=-2) * gain[:, None], n=horizon, dim=-2)


@dataclass(frozen=True, kw_only=True)
class ICEMConfig(GaussianConfig):
    """The paper's settings, but for the population. Further options than `GaussianConfig`'s:

    exponent: of the noise's spectrum, 0 (white) to 4 (a line); the paper takes 0.25 (cheetah) to 3.5 (door).
    decay: by how much the population shrinks from one iteration to the next, not below twice the elites.
    The paper's elites survive from one time step to the next, too: warm-start with `shifted(plan.elites)`.
    """

    elites: int = 10
    momentum: float = 0.1
    keep: int = 3
    execute: Literal["mean", "best"] = "best"
    exponent: float = 2.0
    decay: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("exponent", self.exponent, 0)
        check_range("decay", self.decay, 1)


class ICEM(GaussianSearch):
    """Every elite counts the same, as in CEM; other draws."""

    name = "icem"
    Config = ICEMConfig

    def __init__(self, config: ICEMConfig | None = None, *, seed: int = 0):
        super().__init__(config or ICEMConfig(), seed=seed)

    def drawn_in(self, iteration: int) -> int:
        shrunk = int(self.config.population * self.config.decay**-iteration)
        return max(shrunk, min(2 * self.config.elites, self.config.population))

    def noise(self, search: Search, candidates: int) -> Float[Tensor, "env candidate horizon action"]:
        white, space = super().noise(search, candidates), search.space
        # In time means from one action of the environment to the next, blocks of them or not.
        noise = coloured(space.steps(white), self.config.exponent)
        return noise.unflatten(-2, (-1, space.parts)).flatten(-2)
