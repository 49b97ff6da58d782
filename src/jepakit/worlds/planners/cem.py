"""CEM, the cross-entropy method: the mean and deviation of the best plans are where the next ones are drawn.

Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", 1999. What world models mostly plan
with: LeWorldModel 300 plans x 30 iterations with 30 elites (arXiv 2603.19312), V-JEPA 2-AC 800 x 10 (2506.09985).
"""

from __future__ import annotations

from dataclasses import dataclass

from jepakit.worlds.planners.gaussian import GaussianConfig, GaussianSearch


@dataclass(frozen=True, kw_only=True)
class CEMConfig(GaussianConfig):
    """See `GaussianConfig`."""


class CEM(GaussianSearch):
    """Every elite counts the same."""

    name = "cem"
    Config = CEMConfig

    def __init__(self, config: CEMConfig | None = None, *, seed: int = 0):
        super().__init__(config or CEMConfig(), seed=seed)
