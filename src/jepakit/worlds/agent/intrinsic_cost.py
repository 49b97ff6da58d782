"""The intrinsic cost: a sum of hard-wired terms that no training changes (LeCun 2022, section 3.2), each of them a limit too
where wanted.

    C(s[0..T]) = sum over terms i of u_i IC_i(s)  +  v TC(s[T])

A term says what each imagined step costs. Steps are added up, but for the distance to a goal, of which a plan counts the sum,
the last or the nearest step. A hard term makes a plan on which any step costs more than its limit cost +inf, so that no planner
takes it. TC is the critic, see `critic`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError, check_choice, check_range, did_you_mean, shown
from jepakit.worlds.problem import Reach

Kind = Literal["goal", "place", "zone", "effort"]
# The options of each kind, beside kind, name, weight, hard and limit.
_OPTIONS: dict[str, set[str]] = {"goal": set(), "place": {"where"}, "zone": {"where", "margin"}, "effort": set()}


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """A term of the intrinsic cost.

    goal: squared distance to the goal's embedding, summed over its numbers (absolute in a model taught by L1).
    place: squared distance of variables of the state, as they are read, from values: where = {x: 40, y: 20}.
    zone: how deep in a box of variables of the state a step is, 0 outside: where = {x: [25, 35], y: [4, 30]}, in their units.
    effort: squared length of an action, in the environment's units; of a block the mean of its actions'.
    """

    kind: Kind = "goal"
    name: str | None = None
    """What reports call it; None: its kind."""
    weight: float = 1.0
    """Of the term in the sum; 0: it is a limit only."""
    hard: bool = False
    """No plan is taken on which a step costs more than `limit`."""
    limit: float = 0.0
    where: Any = None
    margin: float = 0.0
    """A zone is so much larger on every side, for the model's errors."""

    def __post_init__(self) -> None:
        check_choice("costs.kind", self.kind, get_args(Kind))
        check_range(f"costs.{self.title}.weight", self.weight, 0)
        check_range(f"costs.{self.title}.limit", self.limit, 0)
        check_range(f"costs.{self.title}.margin", self.margin, 0)
        if self.limit and not self.hard:
            raise UserError(f"costs.{self.title}.limit {self.limit} is that of a hard term. Set hard to true, or leave it out.")
        if not self.weight and not self.hard:
            raise UserError(f"costs.{self.title} has weight 0 and is not hard: it would do nothing. Leave it out.")
        for option in ("where", "margin"):
            if getattr(self, option) and option not in _OPTIONS[self.kind]:
                raise UserError(f"costs.{self.title}.{option} means nothing for {self.kind}. Leave it out.")
        if "where" in _OPTIONS[self.kind]:
            _check_where(self.title, self.kind, self.where)

    @property
    def title(self) -> str:
        """Its name."""
        return self.name or self.kind


