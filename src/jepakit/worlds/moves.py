"""An environment's actions as a planner searches them and a world model is told of them: numbers within bounds, or a choice
among a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.modalities.modality import WorldInputs
from jepakit.worlds.choices import Choices, is_choice
from jepakit.worlds.latent_problem import LatentProblem, LatentTreeProblem, Objective
from jepakit.worlds.problem import ActionSpace, Reach
from jepakit.worlds.risk import Risk


@runtime_checkable
class Moves(Protocol):
    """What both kinds of actions answer."""

    @property
    def size(self) -> int:
        """Numbers that one action of the environment is to the model."""
        ...

    @property
    def latents(self) -> Float[Tensor, "samples z"] | None:
        """The z's that plans are imagined under; None: one future."""
        ...

    def problem(
        self, start: State, goal: Tensor, horizon: int, ids: Sequence[int], objective: Objective | None = None,
        belief: Tensor | None = None,
    ) -> LatentProblem | LatentTreeProblem:  # fmt: skip
        """What a planner is to solve. horizon: in steps of the model; objective, belief (in each of `latents`): see
        `LatentProblem`."""
        ...

    def steps(self, plan: Tensor) -> NDArray:
        """The actions of the environment in a plan `[env, steps of the model, numbers]`, `[env, steps, ...]`."""
        ...

    def codes(self, actions: NDArray) -> Float[Tensor, "env numbers"]:
        """Actions that were done, as episodes hold them."""
        ...

    def nearest(self, blocks: Float[Tensor, "env block"]) -> NDArray:
        """The actions of the environment that come nearest to what is asked for, a block of each environment as episodes hold
        them: `[env, frame_skip, ...]`."""
        ...

    def resting(self, environments: int) -> NDArray:
        """What comes nearest to doing nothing: the action of smallest numbers; of choices the first. `[env, ...]`."""
        ...


class Continuous:
    """Numbers within the environment's bounds, or within the part of them that was recorded.

    deviations: how far from the mean of the recorded actions, in their deviations; None: the bounds alone.
    cost, chunk: see `LatentProblem`. risk, futures: see `PlanningConfig`.

    Errors: a risk of a model that has no latent, and one future.
    """

    def __init__(
        self, model: Dynamics, inputs: WorldInputs, space: ActionSpace, skip: int, *,
        cost: Reach, deviations: float | None, chunk: int | None, risk: Risk | None = None, futures: int = 16,
    ):  # fmt: skip
        self.latents = model.futures(futures)
        if risk is not None and self.latents is None:
            raise UserError(
                f"risk: {risk} is asked for of a model that knows of one future. Leave it out, or train with a latent variable "
                "(pretrain pldm --latent discrete)."
            )
        self.risk: Risk = "mean" if risk is None else risk
        self.model, self.skip, self.cost, self.chunk, self.size = model, skip, cost, chunk, space.size
        single = inputs.action // skip
        mean, std = torch.tensor(inputs.action_mean[:single]), torch.tensor(inputs.action_std[:single])
        if deviations is not None and space.size == single:
            reach = deviations * std
            space = ActionSpace(torch.maximum(space.low, mean - reach), torch.minimum(space.high, mean + reach), space.most)
        self.space, self.scale = space, (mean, std)

    def problem(
        self, start: State, goal: Tensor, horizon: int, ids: Sequence[int], objective: Objective | None = None,
        belief: Tensor | None = None,
    ) -> LatentProblem:  # fmt: skip
        """See `Moves`."""
        return LatentProblem(
            self.model, start, goal, self.space, horizon, scale=self.scale, skip=self.skip, cost=self.cost, chunk=self.chunk,
            latents=self.latents, risk=self.risk, belief=belief, ids=ids, objective=objective,
        )  # fmt: skip

    def steps(self, plan: Tensor) -> NDArray[np.float32]:
        """See `Moves`."""
        return self.space.block(self.skip).steps(plan).cpu().numpy().astype(np.float32)

    def codes(self, actions: NDArray) -> Tensor:
        """See `Moves`."""
        return torch.from_numpy(actions)

    def nearest(self, blocks: Tensor) -> NDArray[np.float32]:
        """See `Moves`."""
        return self.steps(self.space.block(self.skip).clip(blocks.to(self.space.low))[:, None])

    def resting(self, environments: int) -> NDArray[np.float32]:
        """See `Moves`."""
        rest = self.space.clip(torch.zeros_like(self.space.low))
        return rest.expand(environments, -1).cpu().numpy().astype(np.float32)


class Chosen(Choices):
    """Blocks of choices, searched as a tree."""

    def __init__(self, model: Dynamics, inputs: WorldInputs, space: Any, skip: int, *, chunk: int | None):
        super().__init__(space, skip)
        self.model, self.inputs, self.chunk = model, inputs, chunk
        self.latents = None  # tree search knows of one future

    def problem(
        self, start: State, goal: Tensor, horizon: int, ids: Sequence[int], objective: Objective | None = None,
        belief: Tensor | None = None,
    ) -> LatentTreeProblem:  # fmt: skip
        """See `Moves`."""
        blocks = self.inputs.normalise_actions(self.blocks())
        return LatentTreeProblem(self.model, start, goal, blocks, horizon, chunk=self.chunk, ids=ids, objective=objective)

    def nearest(self, blocks: Tensor) -> NDArray[np.int64]:
        """See `Moves`."""
        return self.steps((blocks @ self.blocks().T).argmax(1)[:, None, None])

    def resting(self, environments: int) -> NDArray[np.int64]:
        """See `Moves`."""
        return np.full(environments, self.first, dtype=np.int64)


def moves(
    model: Dynamics, inputs: WorldInputs, space: Any, skip: int, *,
    cost: Reach, deviations: float | None, chunk: int | None, risk: Risk | None = None, futures: int = 16,
) -> Moves:  # fmt: skip
    """Those of an environment's `action_space`, or of an `ActionSpace`.

    Errors: actions of other sizes than the model was trained on.
    """
    if is_choice(space):
        if risk is not None:
            raise UserError(f"risk: {risk}, but actions are a choice here, and tree search knows of one future. Leave it out.")
        made: Moves = Chosen(model, inputs, space, skip, chunk=chunk)
    else:
        bounds = space if isinstance(space, ActionSpace) else ActionSpace.of(space)
        made = Continuous(
            model, inputs, bounds, skip, cost=cost, deviations=deviations, chunk=chunk, risk=risk, futures=futures
        )
    if made.size * skip != inputs.action:
        raise UserError(
            f"The model was trained on blocks of {skip} actions, {inputs.action} numbers together; the environment's actions "
            f"have {made.size} each. Act in the environment it was trained for."
        )
    return made
