"""What all planners share: the streams draws come from, the best candidate so far, the trace, and what does not count."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError, check_range, shown
from jepakit.randomness import derive_seed
from jepakit.worlds.problem import Plan, Problem


def streams(
    problem: Any, environments: int, device: torch.device, seed: int, name: str, step: int | Sequence[int]
) -> list[torch.Generator]:
    """A generator for each environment, a function of (seed, planner, environment's id, step) and of nothing beside it."""
    ids = getattr(problem, "ids", None)
    ids = list(range(environments)) if ids is None else [int(i) for i in ids]
    steps = [step] * environments if isinstance(step, int) else [int(s) for s in step]
    for what, given in (("ids", ids), ("step", steps)):
        if len(given) != environments:
            raise UserError(f"{what}: one for each of {environments} environments, got {len(given)}.")
    return [
        torch.Generator(device).manual_seed(derive_seed(seed, name, i, s)) for i, s in zip(ids, steps, strict=True)
    ]


class Search:
    """One call of a planner: evaluates candidates and remembers the best of each environment.

    A candidate counts when its cost is a finite number and it breaks no constraint; one that does not is given the cost +inf,
    whatever the model says, and is never the best.

    Errors: a problem without environments or horizon; a warm start of another shape or that is not finite.
    """

    def __init__(
        self, problem: Problem, *, seed: int, name: str, step: int | Sequence[int] = 0, warm: Tensor | None = None
    ):
        self.started = time.perf_counter()
        check_range("environments", problem.environments, 1)
        check_range("horizon", problem.horizon, 1)
        self.problem, self.space = problem, problem.space
        self.shape = (problem.environments, problem.horizon, self.space.size)
        self.dtype = self.space.low.dtype
        self.generators = streams(problem, problem.environments, problem.device, seed, name, step)
        self.feasible = getattr(problem, "feasible", None)
        self.first = self._first(warm)
        self.best = self.first[:, 0].clone()
        self.cost = torch.full(self.shape[:1], math.inf, device=problem.device, dtype=self.dtype)
        self.numbers = torch.zeros(self.shape[:1], device=problem.device, dtype=torch.bool)
        self.trace: list[Tensor] = []
        self.evaluations = 0

    def _first(self, warm: Tensor | None) -> Float[Tensor, "env plans horizon action"]:
        """The plans to start from, the first the most trusted; without any, the middle of the space."""
        environments, horizon, width = self.shape
        if warm is None:
            return self.space.centre.expand(environments, 1, horizon, width)
        plans = warm[:, None] if warm.ndim == 3 else warm
        if plans.ndim != 4 or (plans.shape[0], *plans.shape[2:]) != self.shape or not plans.shape[1]:
            raise UserError(
                f"A warm start is [env, horizon, action] = {list(self.shape)} (or several of each environment, [env, plans, "
                f"horizon, action]), got {list(warm.shape)}."
            )
        if not bool(warm.isfinite().all()):
            raise UserError("A warm start must be finite, this one holds NaN or infinite numbers.")
        return self.space.clip(plans.detach().to(device=self.problem.device, dtype=self.dtype))

    def normal(self, *shape: int) -> Float[Tensor, "env ..."]:
        """Standard normal numbers, each environment's from its own stream."""
        drawn = torch.empty(self.shape[0], *shape, device=self.problem.device, dtype=self.dtype)
        for row, generator in zip(drawn, self.generators, strict=True):
            row.normal_(generator=generator)
        return drawn

    def uniform(self, candidates: int) -> Float[Tensor, "env candidate horizon action"]:
        """Actions drawn uniformly from the space."""
        return torch.stack([self.space.uniform(g, candidates, self.shape[1]) for g in self.generators])

    def evaluate(self, actions: Float[Tensor, "env candidate horizon action"]) -> Float[Tensor, "env candidate"]:
        """The candidates' costs, +inf for those that do not count."""
        with torch.no_grad():
            return self.record(actions, self.problem.cost(actions))

    @torch.no_grad()
    def record(self, actions: Float[Tensor, "env candidate horizon action"], cost: Tensor) -> Float[Tensor, "env candidate"]:
        """Take note of costs already known; gives them back as `evaluate` does."""
        if cost.shape != actions.shape[:2]:
            raise UserError(f"The problem's cost must be [env, candidate] = {list(actions.shape[:2])}, got {list(cost.shape)}.")
        cost = cost.detach().to(self.dtype)
        self.evaluations += actions.shape[1]
        self.numbers |= (~cost.isnan()).any(1)
        counts = cost.isfinite()
        if self.feasible is not None:
            counts = counts & self.feasible(actions)
        cost = cost.where(counts, torch.full_like(cost, math.inf))
        least, at = cost.min(1)
        chosen = actions[torch.arange(len(actions), device=actions.device), at]
        self.best = torch.where((least < self.cost)[:, None, None], chosen.detach(), self.best)
        self.cost = torch.minimum(self.cost, least)
        return cost

    def note(self) -> None:
        """An iteration is over."""
        self.trace.append(self.cost)

    def plan(
        self, actions: Float[Tensor, "env horizon action"] | None = None, elites: Tensor | None = None
    ) -> Plan:
        """The end of the search: the best candidate, or these actions where they count.

        Errors: every cost of an environment was NaN.
        """
        chosen, cost = self.best, self.cost
        if actions is not None:
            actions = self.space.clip(actions)
            given = self.evaluate(actions[:, None])[:, 0]
            counts = given.isfinite()
            chosen = torch.where(counts[:, None, None], actions, self.best)
            cost = given.where(counts, self.cost)
        if not bool(self.numbers.all()):  # waits for the device, so that the time below is the search's
            broken = (~self.numbers).nonzero()[:, 0].tolist()
            raise UserError(
                f"Every cost of environments {shown(broken)} was NaN, there is nothing to choose by. Look for NaN or infinite "
                "numbers in the start state, the goal and the scale of the actions."
            )
        trace = torch.stack([*self.trace[:-1], self.cost])
        seconds = time.perf_counter() - self.started
        return Plan(chosen, cost, trace, self.cost.isfinite(), self.evaluations, seconds, elites)
