"""What a world model's stream remembers: embeddings of the newest observations, and what was done between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.state import State, tensors_of
from jepakit.errors import UserError, check_range
from jepakit.modalities.modality import WorldInputs
from jepakit.streaming.memory import Kind, device_of


@runtime_checkable
class KeepsAll(Protocol):
    """A predictor whose state holds all observations, and takes up one more without reading the others again."""

    def go_on(self, state: Any, action: Tensor, observed: Tensor) -> Any:
        """The state after one more action and what was then observed."""
        ...


class World:
    """The state of a world model after each observation: what `model.observe` says of the last `window` of them.

    An observation is encoded once. What the predictor then makes of a window depends on its kind: one that keeps the newest
    embedding, or the newest few, works nothing out; one that keeps keys and values goes on from them until the window is full,
    and then, as the window slides and its first step is forgotten by all others, reads the embeddings in it anew.

    window: None: all that the predictor looks back on, or where that has no end the most observations that predictions
    stood on in training.

    Errors: a model in training mode or without `inputs`; a window that its predictor cannot have.
    """

    every = 1

    def __init__(self, model: Dynamics, window: int | None):
        self.model = model
        self.inputs: Any = getattr(model, "inputs", None)
        if self.inputs is None:
            raise UserError("This world model does not say what it expects (inputs). Stream its run instead, by its path.")
        if not isinstance(self.inputs, WorldInputs):
            raise UserError(
                f"A world model's stream takes single observations and what was done between them, which a "
                f"{type(self.inputs).__name__} does not prepare (modalities.modality.WorldInputs). For embeddings of whole samples "
                "stream jepakit.load(run)."
            )
        if model.training:
            raise UserError("This world model is in training mode. Call eval() on it before streaming.")
        predictor: Any = model.predictor
        self.embeds = type(model).observe is Dynamics.observe and isinstance(model.encoder, ObservationEncoder)
        self.keeps_keys = self.embeds and isinstance(predictor, KeepsAll)
        looks_back = getattr(predictor, "looks_back", None)  # None: all that it is given, or nobody knows
        taught = looks_back or self.inputs.history + self.inputs.horizon - 1
        self.window = taught if window is None else window
        check_range("window", self.window, 1, looks_back)
        # Of a single observation nothing is there to be worked out again.
        self.anew = self.window > 1 and not (self.embeds and looks_back is not None)
        self.reset()

    @property
    def kind(self) -> Kind:
        return "window" if self.anew and not (self.keeps_keys and self.count <= self.window) else "incremental"

    @property
    def about(self) -> str:
        if not self.anew:
            newest = "newest" if self.window == 1 else f"last {self.window}"
            return f"each observation is encoded once, the state is of the {newest}"
        if not self.embeds:
            return f"the last {self.window} observations are read anew for each state"
        full = f"the predictor reads the embeddings of the last {self.window} anew for each state"
        if self.kind == "incremental":
            full = f"keys and values are kept of up to {self.window}, then {full}"
        return f"each observation is encoded once, {full}"

    def reset(self) -> None:
        self.seen: deque[Tensor] = deque(maxlen=self.window)  # [1, 1, ...], embeddings (or observations), newest last
        self.done: deque[Tensor] = deque(maxlen=self.window)  # [1, action], the last of each observation seen: what led to it
        self.count = 0
        self.past: Any = None  # of a predictor that keeps keys and values, while the window fills

    def add(self, given: Any, action: Any = None) -> None:
        if (action is None) != (self.count == 0):
            raise UserError(
                "push(observation, action): nothing was done before the first observation. Leave the action out of this one."
                if action is not None
                else "push(observation, action): what was done between the last observation and this one is missing. Give it; "
                "before another episode's first call reset(); for embeddings without actions stream jepakit.load(run)."
            )
        frame, before = self._frame(given), None if action is None else self._action(action)
        found = self.model.encoder(frame).values if self.embeds else frame
        self.count += 1
        if self.keeps_keys:
            self._extend(found, before)
        self.seen.append(found)
        self.done.append(self._nothing()[:, 0] if before is None else before)

    def _extend(self, found: Tensor, before: Tensor | None) -> None:
        """One more observation after those of which keys and values are kept: what `advance` predicted is what was seen."""
        predictor: Any = self.model.predictor
        if before is None:
            self.past = predictor.begin(found, self._nothing()[:, :0])
        elif self.count <= self.window:
            self.past = predictor.go_on(self.past, before, found[:, 0])
        else:
            self.past = None

    def state(self) -> State | None:
        if not self.seen:
            return None
        if self.past is not None:
            return State(self.past)
        seen = torch.cat(list(self.seen), dim=1)
        between = torch.stack(list(self.done), dim=1)[:, 1:]
        if self.embeds:
            return State(self.model.predictor.begin(seen, between))
        return self.model.observe({"inputs": seen, "actions": between})

    def offline(self, given: Sequence[Any], actions: Sequence[Any]) -> State:
        seen = [self._frame(frame) for frame in given[-self.window :]]
        between = [self._action(action) for action in actions[len(given) - len(seen) :]]
        stacked = torch.stack(between, dim=1) if between else self._nothing()[:, :0]
        return self.model.observe({"inputs": torch.cat(seen, dim=1), "actions": stacked})

    def _frame(self, given: Any) -> Tensor:
        """`[1, 1, *shape]`, normalised."""
        return self.inputs.normalise(self.inputs.observation(given))[None, None].to(device_of(self.model))

    def _action(self, given: Any) -> Tensor:
        """`[1, block]`, normalised."""
        return self.inputs.normalise_actions(self.inputs.action_block(given))[None].to(device_of(self.model))

    def _nothing(self) -> Tensor:
        return torch.zeros(1, 1, self.inputs.action, device=device_of(self.model))

    def kept(self) -> list[Tensor]:
        return [*self.seen, *self.done, *([] if self.past is None else tensors_of(self.past))]
