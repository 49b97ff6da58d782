"""Tree search for discrete actions: every action of the best states of a level makes the next level.

Beam search. With a beam as wide as the last level but one it has tried every sequence, and what it finds is the optimum.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from jepakit.errors import UserError, check_choice, check_range, shown
from jepakit.worlds.problem import Plan, Reach, TreeProblem


@dataclass(frozen=True, kw_only=True)
class TreeSearchConfig:
    """beam: states of each environment that are followed from one level to the next; cost: of a plan, the "sum" of the costs
    of the states it passes through, that of the "last" alone, or the least, that of the "nearest" (and a level's best are those
    of the least cost by then).
    """

    beam: int = 64
    cost: Reach = "sum"

    def __post_init__(self) -> None:
        check_range("beam", self.beam, 1)
        check_choice("cost", self.cost, get_args(Reach))


class TreeSearch:
    """Deterministic: seed and step change nothing. An evaluation is one predicted state. The plan's trace has one row."""

    Config = TreeSearchConfig

    def __init__(self, config: TreeSearchConfig | None = None, *, seed: int = 0):
        self.config, self.seed = config or TreeSearchConfig(), seed

    @torch.no_grad()
    def __call__(self, problem: TreeProblem, warm: Tensor | None = None, step: int | Sequence[int] = 0) -> Plan:
        """See `Planner`. A warm start's actions (of several, the first's) are always followed, beside the beam: the plan is no
        worse than it.

        Errors: a warm start of another shape, or of actions that do not exist; costs of another shape, or all NaN.
        """
        started = time.perf_counter()
        choices, horizon, state = problem.actions, problem.horizon, problem.start
        for name, number in (("actions", choices), ("horizon", horizon)):
            check_range(name, number, 1)
        environments = state.batch
        probe = problem.state_cost(state)
        device, dtype = probe.device, probe.dtype
        followed = self._followed(warm, environments, horizon, choices, device)
        row = torch.arange(environments, device=device)[:, None]
        paths = torch.zeros(environments, 1, 0, dtype=torch.int64, device=device)
        cost = torch.zeros(environments, 1, dtype=dtype, device=device)
        numbers = torch.zeros(environments, dtype=torch.bool, device=device)
        evaluations, key = 0, getattr(problem, "key", None)
        for level in range(horizon):
            width = cost.shape[1]
            action = torch.arange(choices, device=device).expand(environments, width, -1)
            state = problem.predict(state.expand(choices), action.flatten())
            found = problem.state_cost(state)
            if found.shape != (environments * width * choices,):
                raise UserError(f"state_cost must be one number for each of {state.batch} states, got {list(found.shape)}.")
            found = found.reshape(environments, -1)
            evaluations += found.shape[1]
            numbers |= (~found.isnan()).any(1)
            # Costs are infinite from where a state on the way was not allowed, whatever comes after it.
            before = cost.repeat_interleave(choices, dim=1)
            spent = found
            if self.config.cost == "sum":
                spent = before + found
            elif self.config.cost == "nearest" and level:
                spent = torch.minimum(before, found)
            allowed = before.isfinite() & found.isfinite()
            cost = spent.where(allowed, torch.full_like(spent, math.inf))
            paths = torch.cat([paths.repeat_interleave(choices, dim=1), action.reshape(environments, -1, 1)], dim=2)
            rank = cost if key is None else self._doubles_last(cost, key(state).reshape(environments, -1))
            if followed is not None:
                on_way = (paths == followed[:, None, : level + 1]).all(-1)
                rank = rank.masked_fill(on_way, -math.inf)
            chosen = rank.topk(min(self.config.beam + (followed is not None), rank.shape[1]), largest=False).indices
            cost, paths = cost.gather(1, chosen), paths[row, chosen]
            state = state.index((row * rank.shape[1] + chosen).flatten())
        least, at = cost.min(1)
        if not bool(numbers.all()):
            broken = (~numbers).nonzero()[:, 0].tolist()
            raise UserError(f"Every cost of environments {shown(broken)} was NaN, there is nothing to choose by.")
        actions = paths[row[:, 0], at][..., None]
        return Plan(actions, least, least[None], least.isfinite(), evaluations, time.perf_counter() - started)

    @staticmethod
    def _doubles_last(cost: Tensor, key: Tensor) -> Tensor:
        """Of states with one key the cheapest keeps its cost; the others' becomes infinite."""
        by_cost = cost.argsort(dim=1, stable=True)
        by_key = key.gather(1, by_cost).argsort(dim=1, stable=True)
        order = by_cost.gather(1, by_key)
        ordered = key.gather(1, order)
        double = torch.zeros_like(ordered, dtype=torch.bool)
        double[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        return cost.masked_fill(torch.zeros_like(double).scatter(1, order, double), math.inf)

    @staticmethod
    def _followed(
        warm: Tensor | None, environments: int, horizon: int, choices: int, device: torch.device
    ) -> Tensor | None:
        if warm is None:
            return None
        warm = warm[:, 0] if warm.dim() == 4 else warm
        if warm.shape != (environments, horizon, 1):
            raise UserError(f"A warm start is [env, horizon, 1] = {[environments, horizon, 1]}, got {list(warm.shape)}.")
        if not bool(((warm >= 0) & (warm < choices) & (warm == warm.round())).all()):
            raise UserError(f"Actions are numbered from 0 to {choices - 1}; the warm start holds others.")
        return warm[..., 0].to(device=device, dtype=torch.int64)
