"""H-JEPA: above a trained world model another one that takes longer steps, by macro-actions, and sets it subgoals.

LeCun, "A path towards autonomous machine intelligence", 2022, section 4.6: the upper level predicts further and in less detail,
and its "actions" are conditions that the lower level is to bring about. A position paper, without losses or numbers. Here

    s = view(lower embedding),  m = macro(block of K lower actions),  s' = s + predictor(s, m)
    L = energy of one step + energy of further ones, each imagined from the last + w SIGReg(m) (+ 12.8 SIGReg(s))

with both sides of the energy the squared distance of an imagined and a true upper state. SIGReg makes macro-actions Gaussian:
a planner searches the box of +- a few deviations, and most of what lies there was recorded. K is `frame_skip` by that of the
lower run.

By default `view` is the identity: the upper level predicts in the lower one's own space, which is frozen, so that nothing can
collapse and an imagined state is a goal of the lower level as it is. With `embedding` the view is learned, SIGReg keeps it from
collapsing, and the lower level is judged through it (`core.hierarchy.SeenFromAbove`); that is tested and not measured.

    python recipes/h_jepa_maze.py --threads 1

Maze of 2 x 2 rooms, x and y observed, three doors from start to goal, three seeds of 50 episodes, 33 M multiply-adds a move for
each. Two levels reach .67 of the goals (.59 to .74; .56, .70, .74); the lower level alone .00, .00 and .03, looking 4, 10 and
20 steps ahead; with the goal instead of subgoals .00, with recorded places drawn at random .17; an oracle 1.00. What limits it
is the upper level: after one step it errs by 3.6 pixels, and 3 % of Gaussian macro-actions lead through the wall without a
door (seed 0). docs/worlds.md has the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jepakit.core.anticollapse import SIGReg, SIGRegConfig
from jepakit.core.energies import Energy
from jepakit.core.hierarchy import Hierarchy
from jepakit.errors import UserError, check_range
from jepakit.modalities.modality import Modality
from jepakit.modalities.trajectories.inputs import TRAJECTORIES, TrajectoryInputs
from jepakit.modalities.trajectories.window_collator import WindowCollator
from jepakit.nn.embedding_predictors import ResidualPredictor
from jepakit.nn.mlp import projection_head


@dataclass(frozen=True, kw_only=True)
class HJEPAConfig:
    """The choices of H-JEPA."""

    lower: str | None = None
    """The run of the world model below (pldm or lewm), which stays as it is. frame_skip is a multiple of its own."""
    embedding: int | None = None
    """Width of an upper embedding, which is learned. Default: the lower level's embedding itself."""
    macro: int = 4
    """Numbers of a macro-action, which stand for a whole block of the lower level's actions."""
    hidden: int = 256
    """Width of the hidden layers of what makes macro-actions, upper embeddings and predictions."""
    sigreg: SIGRegConfig = field(default_factory=lambda: SIGRegConfig(weight=12.8))
    """Keeps upper embeddings that are learned from collapsing."""
    macro_sigreg: SIGRegConfig = field(default_factory=lambda: SIGRegConfig(weight=1.0))
    """Makes macro-actions Gaussian, so that a planner knows where to search."""

    def __post_init__(self) -> None:
        check_range("macro", self.macro, 1)
        check_range("hidden", self.hidden, 1)
        if self.embedding is not None:
            check_range("embedding", self.embedding, 1)


class HJEPA(Hierarchy):
    """H-JEPA's parts put together."""

    Config: ClassVar[type] = HJEPAConfig
    modality: ClassVar[Modality] = TRAJECTORIES
    inputs: TrajectoryInputs
    data_defaults: ClassVar[dict[str, Any]] = {"history": 1, "horizon": 3, "frame_skip": 16}
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 128, "weight_decay": 1e-3, "clip": 1.0}

    def __init__(self, config: HJEPAConfig, inputs: TrajectoryInputs, seed: int = 0, lower: Any = None):
        """`lower`: the pretrained world model with its `inputs`."""
        if lower is None:
            raise UserError("lower: h-jepa stands on a trained world model. Train one (pldm or lewm) and give it, --lower RUN.")
        _check_fit(inputs, lower.inputs)
        width = lower.model.config.embedding
        learned = config.embedding is not None
        dim = width if config.embedding is None else config.embedding
        super().__init__(
            lower.model,
            projection_head(width, [config.hidden], dim) if learned else nn.Identity(),
            projection_head(inputs.action, [config.hidden], config.macro),
            config.macro,
            ResidualPredictor(dim, config.macro, hidden=config.hidden, normalised=False),
            Energy(name="l2"),
            macro_prior=SIGReg(config.macro_sigreg, seed + 1),
            anti_collapse=SIGReg(config.sigreg, seed) if learned else None,
            rollout=float(inputs.horizon > 1),
            renormalise=Renormalise(inputs, lower.inputs),
        )
        self.config, self.inputs, self.lower_inputs = config, inputs, lower.inputs

    def collator(self, seed: int, views: int | None = None) -> WindowCollator:
        return WindowCollator(self.inputs, seed, views)


class Renormalise(nn.Module):
    """Observations as one model's inputs normalise them to how another's do."""

    scale: Tensor

    def __init__(self, ours: TrajectoryInputs, theirs: TrajectoryInputs):
        super().__init__()
        scale = torch.stack([torch.tensor(part) for each in (ours, theirs) for part in (each.mean, each.std)])
        self.register_buffer("scale", scale.reshape(*scale.shape, *[1] * (len(ours.shape) - 1)), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        mean, std, their_mean, their_std = self.scale.to(observations)
        return (observations * std + mean - their_mean) / their_std

def _check_fit(ours: TrajectoryInputs, theirs: TrajectoryInputs) -> None:
    if ours.shape != theirs.shape:
        raise UserError(
            f"lower: it was trained on observations of shape {list(theirs.shape)}, these are {list(ours.shape)}. Give the same "
            "data, or another run."
        )
    if ours.action % theirs.action or ours.action == theirs.action:
        raise UserError(
            f"frame_skip: a step of the upper level holds several whole ones of the lower, whose blocks have {theirs.action} "
            f"numbers; here a block has {ours.action}. Give a multiple of the lower run's frame_skip."
        )
    if ours.history != 1:
        raise UserError(f"history must be 1, got {ours.history}: the upper level predicts from its newest embedding.")
