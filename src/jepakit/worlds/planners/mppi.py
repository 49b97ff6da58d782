"""MPPI, model predictive path integral control: the mean of all plans, the cheap ones weighing exponentially more.

Williams et al., "Information theoretic MPC for model-based reinforcement learning", ICRA 2017; with elites and a deviation
that adapts as in TD-MPC (Hansen et al., arXiv 2203.04955). The temperature divides: the lower, the more the best plan counts
alone. What is executed is the weighted mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError, check_range
from jepakit.worlds.planners.gaussian import GaussianConfig, GaussianSearch


@dataclass(frozen=True, kw_only=True)
class MPPIConfig(GaussianConfig):
    """Further options than `GaussianConfig`'s:

    elites: plans that are weighed; all of the population is the original method.
    temperature: of the weights softmax(-(cost - least cost) / temperature).
    normalise: divide costs by their deviation among the elites first, so that a temperature means the same whatever the size
        of costs (squared distances of embeddings are in the thousands for one model, below 1 for another). False: the
        temperature is in units of the cost, as in the papers.
    adapt: the deviation of the draws becomes that of the weighted elites; False: it stays `std`, as in the original method.
    """

    elites: int = 64
    temperature: float = 1.0
    normalise: bool = True
    adapt: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("temperature", self.temperature)
        if self.temperature <= 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}. Near 0 the best plan alone counts.")


def path_weights(
    cost: Float[Tensor, "env elite"], temperature: float, normalise: bool = False
) -> Float[Tensor, "env elite"]:
    """softmax(-(cost - least) / temperature); costs of +inf weigh nothing, and where all are infinite all weigh nothing."""
    counts = cost.isfinite()
    finite = cost.where(counts, torch.zeros_like(cost))
    least = cost.amin(1, keepdim=True)
    above = (cost - least).where(counts, torch.zeros_like(cost))
    if normalise:
        number = counts.sum(1, keepdim=True).clamp(min=1)
        centred = (finite - finite.sum(1, keepdim=True) / number).where(counts, torch.zeros_like(cost))
        spread = (centred.square().sum(1, keepdim=True) / number).sqrt()
        above = above / spread.where(spread > 0, torch.ones_like(spread))
    weights = torch.exp(-above / temperature).where(counts, torch.zeros_like(cost))
    return weights / weights.sum(1, keepdim=True).clamp(min=1)  # the least cost weighs 1: the sum is below 1 if none counts


class MPPI(GaussianSearch):
    """Elites count by their cost."""

    name = "mppi"
    Config = MPPIConfig

    def __init__(self, config: MPPIConfig | None = None, *, seed: int = 0):
        super().__init__(config or MPPIConfig(), seed=seed)

    def weights(self, cost: Float[Tensor, "env elite"]) -> Float[Tensor, "env elite"]:
        return path_weights(cost, self.config.temperature, self.config.normalise)

    def _fit(self, elites: Tensor, weights: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        moved, spread = super()._fit(elites, weights, mean, std)
        return moved, spread if self.config.adapt else std
