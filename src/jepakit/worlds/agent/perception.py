"""Perception: what an agent saw and did, as the state that its world model starts from (LeCun 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State, map_tree
from jepakit.errors import UserError, check_range, shown
from jepakit.modalities.modality import WorldInputs


class Perception:
    """Keeps the newest observations of several environments, a step of the model apart, and the blocks of actions between.

    In every step of the environments `see` comes first, then, once it is decided, `did`.

    Args:
        model: a world model in eval mode.
        inputs: what it expects.
        frame_skip: steps of the environment to one of the model.
        observations: newest ones that a state is made of; None: as many as the model's history.
        attend: the part of an observation that counts, the others are taken for the mean of the data's: numbers of the entries
            of a vector, or (top, left, bottom, right) of a picture in pixels. None: all of it.
    """

    def __init__(
        self,
        model: Dynamics,
        inputs: WorldInputs,
        frame_skip: int = 1,
        observations: int | None = None,
        attend: Sequence[int] | None = None,
    ):
        if observations is not None:
            check_range("observations", observations, 1, inputs.history)
        self.model, self.inputs, self.frame_skip = model, inputs, frame_skip
        self.observations = observations or inputs.history
        self.device = next(model.parameters()).device
        self.attended = None if attend is None else _attended(inputs.shape, attend)
        self.begin(0)

    def begin(self, environments: int) -> None:
        """New episodes begin, in so many environments."""
        self.environments, self.clock = environments, 0
        self.seen: list[Tensor] = []  # normalised, newest last
        self.done: list[Tensor] = []  # blocks between them, in the model's units
        self.block: list[Tensor] = []  # actions since the newest observation

    def continue_from(self, other: Perception) -> None:
        """The same episodes, seen so far by another perception (of another part of the observations, say)."""
        self.environments, self.clock = other.environments, other.clock
        self.seen, self.done, self.block = list(other.seen), list(other.done), list(other.block)

    @property
    def awaits(self) -> bool:
        """Whether the observation that comes is one that the model sees."""
        return self.clock % self.frame_skip == 0

    def see(self, observations: Sequence[NDArray]) -> None:
        """The observations of all environments at this step. Errors: another shape than the model's; NaN or infinite."""
        if self.awaits:
            self.seen = [*self.seen, self.prepared(observations)][-self.inputs.history :]

    def did(self, codes: Float[Tensor, "env numbers"]) -> None:
        """What was done at this step, as episodes hold it."""
        self.block.append(codes)
        self.clock += 1
        if len(self.block) == self.frame_skip:
            block = self.inputs.normalise_actions(torch.cat(self.block, 1)).to(self.device)
            self.done, self.block = [*self.done, block][-self.inputs.history :], []

    def state(self) -> State:
        """What the model makes of the newest observations."""
        seen = self.seen[-self.observations :]
        between = self.done[-(len(seen) - 1) :] if len(seen) > 1 else []
        actions = torch.stack(between, 1) if between else torch.zeros(self.environments, 0, self.inputs.action)
        return self._observe(torch.stack(seen, 1), actions)

    def embed(self, observations: Sequence[NDArray], what: str = "goals") -> Float[Tensor, "env *tokens dim"]:
        """Embeddings of single observations: of goals."""
        return self._alone(self.prepared(observations, what))

    def newest(self) -> Float[Tensor, "env *tokens dim"]:
        """Embeddings of the newest observations by themselves."""
        return self._alone(self.seen[-1])

    def _alone(self, given: Tensor) -> Float[Tensor, "env *tokens dim"]:
        return self.model.embedding(self._observe(given[:, None], torch.zeros(len(given), 0, self.inputs.action)))

    def prepared(self, observations: Sequence[NDArray], what: str = "observations") -> Float[Tensor, "env *shape"]:
        """Observations as the model takes them, what is not attended to at the mean."""
        stacked = torch.from_numpy(np.stack(observations))
        if tuple(stacked.shape[1:]) != self.inputs.shape:
            raise UserError(
                f"The model was trained on observations of shape {list(self.inputs.shape)}, the environment gives {what} of "
                f"{list(stacked.shape[1:])}. Act in the environment it was trained for, or resize what it gives "
                "(gymnasium.wrappers.ResizeObservation; a goal is an observation and must be resized too)."
            )
        if not bool(stacked.isfinite().all()):
            raise UserError(
                f"The environment gives {what} with NaN or infinite numbers: {shown(stacked[~stacked.isfinite()].tolist())}. "
                "Mend the environment, or end the episode before it breaks down."
            )
        normal = self.inputs.normalise(stacked).to(self.device)
        return normal if self.attended is None else normal * self.attended.to(normal)

    def _observe(self, observations: Tensor, actions: Tensor) -> State:
        """In float32 whatever the precision: what is imagined from it later, for the report, is so in another one."""
        state = self.model.observe({"inputs": observations, "actions": actions.to(self.device)})
        return State(map_tree(lambda tensor: tensor.float() if tensor.dtype == torch.bfloat16 else tensor, state.tree))


def _attended(shape: tuple[int, ...], attend: Sequence[int]) -> Float[Tensor, "*shape"]:
    """1 where an observation counts. Normalised, 0 is the mean."""
    mask = torch.zeros(shape)
    if len(shape) == 1:
        if not attend or not all(0 <= number < shape[0] for number in attend):
            raise UserError(f"attend: numbers of the {shape[0]} entries of an observation, from 0; got {shown(list(attend))}.")
        mask[list(attend)] = 1
        return mask
    height, width = shape[1:]
    if len(attend) != 4 or not (0 <= attend[0] < attend[2] <= height and 0 <= attend[1] < attend[3] <= width):
        raise UserError(
            f"attend: top, left, bottom, right of a part of a picture of {height} x {width} pixels; got {shown(list(attend))}."
        )
    top, left, bottom, right = attend
    mask[:, top:bottom, left:right] = 1
    return mask
