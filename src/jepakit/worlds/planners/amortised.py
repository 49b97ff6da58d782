"""Amortised planning: a policy that was taught to plan (inverse dynamics, a distilled planner) proposes; a planner may refine.

One forward pass instead of thousands of imagined plans: on frozen LeWorldModel an inverse-dynamics model matches CEM in 7 of 8
settings at a hundredth of the cost (arXiv 2605.08732).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jepakit.errors import UserError
from jepakit.worlds.planners.search import Search
from jepakit.worlds.problem import Plan, Planner, Problem


@dataclass(frozen=True, kw_only=True)
class AmortisedConfig:
    """policy: `policy(problem) -> actions`, `[env, horizon, action]` or several proposals `[env, proposals, horizon, action]`,
    in the problem's units; refine: a planner whose warm start they are, or None: the best proposal is the plan.
    """

    policy: Callable[[Problem], Tensor]
    refine: Planner | None = None


class Amortised:
    """The cheapest proposal, the warm start among them, brought into the space; or what another planner makes of them.

    The plan never costs more than the best proposal. Seed and step are the refining planner's affair.
    """

    Config = AmortisedConfig

    def __init__(self, config: AmortisedConfig, *, seed: int = 0):
        self.config, self.seed = config, seed

    @torch.no_grad()
    def __call__(self, problem: Problem, warm: Tensor | None = None, step: int | Sequence[int] = 0) -> Plan:
        """See `Planner`. Errors: proposals of another shape or that are not finite."""
        proposals = self.config.policy(problem)
        try:
            search = Search(problem, seed=self.seed, name="amortised", step=step, warm=proposals)
        except UserError as error:
            raise UserError(f"The policy's proposal is used as a warm start. {error}") from error
        plans = search.first
        if warm is not None:
            plans = torch.cat([plans, Search(problem, seed=self.seed, name="amortised", step=step, warm=warm).first], dim=1)
        cost = search.evaluate(plans)
        search.note()
        proposed = search.plan()
        if self.config.refine is None:
            return proposed
        order = cost.argsort(dim=1, stable=True)
        ordered = plans.gather(1, order[:, :, None, None].expand_as(plans))
        refined = self.config.refine(problem, ordered, step)
        better = refined.cost <= proposed.cost
        return replace(
            refined,
            actions=torch.where(better[:, None, None], refined.actions, proposed.actions),
            cost=torch.minimum(refined.cost, proposed.cost),
            trace=torch.minimum(torch.cat([proposed.trace, refined.trace]), proposed.cost),
            feasible=refined.feasible | proposed.feasible,
            evaluations=proposed.evaluations + refined.evaluations,
            seconds=proposed.seconds + refined.seconds,
        )
