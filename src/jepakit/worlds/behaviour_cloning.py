"""Behaviour cloning towards goals: a policy that copies recorded actions, from the data that a world model learns from.

From an episode two steps are drawn, and the network is shown the observation of the first and, as the goal, that of the
second: what was done at the first is an action that led there (hindsight, Ghosh et al., 2021, arXiv 1912.06088). No world
model, no planning: what a world model has to beat to be worth its while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.modalities.modality import WorldInputs
from jepakit.nn.mlp import mlp
from jepakit.randomness import derive_seed
from jepakit.worlds.acting import Information
from jepakit.worlds.agent.network import NetworkConfig
from jepakit.worlds.choices import as_number, is_choice


@dataclass(frozen=True, kw_only=True)
class BehaviourCloningConfig(NetworkConfig):
    """The network, and how it is trained."""

    reach: int = 50
    """A goal is at most so many steps ahead, drawn uniformly within the episode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("reach", self.reach, 1)


@runtime_checkable
class EpisodeWindows(Protocol):
    """Windows of a data set that gives its episodes too: `begins` says at which step of all episodes each window begins."""

    episodes: Any
    begins: NDArray[np.int64]


class BehaviourCloning:
    """A `Policy` from observation and goal; pictures are seen as `WorldInputs.plain` gives them.

    Actions are predicted in deviations of the data's and given in raw units, cut to the environment's bounds; of a choice
    among a few the most probable.
    """

    def __init__(self, network: nn.Module, inputs: WorldInputs, mean: Tensor, std: Tensor):
        self.network, self.inputs, self.mean, self.std = network.eval(), inputs, mean, std

    def begin(self, environments: Sequence[Any], seeds: Sequence[int]) -> None:
        self.space = space = environments[0].action_space
        size = space.n if is_choice(space) else space.shape[0] if len(space.shape or ()) == 1 else None
        if size != len(self.mean):
            raise UserError(
                f"The recorded actions have {len(self.mean)} numbers, the environment takes {space}. Act in the environment "
                "that the episodes come from."
            )

    @torch.no_grad()
    def act(self, observations: Sequence[NDArray], infos: Sequence[Information]) -> NDArray:
        if any("goal" not in info for info in infos):
            raise UserError("Behaviour cloning follows info['goal'], which this environment does not give: see worlds.goals.")
        given = (observations, [info["goal"] for info in infos])
        seen = [_plain(self.inputs, torch.from_numpy(np.stack(each))) for each in given]
        chosen = (self.network(torch.cat(seen, 1)) * self.std + self.mean).numpy()
        if is_choice(self.space):  # the squared error of one-hot codes is least at their probabilities
            return as_number(chosen, self.space)
        return np.clip(chosen, self.space.low, self.space.high).astype(np.float32)


def clone(
    windows: EpisodeWindows, inputs: WorldInputs, config: BehaviourCloningConfig | None = None, seed: int = 0
) -> BehaviourCloning:
    """Train on the episodes that these windows come from, a function of the seed.

    Args:
        windows: the training windows of a world model: of their episodes every step is used.
        inputs: what the world model expects: how observations are normalised.

    Errors: episodes of a single step.
    """
    config = config or BehaviourCloningConfig()
    episodes = windows.episodes
    owners = np.unique(np.searchsorted(episodes.starts, windows.begins, side="right") - 1)
    first, last = episodes.starts[owners], episodes.starts[owners + 1] - 1  # of each episode; at the last nothing was done
    count = last - first
    if not (count > 0).any():
        raise UserError("Behaviour cloning needs episodes of at least two observations: there is no action to copy.")
    base = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    end = np.repeat(last, count)
    actions = torch.from_numpy(episodes.single("actions", base))
    mean, std = actions.mean(0), actions.std(0, unbiased=False).clamp_min(1e-3)
    rng = np.random.default_rng(derive_seed(seed, "behaviour cloning"))
    observe = _Plains(windows, inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "behaviour cloning network"))
        network = mlp(2 * observe.width, config.hidden, len(mean))
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for _ in range(config.steps):
        row = rng.integers(len(base), size=config.batch_size)
        ahead = 1 + rng.integers(np.minimum(config.reach, end[row] - base[row]))
        shown = torch.cat([observe(base[row]), observe(base[row] + ahead)], 1)
        loss = F.mse_loss(network(shown), (actions[row] - mean) / std)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return BehaviourCloning(network, inputs, mean, std)


class _Plains:
    """Plain features of steps; of vectors those of all steps are made at once."""

    def __init__(self, windows: EpisodeWindows, inputs: WorldInputs):
        self.episodes, self.inputs, self.kept = windows.episodes, inputs, None
        if len(inputs.shape) == 1:
            self.kept = self._read(np.arange(len(windows.episodes.observations)))
        self.width = self(windows.begins[:1]).shape[1]

    def __call__(self, steps: Int[np.ndarray, "n"]) -> Float[Tensor, "n features"]:
        return self._read(steps) if self.kept is None else self.kept[torch.from_numpy(steps)]

    def _read(self, steps: NDArray) -> Tensor:
        return _plain(self.inputs, torch.from_numpy(self.episodes.observed(steps)))


def _plain(inputs: WorldInputs, observations: Tensor) -> Float[Tensor, "n features"]:
    return inputs.plain([{"observations": one[None]} for one in observations])
