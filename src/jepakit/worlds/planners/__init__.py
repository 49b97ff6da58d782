"""Planners: each finds cheap actions for every environment of a `Problem` at once. `make_planner("cem", population=300)`."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from jepakit.errors import UserError, check_choice
from jepakit.worlds.planners.amortised import Amortised, AmortisedConfig
from jepakit.worlds.planners.cem import CEM, CEMConfig
from jepakit.worlds.planners.gradient import GradientConfig, GradientPlanner
from jepakit.worlds.planners.icem import ICEM, ICEMConfig
from jepakit.worlds.planners.mppi import MPPI, MPPIConfig
from jepakit.worlds.planners.random_shooting import RandomShooting, RandomShootingConfig
from jepakit.worlds.planners.tree_search import TreeSearch, TreeSearchConfig
from jepakit.worlds.problem import Planner

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "Amortised",
    "AmortisedConfig",
    "CEMConfig",
    "GradientConfig",
    "GradientPlanner",
    "ICEMConfig",
    "MPPIConfig",
    "RandomShooting",
    "RandomShootingConfig",
    "TreeSearch",
    "TreeSearchConfig",
    "make_planner",
]

PLANNERS: dict[str, Any] = {
    "random": RandomShooting,
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "gradient": GradientPlanner,
    "tree": TreeSearch,
    "amortised": Amortised,
}


def make_planner(name: str, *, seed: int = 0, **options: Any) -> Planner:
    """The planner of this name, with options of its config. Errors: a name, an option or a value that is not valid."""
    check_choice("planner", name, PLANNERS)
    kind = PLANNERS[name]
    for option in options:
        check_choice(f"option of planner {name}", option, [field.name for field in fields(kind.Config)])
    needed = [field.name for field in fields(kind.Config) if field.default is MISSING and field.name not in options]
    if needed:
        raise UserError(f"The planner {name} needs {', '.join(needed)}, see {kind.Config.__name__}.")
    return kind(kind.Config(**options), seed=seed)
