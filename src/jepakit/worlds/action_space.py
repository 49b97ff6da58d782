"""The actions an environment takes: how large each number may be, and how long the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jepakit.errors import UserError, check_range, shown


def _norm(actions: Tensor) -> Tensor:
    """Of each action, number by number: five times faster than a reduction over an axis of two or three."""
    first, *others = actions.unbind(-1)
    square = first.square()
    for other in others:
        square = torch.addcmul(square, other, other)
    return square.sqrt()


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

    @cached_property
    def _alike(self) -> tuple[float, float] | None:
        """The bounds as two numbers, where each number of an action has the same: clipping is several times faster so."""
        alike = bool((self.low == self.low[0]).all()) and bool((self.high == self.high[0]).all())
        return (float(self.low[0]), float(self.high[0])) if alike else None

    def clip(self, actions: Float[Tensor, "*shape action"]) -> Float[Tensor, "*shape action"]:
        """The actions, always inside: each number moved to its nearest bound, then a norm too large scaled down."""
        actions = torch.clamp(actions, self.low, self.high) if self._alike is None else actions.clamp(*self._alike)
        if self.most is None:
            return actions
        split = actions.unflatten(-1, (self.parts, -1))
        norm = _norm(split)[..., None]
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

        Where box and ball cut each other, draws from the box outside the ball are drawn anew; the few left after 8 rounds (in
        many dimensions nearly all: there the law is only roughly uniform) are scaled to a length drawn for them.
        """
        low, high, width = self.low, self.high, self.size // self.parts

        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=low.device, dtype=low.dtype)

        if self.most is None:
            return self.clip(low + draw(*shape, self.size) * (high - low))
        count = math.prod(shape) * self.parts
        lengths = self.most * draw(count, 1).pow(1 / width)
        if bool((low <= -self.most).all() and (high >= self.most).all()):
            actions = torch.randn(count, width, generator=generator, device=low.device, dtype=low.dtype)
            actions = actions / _norm(actions)[:, None].clamp(min=torch.finfo(low.dtype).tiny) * lengths
        else:
            low, high = low[:width].clamp(min=-self.most), high[:width].clamp(max=self.most)
            actions = low + draw(count, width) * (high - low)
            for _ in range(8):
                outside = (_norm(actions) > self.most).nonzero()[:, 0]
                if not len(outside):
                    break
                actions[outside] = low + draw(len(outside), width) * (high - low)
            norm = _norm(actions)[:, None]
            actions = torch.where(norm <= self.most, actions, actions / norm * lengths)
        return self.clip(actions.reshape(*shape, self.size))

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
