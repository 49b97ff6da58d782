"""SIGReg (LeJEPA, Balestriero and LeCun 2025, arXiv 2511.08544): every one-dimensional shadow of the embeddings is
pushed towards N(0, 1), hence the whole towards the isotropic Gaussian (Cramér and Wold).

Each shadow is scored by the test of Epps and Pulley (1983), the distance between characteristic functions:

    T = N * integral over [-3, 3] of exp(-t^2 / 2) * |mean_n exp(i t s_n) - exp(-t^2 / 2)|^2 dt

by the trapezoid rule on 17 knots of [0, 3], doubled by symmetry. In expectation T is 1.05 for exactly Gaussian
embeddings (the floor, whatever N; 1.059 with the integral over all t) and 0.402 N when all are 0 (collapse).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.collectives import global_length, sum_over_ranks
from jepakit.core.anticollapse.characteristic import characteristic_sums
from jepakit.core.anticollapse.method import AntiCollapse
from jepakit.errors import check_choice, check_range
from jepakit.randomness import derive_seed


@dataclass(frozen=True, kw_only=True)
class SIGRegConfig:
    """weight, and what it multiplies (`convention`):

    "per_sample": the statistic without its factor N, T / N. A given distribution of embeddings then feels the same pull
        at every batch size and number of ranks (up to the O(1 / N) bias of the statistic).
    "paper": T itself, whose pull grows with the global batch N. LeJEPA's `(1 - lambda) inv + lambda T` is
        weight = lambda here with (1 - lambda) on the invariance; LeWorldModel's `pred + lambda T` is weight = lambda.

    A LeJEPA lambda at batch N is the per-sample weight w = N lambda / (1 - lambda), so lambda / (1 - lambda) = w / N.
    The default 5 is lambda = 0.02 at the batch of 256 of the authors' minimal example (5.2).

    slices: random directions a step; knots: points of the quadrature on [0, t_max].
    """

    weight: float = 5.0
    convention: Literal["per_sample", "paper"] = "per_sample"
    slices: int = 256
    knots: int = 17
    t_max: float = 3.0

    def __post_init__(self) -> None:
        check_choice("sigreg.convention", self.convention, ("per_sample", "paper"))
        check_range("sigreg.weight", self.weight, 0)
        check_range("sigreg.slices", self.slices, 1)
        check_range("sigreg.knots", self.knots, 2)
        check_range("sigreg.t_max", self.t_max, 0.1)


class SIGReg(AntiCollapse):
    """Term: `sigreg`, the paper's T, mean over directions and views: compare it with `floor` and `ceiling`.

    Each view is tested by itself. Directions are redrawn every step as a function of (seed, step), the same on all
    ranks: fixed ones would be satisfied while the rest collapses. Batch-size meaning: see `SIGRegConfig`.
    Rank-count meaning: the empirical characteristic functions are averaged over all ranks, so N is the global batch.
    """

    name = "SIGReg"
    aligns_views = False

    def __init__(self, config: SIGRegConfig, seed: int = 0):
        self.config = config
        self.seed = seed

    def terms(self, views: Float[Tensor, "views batch dim"], step: int, count: int | Tensor) -> dict[str, Tensor]:
        directions = draw_directions(views.shape[-1], self.config.slices, self.seed, step).to(views)
        directions = directions / directions.norm(dim=0)
        statistic = epps_pulley(views @ directions, knots=self.config.knots, t_max=self.config.t_max).mean()
        scale = 1 if self.config.convention == "per_sample" else count
        return {"loss": self.config.weight * scale * statistic, "sigreg": (count * statistic).detach()}

    @property
    def floor(self) -> float:
        """Expected `sigreg` of exactly Gaussian embeddings, at any batch size (its bias): 1.05."""
        _, phi, weights = quadrature(self.config.knots, self.config.t_max)
        return float((weights * (1 - phi**2)).sum())

    def ceiling(self, count: int) -> float:
        """`sigreg` of a global batch of `count` embeddings that are all 0: 0.402 a sample."""
        _, phi, weights = quadrature(self.config.knots, self.config.t_max)
        return count * float((weights * (1 - phi) ** 2).sum())


@torch.compiler.disable  # hashing integers in numpy: nothing to compile
def draw_directions(dim: int, slices: int, seed: int, step: int) -> Float[Tensor, "dim slices"]:
    """Random unit vectors as columns. Drawn on the CPU, so that ranks agree whatever their devices."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "sigreg", step))
    directions = torch.randn(dim, slices, generator=generator)
    return directions / directions.norm(dim=0)


def quadrature(knots: int, t_max: float) -> tuple[Tensor, Tensor, Tensor]:
    """Knots t on [0, t_max], the Gaussian's characteristic function there, and trapezoid weights doubled by symmetry
    times the window exp(-t^2 / 2); float64, each `[knots]`."""
    t = torch.linspace(0, t_max, knots, dtype=torch.float64)
    phi = torch.exp(-(t**2) / 2)
    trapezoid = torch.full_like(t, 2 * t_max / (knots - 1))
    trapezoid[0] = trapezoid[-1] = t_max / (knots - 1)
    return t, phi, trapezoid * phi


def epps_pulley(
    projections: Float[Tensor, "*leading batch slices"], *, knots: int = 17, t_max: float = 3.0
) -> Float[Tensor, "*leading slices"]:
    """T / N of each column, over the batches of all ranks (float32 or float64).

    Equals the mean over pairs of samples of a bounded kernel; its expectation at N(0, 1) is `SIGReg.floor` / N.
    """
    *leading, batch, slices = projections.shape
    _, phi, weights = (part.to(projections) for part in quadrature(knots, t_max))
    groups = projections.reshape(-1, batch, slices)
    sums = torch.stack([characteristic_sums(group, knots, t_max / (knots - 1)) for group in groups])
    cosine, sine = (sum_over_ranks(sums) / global_length(groups, 1)).unbind(1)
    return (weights @ ((cosine - phi[:, None]).square() + sine.square())).reshape(*leading, slices)
