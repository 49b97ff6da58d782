"""Actions that are a choice among a few (Gymnasium's Discrete): how a world model is told of them, and a plan of them done."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from jepakit.errors import UserError

MOST = 1024  # different blocks


class Choices:
    """The choices of a `gymnasium.spaces.Discrete`, and all blocks of `skip` of them in a row, which a planner numbers.

    Errors: more than 1,024 different blocks.
    """

    def __init__(self, space: Any, skip: int = 1):
        self.size, self.first = int(space.n), int(space.start)
        if self.size**skip > MOST:
            raise UserError(
                f"{self.size} choices in blocks of {skip} make {self.size**skip:,} different blocks, too many to try each. "
                "Train the world model with a smaller frame_skip."
            )
        self.words = np.array(list(product(range(self.size), repeat=skip)))

    def blocks(self) -> Float[Tensor, "block numbers"]:
        """Each block as episodes hold it: one-hot codes, one after the other."""
        return torch.eye(self.size)[torch.from_numpy(self.words)].flatten(1)

    def steps(self, plan: Int[Tensor, "env horizon 1"]) -> Int[np.ndarray, "env steps"]:
        """What the environment is to be given for each block in turn."""
        return self.words[plan[..., 0].cpu().numpy()].reshape(len(plan), -1) + self.first

    def codes(self, actions: Int[np.ndarray, "env"]) -> Float[Tensor, "env numbers"]:
        """Actions of the environment as episodes hold them."""
        return torch.eye(self.size)[torch.from_numpy(actions - self.first)]


def is_choice(space: Any) -> bool:
    """Whether a space of actions is a choice among a few."""
    from gymnasium.spaces import Discrete

    return isinstance(space, Discrete)


def as_number(scores: NDArray, space: Any) -> Int[np.ndarray, "env"]:
    """The choice of the highest score of each row."""
    return scores.argmax(1).astype(np.int64) + int(space.start)
