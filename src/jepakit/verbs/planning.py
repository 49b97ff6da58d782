"""A run's world model as a policy: what `act` measures and `collect` can collect with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jepakit.core.dynamics import Dynamics
from jepakit.core.hierarchy import Hierarchy
from jepakit.errors import UserError
from jepakit.interop.runs import Run
from jepakit.modalities.modality import WorldInputs
from jepakit.worlds.acting import PlanningConfig, PlanningPolicy
from jepakit.worlds.problem import Planner
from jepakit.worlds.subgoals import HierarchicalPolicy


def planning_policy(
    run: str | Path | Run,
    planner: Planner,
    config: PlanningConfig | None = None,
    device: torch.device | None = None,
    *,
    above: Planner | None = None,
) -> PlanningPolicy:
    """The policy that plans in a run's world model, on both its levels where it has two.

    above: the planner of the upper level; None: the same.

    Errors: a run of a system that predicts nothing of actions.
    """
    run = Run.of(run, device)
    system = world_of(run)
    frame_skip = frame_skip_of(run)
    if isinstance(system, Hierarchy):
        return HierarchicalPolicy(
            system.above, system.below, system.lower_inputs, above or planner, planner, config, macro=system.macro_size,
            steps=system.lower_steps, frame_skip=frame_skip // system.lower_steps,
        )  # fmt: skip
    return PlanningPolicy(system, system.inputs, planner, config, frame_skip=frame_skip)


def world_of(run: Run) -> Any:
    """Return a run's world model, in eval mode. Errors: a run of a system that predicts nothing of actions."""
    if not isinstance(run.system, Dynamics):
        raise UserError(
            f"{run.path} is a run of {run.config.system!r}, which predicts nothing of actions. Act with pldm, lewm, "
            "v-jepa-2-ac, h-jepa or pixel-world."
        )
    if not isinstance(run.system.inputs, WorldInputs):
        raise UserError(
            f"{run.path}: plans are made of single observations and actions, which a {type(run.system.inputs).__name__} does not "
            "prepare (modalities.modality.WorldInputs). Act with a run of trajectories."
        )
    return run.system


def frame_skip_of(run: Run) -> int:
    """Return the environment's steps to one of the model."""
    return getattr(run.config.dataset, "frame_skip", None) or 1
