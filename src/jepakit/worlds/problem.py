"""What a planner sees of a task, and what it answers: which actions there are, what a sequence of them would cost, a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from jepakit.core.state import State
from jepakit.errors import UserError, check_range, shown
from jepakit.worlds.action_space import ActionSpace

__all__ = ["ActionSpace", "Plan", "Planner", "Problem", "TreeProblem", "shifted"]

Reach = Literal["sum", "last", "nearest"]
"""What a plan costs, of the costs of the states on its way: all together, the last one's, or the least one."""


@runtime_checkable
class Problem(Protocol):
    """What to plan, for several environments at once: environment i is row i everywhere.

    Two things more are read where a problem has them:
    `ids`, a whole number for each environment (default 0, 1, ...): the stream its draws come from, so that an environment's
    plan does not depend on which others are planned beside it;
    `feasible(actions [env, candidate, horizon, action]) -> bool [env, candidate]`, constraints that a plan must not break.
    A constraint may as well be told by a cost of +inf.
    """

    @property
    def space(self) -> ActionSpace:
        """The actions there are, on `device`."""
        ...

    @property
    def environments(self) -> int:
        """Number of environments planned for."""
        ...

    @property
    def horizon(self) -> int:
        """Actions in a plan."""
        ...

    @property
    def device(self) -> torch.device:
        """Where actions are expected and costs come from."""
        ...

    def cost(
        self, actions: Float[Tensor, "env candidate horizon action"]
    ) -> Float[Tensor, "env candidate"]:
        """What each candidate would cost; differentiable in the actions where the model is. NaN counts as worst."""
        ...


@runtime_checkable
class TreeProblem(Protocol):
    """What to plan where actions are a choice among a few: environment i is sample i of the start state.

    `ids` as in `Problem`; `key(state) -> int [n]` where a problem has it: states of the same key are one state, and only
    the cheapest way there is followed."""

    @property
    def actions(self) -> int:
        """Number of different actions, called 0, 1, ..."""
        ...

    @property
    def start(self) -> State:
        """Where each environment stands."""
        ...

    @property
    def horizon(self) -> int:
        """Actions in a plan."""
        ...

    def predict(self, state: State, action: Int[Tensor, "n"]) -> State:
        """The state after one action in each of n states."""
        ...

    def state_cost(self, state: State) -> Float[Tensor, "n"]:
        """What it costs to be in each of n states; +inf where one must not be. NaN counts as worst."""
        ...


@dataclass(frozen=True, eq=False)
class Plan:
    """What a planner found for each environment, and what that took.

    actions: to be done, in the problem's units, always inside its space; of a `TreeProblem` int64 of width 1.
    cost: of these actions, by the model; +inf where not feasible.
    trace: lowest cost of a candidate so far after each iteration. Its last row is below `cost` where a planner returns the
        middle of its candidates rather than the best of them.
    feasible: False where every candidate broke a constraint or cost +inf or NaN: the actions are then only where the search
        stood. Where it is True the plan is feasible.
    evaluations: candidates imagined for each environment. seconds: wall-clock time of the call.
    elites: the best candidates of the last iteration, best first, where a planner has such: a fuller warm start than the plan.
    """

    actions: Float[Tensor, "env horizon action"] | Int[Tensor, "env horizon action"]
    cost: Float[Tensor, "env"]
    trace: Float[Tensor, "iterations env"]
    feasible: Bool[Tensor, "env"]
    evaluations: int
    seconds: float
    elites: Float[Tensor, "env elites horizon action"] | None = None

    def check(self) -> Plan:
        """Itself. Errors: no feasible plan was found for some environment."""
        if not bool(self.feasible.all()):
            lost = (~self.feasible).nonzero()[:, 0].tolist()
            raise UserError(
                f"No feasible plan was found for environments {shown(lost)}: each of {self.evaluations} candidates broke a "
                "constraint or had an infinite cost. Give a feasible warm start, more candidates, or looser constraints."
            )
        return self


@runtime_checkable
class Planner(Protocol):
    """Finds cheap actions for every environment of a problem at once."""

    def __call__(self, problem: Any, warm: Tensor | None = None, step: int | Sequence[int] = 0) -> Plan:
        """A plan.

        Args:
            problem: a `Problem`, or for tree search a `TreeProblem`.
            warm: a plan to start from, `[env, horizon, action]`, mostly `shifted` from the last one; or several of each
                environment, `[env, plans, horizon, action]`, the first the most trusted.
            step: which of the planner's draws: the same seed, environment and step give the same plan. An agent that plans
                again counts its steps here, one count for all environments or one for each.
        """
        ...


def shifted(
    plan: Num[Tensor, "*shape horizon action"], steps: int = 1, end: str = "repeat"
) -> Num[Tensor, "*shape horizon action"]:
    """What is left of a plan (or of elites) after its first `steps` actions were done, as a warm start of the same horizon.

    end: what fills the end: "repeat" the last action, or "zero".

    Errors: `steps` is negative; another word for `end`.
    """
    check_range("steps", steps, 0)
    if end not in ("repeat", "zero"):
        raise UserError(f"end: {shown(end)} is not known. Valid: repeat, zero.")
    horizon = plan.shape[-2]
    taken = min(steps, horizon)
    filled = plan[..., -1:, :].expand(*plan.shape[:-2], taken, plan.shape[-1])
    return torch.cat([plan[..., taken:, :], filled if end == "repeat" else torch.zeros_like(filled)], dim=-2)
