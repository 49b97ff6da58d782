"""Anti-collapse: what keeps embeddings from becoming all alike.

Every method is called as `method(views, step) -> dict`: `views [views, batch, dim]`, the optimiser's step; the result
holds the weighted total as `loss` and each unweighted term under its name. None of them can be computed in pieces and
added up: with accumulated micro-batches they need the joined batch. On several ranks each sees the batches of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from jepakit.core.anticollapse.barlow import BarlowTwins, BarlowTwinsConfig
from jepakit.core.anticollapse.infonce import InfoNCE, InfoNCEConfig
from jepakit.core.anticollapse.method import AntiCollapse
from jepakit.core.anticollapse.sigreg import SIGReg, SIGRegConfig, draw_directions, epps_pulley
from jepakit.core.anticollapse.vicreg import VICReg, VICRegConfig
from jepakit.errors import UserError, check_choice

AntiCollapseConfig = SIGRegConfig | VICRegConfig | BarlowTwinsConfig | InfoNCEConfig

CONFIGS: dict[str, Callable[[], AntiCollapseConfig]] = {
    "sigreg": SIGRegConfig,
    "vicreg": VICRegConfig,
    "barlow": BarlowTwinsConfig,
    "infonce": InfoNCEConfig,
}


@dataclass(frozen=True, kw_only=True)
class AntiCollapseOptions:
    """The choice of a method, and each one's own options, for the configs of systems."""

    anti_collapse: Literal["none", "sigreg", "vicreg", "barlow", "infonce"] = "none"
    """A loss that keeps embeddings from becoming all alike; none: no such loss."""
    sigreg: SIGRegConfig = field(default_factory=SIGRegConfig)
    vicreg: VICRegConfig = field(default_factory=VICRegConfig)
    barlow: BarlowTwinsConfig = field(default_factory=BarlowTwinsConfig)
    infonce: InfoNCEConfig = field(default_factory=InfoNCEConfig)


def make_anticollapse(method: str | AntiCollapseConfig, seed: int = 0) -> AntiCollapse | None:
    """The method of this name (with its defaults) or of this config; `"none"`, the negative control, gives None."""
    if method == "none":
        return None
    if isinstance(method, str):
        check_choice("anti-collapse", method, [*CONFIGS, "none"])
        method = CONFIGS[method]()
    if isinstance(method, SIGRegConfig):
        return SIGReg(method, seed)
    if isinstance(method, VICRegConfig):
        return VICReg(method)
    return BarlowTwins(method) if isinstance(method, BarlowTwinsConfig) else InfoNCE(method)


def chosen_anticollapse(config: Any, seed: int = 0) -> AntiCollapse | None:
    """The method a system's config names in `anti_collapse`, with that config's group of options of the same name.

    Errors: options of a method that was not chosen are changed; they would do nothing.
    """
    defaults = type(config)()
    for name in CONFIGS:
        if name != config.anti_collapse and getattr(config, name) != getattr(defaults, name):
            raise UserError(
                f"Options of {name} are set, but anti_collapse is {config.anti_collapse!r}: they would do nothing. "
                f"Choose anti_collapse {name!r} or leave them out."
            )
    if config.anti_collapse == "none":
        return None
    return make_anticollapse(getattr(config, config.anti_collapse), seed)


__all__ = [
    "CONFIGS", "AntiCollapse", "AntiCollapseConfig", "AntiCollapseOptions", "BarlowTwins", "BarlowTwinsConfig",
    "InfoNCE", "InfoNCEConfig",
    "SIGReg", "SIGRegConfig", "VICReg", "VICRegConfig", "chosen_anticollapse", "draw_directions", "epps_pulley",
    "make_anticollapse",
]
