"""What a planner sees of a task: which actions there are, and what a sequence of them would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jepakit.core.state import State
from jepakit.errors import UserError, check_range, shown


@dataclass(frozen=True, eq=False)
class ActionSpace:
    """The continuous actions an environment takes, in its own raw units: a box, and where wanted a ball around 0 in it.

    low, high: bounds of each number of an action, `[action]`.
    most: largest Euclidean norm of an environment action; None: only the box bounds it.
    parts: environment actions in a row that make up one action (a block, see `block`); the norm of each is bounded.

    Errors: bounds that are not finite, not in order or of different lengths; a largest norm that is not positive, or one
    with a box that does not hold 0 (shrinking an action towards 0 would leave such a box).
    """

    low: Float[Tensor, "_"]
    high: Float[Tensor, "_"]
    most: float | None = None
    parts: int = 1

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if low.shape != high.shape or not len(low):
            raise UserError(f"An action has as many lower as upper bounds, at least one; got {len(low)} and {len(high)}.")
        for name, bound in (("low", low), ("high", high)):
            if not bool(bound.isfinite().all()):
                raise UserError(
                    f"{name}: bounds of actions must be finite, got {shown(bound.tolist())}. Planners draw between the "
                    "bounds: give ActionSpace(low, high) the range of useful actions, for example the data's."
                )
        if not bool((low < high).all()):
            raise UserError(
                f"Each lower bound must be below its upper bound, got low {shown(low.tolist())} and high "
                f"{shown(high.tolist())}. Leave out a number that cannot change."
            )
        check_range("parts", self.parts, 1)
        if len(low) % self.parts:
            raise UserError(f"{len(low)} numbers are no whole number of actions for {self.parts} parts.")
        if self.most is not None:
            check_range("most", self.most)
            if self.most <= 0:
                raise UserError(f"most: the largest norm of an action must be above 0, got {self.most}. None: no such bound.")
            if not bool(((low <= 0) & (high >= 0)).all()):
                raise UserError(
                    f"most: a bound of the norm needs bounds low <= 0 <= high, got low {shown(low.tolist())} and high "
                    f"{shown(high.tolist())}. Shift the actions, or leave `most` out."
                )

    @classmethod
    def of(cls, box: Any, most: float | None = None) -> ActionSpace:
        """The space of a `gymnasium.spaces.Box` (an action of several axes is flattened), in float32.

        Errors: another kind of space; bounds that are infinite.
        """
        if not hasattr(box, "low") or not hasattr(box, "high"):
            raise UserError(
                f"Continuous planners need a Box of actions, got {shown(box)}. For discrete actions plan by tree search."
            )
        low, high = (torch.as_tensor(bound, dtype=torch.float32).flatten() for bound in (box.low, box.high))
        return cls(low, high, most)

    @property
    def size(self) -> int:
        """Numbers in an action."""
        return len(self.low)

    @property
    def width(self) -> Float[Tensor, "action"]:
        """How far each number can move: between its bounds, and no further than the largest norm either way."""
        width = self.high - self.low
        return width if self.most is None else width.clamp(max=2 * self.most)

    @property
    def centre(self) -> Float[Tensor, "action"]:
        """The middle of the bounds: where a search starts that knows nothing better."""
        return self.clip((self.low + self.high) / 2)

    def clip(self, actions: Float[Tensor, "*shape action"]) -> Float[Tensor, "*shape action"]:
        """The actions, always inside: each number moved to its nearest bound, then a norm too large scaled down."""
        actions = torch.maximum(torch.minimum(actions, self.high), self.low)
        if self.most is None:
            return actions
        split = actions.unflatten(-1, (self.parts, -1))
        norm = split.norm(dim=-1, keepdim=True)
        # A little below, so that rounding does not carry the norm over the bound again.
        scale = self.most * (1 - 8 * torch.finfo(actions.dtype).eps) / norm.clamp(min=torch.finfo(actions.dtype).tiny)
        return (split * scale.clamp(max=1)).flatten(-2)

    def inside(self, actions: Float[Tensor, "*shape action"]) -> Bool[Tensor, "*shape"]:
        """Whether each action keeps to the bounds."""
        held = ((actions >= self.low) & (actions <= self.high)).all(-1)
        if self.most is not None:
            held &= (actions.unflatten(-1, (self.parts, -1)).norm(dim=-1) <= self.most).all(-1)
        return held

    def uniform(self, generator: torch.Generator, *shape: int) -> Float[Tensor, "..."]:
        """Actions drawn uniformly from the space, `[*shape, action]`.

        With a largest norm, draws outside are drawn anew; the few left after 16 rounds (in a ball of many dimensions nearly
        all: there the law is only roughly uniform) are scaled to a length drawn for them.
        """
        low, high = self.low, self.high
        if self.most is not None:
            low, high = low.clamp(min=-self.most), high.clamp(max=self.most)

        def draw() -> Tensor:
            unit = torch.rand(*shape, self.size, generator=generator, device=low.device, dtype=low.dtype)
            return (low + unit * (high - low)).unflatten(-1, (self.parts, -1))

        actions = draw()
        if self.most is None:
            return self.clip(actions.flatten(-2))
        for _ in range(16):
            norm = actions.norm(dim=-1, keepdim=True)
            if bool((norm <= self.most).all()):
                break
            actions = torch.where(norm <= self.most, actions, draw())
        norm = actions.norm(dim=-1, keepdim=True)
        unit = torch.rand(norm.shape, generator=generator, device=low.device, dtype=low.dtype)
        length = self.most * unit.pow(self.parts / self.size)
        return self.clip(torch.where(norm <= self.most, actions, actions / norm.clamp(min=self.most) * length).flatten(-2))

    def block(self, steps: int) -> ActionSpace:
        """The space of `steps` actions in a row as one action: what a model with a frame skip takes at each step."""
        check_range("steps", steps, 1)
        return ActionSpace(self.low.repeat(steps), self.high.repeat(steps), self.most, self.parts * steps)

    def steps(self, actions: Float[Tensor, "*shape horizon action"]) -> Float[Tensor, "*shape steps part"]:
        """Blocks taken apart into the environment's own actions, in the order in which they are done."""
        return actions.unflatten(-1, (self.parts, -1)).flatten(-3, -2)

    def to(self, device: torch.device | str) -> ActionSpace:
        """On another device."""
        return ActionSpace(self.low.to(device), self.high.to(device), self.most, self.parts)


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
    plan: Float[Tensor, "*shape horizon action"], steps: int = 1, end: str = "repeat"
) -> Float[Tensor, "*shape horizon action"]:
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
