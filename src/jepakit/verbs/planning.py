"""A run's world model as a policy: what `act` measures and `collect` can collect with."""

from __future__ import annotations

from pathlib import Path

import torch

from jepakit.core.dynamics import Dynamics
from jepakit.errors import UserError
from jepakit.interop.pretrained import load_run_system
from jepakit.worlds.acting import PlanningConfig, PlanningPolicy
from jepakit.worlds.problem import Planner


def planning_policy(
    run: str | Path, planner: Planner, config: PlanningConfig | None = None, device: torch.device | None = None
) -> PlanningPolicy:
    """The policy that plans in a run's world model.

    Errors: a run of a system that predicts nothing of actions.
    """
    system, made = load_run_system(run, device)
    if not isinstance(system, Dynamics):
        raise UserError(
            f"{run} is a run of {made.system!r}, which predicts nothing of actions. Act with pldm, lewm, v-jepa-2-ac or "
            "pixel-world."
        )
    return PlanningPolicy(system, system.inputs, planner, config, frame_skip=made.dataset.frame_skip or 1)
