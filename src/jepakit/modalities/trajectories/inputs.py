"""What a trained world model expects of a window of observations and actions, and the modality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from jepakit.errors import UserError
from jepakit.modalities.modality import Inputs, Modality, check_scale
from jepakit.modalities.pixels import unit
from jepakit.modalities.steps import as_tensor, finite
from jepakit.modalities.trajectories.data import TrajectoryData, TrajectoryDataConfig, open_trajectories
from jepakit.modalities.trajectories.episodes import holds_trajectories
from jepakit.modalities.trajectories.statistics import scales


@dataclass(frozen=True, kw_only=True)
class TrajectoryInputs(Inputs):
    """What a trained world model expects: the shape of an observation (`[dim]` or `[channels, height, width]`), mean and
    deviation of its numbers (of each dim, or of each channel with pixels in [0, 1]), those of the numbers of an action
    block, and how many observations a window has: `history` to predict from, `horizon` after them."""

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    history: int
    horizon: int

    modality: ClassVar[str] = "trajectories"
    plain_name: ClassVar[str] = "last observation"

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 3) or len(self.mean) != self.shape[0] or len(self.std) != self.shape[0]:
            raise UserError(
                f"inputs: an observation of shape {list(self.shape)} needs {self.shape[0] if self.shape else 1} means and "
                f"deviations and 1 or 3 axes; got {len(self.mean)} and {len(self.std)}."
            )
        check_scale(self.shape, (*self.std, *self.action_std))

    @classmethod
    def of(cls, data: TrajectoryData) -> TrajectoryInputs:
        """What a world model trained on this data expects."""
        episodes, skip = data.train.episodes, data.config.frame_skip or 1
        (mean, std), (action_mean, action_std) = scales(episodes, data.train.begins, data.config.span)
        return cls(
            shape=tuple(episodes.observations.shape[1:]),
            mean=mean,
            std=std,
            action_mean=action_mean * skip,
            action_std=action_std * skip,
            history=data.config.history,
            horizon=data.config.horizon,
        )

    @property
    def action(self) -> int:
        """Numbers of an action block."""
        return len(self.action_mean)

    def normalise(self, observations: Shaped[Tensor, "*leading"]) -> Float[Tensor, "*leading"]:
        """Stored observations `[..., *shape]` to zero mean and unit deviation."""
        mean, std = (torch.tensor(v).reshape(-1, *[1] * (len(self.shape) - 1)) for v in (self.mean, self.std))
        return (unit(observations) - mean) / std

    def normalise_actions(self, actions: Float[Tensor, "*leading block"]) -> Float[Tensor, "*leading block"]:
        """Action blocks to zero mean and unit deviation."""
        return (actions.float() - torch.tensor(self.action_mean)) / torch.tensor(self.action_std)

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch 1 ..."]:
        """The last observation of each window, as a window of one: `[batch, 1, *shape]`."""
        return self.normalise(torch.stack([sample["observations"][-1:] for sample in samples]))

    def sample(self, step: Any) -> dict[str, Any]:
        """One observation, as episodes hold it."""
        return {"observations": self.observation(step)[None]}

    def observation(self, step: Any) -> Shaped[Tensor, "..."]:
        """An observation, checked. Errors: another shape; NaN or infinite numbers."""
        numbers = as_tensor(step, "observation")
        if tuple(numbers.shape) != self.shape:
            raise UserError(
                f"The model was trained on observations of shape {list(self.shape)}, got {list(numbers.shape)}. Give one "
                "observation at a time, as its episodes hold them."
            )
        return numbers if numbers.dtype == torch.uint8 else finite(numbers, "An observation")

    def action_block(self, action: Any) -> Float[Tensor, "block"]:
        """What was done between two observations, `frame_skip` actions in a row, checked.

        Errors: another number of numbers; NaN or infinite ones.
        """
        numbers = as_tensor(action, "action").flatten()
        if len(numbers) != self.action:
            raise UserError(
                f"What is done between two observations of this model is {self.action} numbers (the actions of frame_skip "
                f"steps in a row), got {len(numbers)}. Give them all."
            )
        return finite(numbers, "An action")

    def windows(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`inputs [batch, time, *shape]` and `actions [batch, time - 1, block]`, normalised."""
        return {
            "inputs": self.normalise(torch.stack([sample["observations"] for sample in samples])),
            "actions": self.normalise_actions(torch.stack([sample["actions"] for sample in samples])),
        }

    @property
    def action_scale(self) -> tuple[Float[Tensor, "action"], Float[Tensor, "action"]]:
        """Mean and deviation of the numbers of an action block."""
        return torch.tensor(self.action_mean), torch.tensor(self.action_std)

    @property
    def large(self) -> bool:
        """Whether observations are pictures: a label is one number of a state."""
        return len(self.shape) == 3

    def plain(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch features"]:
        """The numbers of the last observation; pictures above 32 pixels are averaged down to that."""
        last = self.prepare(samples)[:, 0]
        cell = 1 if last.dim() == 2 else math.ceil(max(last.shape[2:]) / 32)
        return (F.avg_pool2d(last, cell, ceil_mode=True) if cell > 1 else last).flatten(1)

    def describe(self) -> str:
        """The input's size in words."""
        size = f"{self.shape[0]} numbers" if len(self.shape) == 1 else f"{self.shape[1]} x {self.shape[2]} pixels"
        return f"{self.history} + {self.horizon} observations of {size}"


TRAJECTORIES = Modality(
    "trajectories", TrajectoryDataConfig, TrajectoryInputs, open_trajectories, TrajectoryInputs.of, holds=holds_trajectories,
    inspect="jepakit.modalities.trajectories.inspection:inspect", pack="jepakit.modalities.trajectories.packing:pack",
)  # fmt: skip