def _check_where(title: str, kind: str, where: Any) -> None:
    example = "{x: [25, 35], y: [4, 30]}" if kind == "zone" else "{x: 40, y: 20}"
    if not isinstance(where, Mapping) or not where:
        raise UserError(f"costs.{title}.where names variables of the state: {example}. Got {shown(where)}.")
    for name, value in where.items():
        numbers = value if kind == "zone" else [value]
        count = 2 if kind == "zone" else 1
        real = isinstance(numbers, list | tuple) and len(numbers) == count and all(_is_number(number) for number in numbers)
        if not real or (kind == "zone" and not numbers[0] < numbers[1]):
            wanted = "[low, high], two numbers in order" if kind == "zone" else "a number"
            raise UserError(f"costs.{title}.where: {shown(str(name))} is {wanted}, got {shown(value)}. For example {example}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def squared(embeddings: Tensor, goal: Tensor) -> Tensor:
    """The squared difference of each number."""
    return (embeddings - goal).square()


@dataclass(frozen=True, eq=False)
class StateReader:
    """Variables of the true state by name, read off embeddings: by the network that `jepakit evaluate` leaves in a run."""

    names: tuple[str, ...]
    read: Callable[[Tensor], Tensor]

    def column(self, name: str) -> int:
        """Its place among the variables. Errors: no such variable, with the nearest."""
        if name not in self.names:
            raise UserError(f"where: the state has no variable {shown(name)}. {did_you_mean(name, self.names)}")
        return self.names.index(name)


@dataclass(frozen=True, eq=False)
class Imagined:
    """Rollouts to be judged, each with its goal; actions in the environment's units, `parts` of them to a step."""

    embeddings: Float[Tensor, "rows steps *tokens dim"]
    actions: Float[Tensor, "rows steps action"] | None
    goal: Float[Tensor, "rows *tokens dim"] | None
    """Of each row; None: the task has none."""
    reader: StateReader | None = None
    parts: int = 1
    apart: Callable[[Tensor, Tensor], Tensor] = squared
    """How far each number of embeddings lies from the goal's."""

    @cached_property
    def states(self) -> Float[Tensor, "rows steps variables"]:
        """What is read off the embeddings. Errors: nothing reads them."""
        if self.reader is None:
            raise UserError(
                "A cost on variables of the state needs what reads them: train on episodes that hold states, and run "
                "`jepakit evaluate RUN`."
            )
        return self.reader.read(self.embeddings.flatten(2).float())


class IntrinsicCost:
    """The weighted terms of a task; nothing in it can be trained or changed.

    reach: what a plan counts of the distances to the goal (and to a place): the "sum", the "last" or the "nearest" step's.
    """

    __slots__ = ("_frozen", "reach", "terms")

    def __init__(self, terms: tuple[CostConfig, ...], reach: Reach = "sum"):
        titles = [term.title for term in terms]
        if len(set(titles)) < len(titles):
            raise UserError(f"costs: two terms are called {next(t for t in titles if titles.count(t) > 1)!r}. Give one a name.")
        check_choice("cost", reach, get_args(Reach))
        self.terms, self.reach, self._frozen = terms, reach, True

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError("The intrinsic cost is immutable: configure another task instead.")
        object.__setattr__(self, name, value)

    @property
    def asks_goal(self) -> bool:
        """Whether a term looks at the goal."""
        return any(term.kind == "goal" for term in self.terms)

    def steps(self, term: CostConfig, imagined: Imagined) -> Float[Tensor, "rows steps"]:
        """What each step costs by one term, without its weight."""
        if term.kind == "goal":
            if imagined.goal is None:
                raise UserError(f"costs.{term.title}: there is no goal. Act where info['goal'] is one, or leave the term out.")
            return imagined.apart(imagined.embeddings.float(), imagined.goal[:, None]).flatten(2).sum(2)
        if term.kind == "effort":
            if imagined.actions is None:  # a state by itself: what led to it is not told
                return torch.zeros(imagined.embeddings.shape[:2], device=imagined.embeddings.device)
            return imagined.actions.square().sum(2) / imagined.parts
        return self._of_state(term, imagined)

    @staticmethod
    def _of_state(term: CostConfig, imagined: Imagined) -> Float[Tensor, "rows steps"]:
        states, reader = imagined.states, imagined.reader
        columns = [] if reader is None else [reader.column(str(name)) for name in term.where]
        read = states[..., columns]
        if term.kind == "place":
            return (read - read.new_tensor([float(value) for value in term.where.values()])).square().sum(2)
        low, high = read.new_tensor([list(map(float, bounds)) for bounds in term.where.values()]).T
        inner = torch.minimum(read - (low - term.margin), high + term.margin - read)
        return inner.amin(2).clamp_min(0)

    def parts(self, imagined: Imagined) -> dict[str, Float[Tensor, "rows"]]:
        """What each term adds to a plan's cost, its weight included; +inf where a hard one forbids the plan."""
        found = {}
        for term in self.terms:
            steps = self.steps(term, imagined)
            total = self._along(term, steps)
            # Not weight * total of a limit only: 0 times an infinite number is none.
            weighed = term.weight * total if term.weight else torch.zeros_like(total)
            if term.hard:
                weighed = weighed.masked_fill((steps > term.limit).any(1), math.inf)
            found[term.title] = weighed
        return found

    def _along(self, term: CostConfig, steps: Tensor) -> Float[Tensor, "rows"]:
        if term.kind in ("goal", "place") and self.reach != "sum":
            return steps[:, -1] if self.reach == "last" else steps.amin(1)
        return steps.sum(1)

    def __call__(self, imagined: Imagined) -> Float[Tensor, "rows"]:
        """What each rollout costs."""
        return torch.stack(list(self.parts(imagined).values())).sum(0)


