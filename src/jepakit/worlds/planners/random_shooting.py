"""Random shooting: draw plans from the whole space, keep the best. What any search must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from jepakit.errors import check_range
from jepakit.worlds.planners.search import Search
from jepakit.worlds.problem import Plan, Problem


@dataclass(frozen=True, kw_only=True)
class RandomShootingConfig:
    """population: plans drawn at once; iterations: how often."""

    population: int = 256
    iterations: int = 4

    def __post_init__(self) -> None:
        for name in ("population", "iterations"):
            check_range(name, getattr(self, name), 1)


class RandomShooting:
    """The cheapest of `population * iterations` plans drawn uniformly; warm starts take the place of the first draws."""

    Config = RandomShootingConfig

    def __init__(self, config: RandomShootingConfig | None = None, *, seed: int = 0):
        self.config, self.seed = config or RandomShootingConfig(), seed

    def __call__(self, problem: Problem, warm: Tensor | None = None, step: int | Sequence[int] = 0) -> Plan:
        """See `Planner`."""
        search = Search(problem, seed=self.seed, name="random-shooting", step=step, warm=warm)
        for iteration in range(self.config.iterations):
            drawn = search.uniform(self.config.population)
            if warm is not None and iteration == 0:
                given = search.first[:, : self.config.population]
                drawn[:, : given.shape[1]] = given
            search.evaluate(drawn)
            search.note()
        return search.plan()
