"""Planning by gradient: the cost is differentiated through the model, and the actions follow it down.

Few evaluations where the imagined landscape is smooth; it finds the valley it starts in, so several starts are tried at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepakit.errors import UserError, check_range
from jepakit.worlds.planners.search import Search
from jepakit.worlds.problem import Plan, Problem


@dataclass(frozen=True, kw_only=True)
class GradientConfig:
    """starts: plans improved at once for each environment, the first the warm start or the middle, the others drawn uniformly;
    iterations: steps of Adam; learning_rate: of Adam, as a part of half the width of the space, falling to 0 as a cosine.
    """

    starts: int = 8
    iterations: int = 50
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        check_range("starts", self.starts, 1)
        check_range("iterations", self.iterations, 1)
        check_range("learning_rate", self.learning_rate)
        if self.learning_rate <= 0:
            raise UserError(f"learning_rate must be above 0, got {self.learning_rate}.")


class GradientPlanner:
    """Adam (Kingma and Ba, arXiv 1412.6980) on the actions, brought back into the space after each step.

    Constraints are kept by choosing among the plans passed through; no gradient leads to where they hold.
    """

    Config = GradientConfig

    def __init__(self, config: GradientConfig | None = None, *, seed: int = 0):
        self.config, self.seed = config or GradientConfig(), seed

    def __call__(self, problem: Problem, warm: Tensor | None = None, step: int | Sequence[int] = 0) -> Plan:
        """See `Planner`; an evaluation comes with its gradient, but for the last iteration's. Gradients of the model's own
        parameters are neither computed into `.grad` nor cleared.

        Errors: a cost through which no gradient flows.
        """
        # Also from within no_grad or inference_mode, where an agent acts.
        with torch.inference_mode(False), torch.enable_grad():
            return self._plan(problem, warm, step)

    def _plan(self, problem: Problem, warm: Tensor | None, step: int | Sequence[int]) -> Plan:
        c, space = self.config, problem.space
        search = Search(problem, seed=self.seed, name="gradient", step=step, warm=warm)
        actions = search.uniform(c.starts)
        given = search.first[:, : c.starts]
        actions[:, : given.shape[1]] = given
        half = (space.width / 2).clone()
        mean, square = torch.zeros_like(actions), torch.zeros_like(actions)
        for t in range(1, c.iterations + 1):
            actions = actions.detach().requires_grad_()
            cost = problem.cost(actions)
            if not cost.requires_grad:
                raise UserError(
                    "This problem's cost gives no gradient to its actions. Plan by drawing instead, for example with cem."
                )
            # A cost of +inf (a wall) or NaN has no direction; it must not spoil what the others' sum tells them.
            total = cost.where(cost.isfinite(), torch.zeros_like(cost)).sum()
            (gradient,) = torch.autograd.grad(total, actions)
            search.record(actions, cost)
            gradient = torch.nan_to_num(gradient, posinf=0.0, neginf=0.0) * half  # with actions in units of half the width
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient.square()
            rate = c.learning_rate * 0.5 * (1 + math.cos(math.pi * (t - 1) / c.iterations))
            tiny = torch.finfo(square.dtype).tiny ** 0.5  # where squares vanish; no higher, as costs may be small
            direction = (mean / (1 - 0.9**t)) / (square / (1 - 0.999**t)).sqrt().clamp(min=tiny)
            actions = space.clip(actions.detach() - rate * half * direction)
            if t == c.iterations:
                search.evaluate(actions)
            search.note()
        return search.plan()
