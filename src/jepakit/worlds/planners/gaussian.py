"""The search that CEM, iCEM and MPPI are kinds of: draw plans around a mean, weigh the best, move the mean there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError, check_choice, check_range
from jepakit.worlds.planners.search import Search
from jepakit.worlds.problem import Plan, Problem


@dataclass(frozen=True, kw_only=True)
class GaussianConfig:
    """What the three have in common.

    population: plans drawn in an iteration; elites: the best of them, which the next mean and deviation come from;
    iterations: how often. std: deviation of the first draws, and min_std: the least it may shrink to, both as parts of half
    the width of the space. momentum: part of the old mean and deviation that stays. keep: elites that compete again in the
    next iteration, at no evaluation (all, where there are fewer). execute: the last "mean", or the "best" plan seen. The mean
    is the steadier where a model has small errors for a search to find; where it breaks a constraint the best is taken.
    """

    population: int = 256
    elites: int = 32
    iterations: int = 6
    std: float = 0.5
    min_std: float = 0.01
    momentum: float = 0.0
    keep: int = 0
    execute: Literal["mean", "best"] = "mean"

    def __post_init__(self) -> None:
        for name in ("population", "elites", "iterations"):
            check_range(name, getattr(self, name), 1)
        if self.elites > self.population:
            raise UserError(f"elites are chosen from the population: at most {self.population}, got {self.elites}.")
        check_range("min_std", self.min_std, 0)
        check_range("std", self.std, self.min_std)
        if self.std == 0:
            raise UserError("std: with no deviation every draw is the mean. Give a number above 0, for example 0.5.")
        check_range("momentum", self.momentum, 0, 1)
        if self.momentum == 1:
            raise UserError("momentum: at 1 the mean never moves. Give a number below 1.")
        check_range("keep", self.keep, 0)
        check_choice("execute", self.execute, ("mean", "best"))


class GaussianSearch:
    """The loop; a kind says how it draws (`noise`, `drawn_in`) and how it weighs (`weights`)."""

    name: str

    def __init__(self, config: Any, *, seed: int = 0):
        self.config, self.seed = config, seed

    def drawn_in(self, iteration: int) -> int:
        """Plans to draw in an iteration."""
        return self.config.population

    def noise(self, search: Search, candidates: int) -> Float[Tensor, "env candidate horizon action"]:
        """Numbers of mean 0 and deviation 1."""
        return search.normal(candidates, *search.shape[1:])

    def weights(self, cost: Float[Tensor, "env elite"]) -> Float[Tensor, "env elite"]:
        """How much each elite counts; they need not add up to 1. What is infinite in cost counts nothing, the rest the same."""
        return cost.isfinite().to(cost.dtype)

    @torch.no_grad()
    def __call__(self, problem: Problem, warm: Tensor | None = None, step: int | Sequence[int] = 0) -> Plan:
        """See `Planner`. The first plan of each population is the mean itself; further warm starts join the first one."""
        c, space = self.config, problem.space
        search = Search(problem, seed=self.seed, name=self.name, step=step, warm=warm)
        half = (space.width / 2).expand(search.shape)
        mean, std, least = search.first[:, 0], c.std * half, c.min_std * half
        elites, cost = search.first[:, :0], search.cost[:, None][:, :0]
        for iteration in range(c.iterations):
            count = self.drawn_in(iteration)
            drawn = space.clip(torch.addcmul(mean[:, None], std[:, None], self.noise(search, count)))
            given = (search.first if iteration == 0 else mean[:, None])[:, :count]
            drawn[:, : given.shape[1]] = given
            pool, costs = drawn, search.evaluate(drawn)
            if c.keep:
                pool, costs = torch.cat([elites[:, : c.keep], pool], 1), torch.cat([cost[:, : c.keep], costs], 1)
            cost, at = costs.topk(min(c.elites, costs.shape[1]), dim=1, largest=False)
            elites = pool.gather(1, at[:, :, None, None].expand(-1, -1, *search.shape[1:]))
            moved_mean, moved_std = self._fit(elites, self.weights(cost), mean, std)
            mean = space.clip(c.momentum * mean + (1 - c.momentum) * moved_mean)
            std = torch.maximum(c.momentum * std + (1 - c.momentum) * moved_std, least)
            search.note()
        return search.plan(mean if c.execute == "mean" else None, elites)

    def _fit(self, elites: Tensor, weights: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean and deviation of the elites; an environment in which none counts stays where it is."""
        total = weights.sum(1, keepdim=True)
        some = (total > 0)[..., None]
        shares = (weights / total.where(total > 0, torch.ones_like(total)))[:, :, None, None]
        moved = (shares * elites).sum(1)
        spread = (shares * (elites - moved[:, None]).square()).sum(1).sqrt()
        return torch.where(some, moved, mean), torch.where(some, spread, std)
