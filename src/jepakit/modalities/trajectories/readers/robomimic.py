"""Reads the HDF5 layout of robomimic: a group `data/demo_i` for each demonstration.

    data/demo_i/obs/NAME [steps, ...], actions [steps, action], states? [steps, k], rewards?, dones?

Row t holds what was observed and the action taken there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.files.hdf5 import Hdf5
from jepakit.modalities.trajectories.readers.observation_choice import chosen_observation


def is_robomimic(file: Hdf5) -> bool:
    """Whether there are demonstrations in it."""
    return "data" in file and file.is_group("data") and bool(_demonstrations(file.group("data")))


def robomimic_episodes(file: Hdf5, observation: str | None) -> Iterator[dict[str, NDArray]]:
    """The demonstrations in order of number; `observation` names the part of `obs` that is taken (`chosen_observation`)."""
    data = file.group("data")
    for name in _demonstrations(data):
        demonstration = data.group(name)
        seen = demonstration.group("obs")
        axes = {key: len(seen.shape(key)) for key in seen.names if not seen.is_group(key)}
        part = {"observations": chosen_observation(axes, seen.array, observation, f"{file.path}, {seen.place}")}
        part["actions"] = demonstration.array("actions")
        part |= {key: demonstration.array(key) for key in ("states", "rewards") if key in demonstration}
        if any(len(array) != len(part["actions"]) for array in part.values()):
            raise UserError(f"{file.path}: the arrays of {seen.place} and its actions differ in length. Copy the file again.")
        yield part


def _demonstrations(data: Hdf5) -> list[str]:
    return sorted((name for name in data.names if re.fullmatch(r"demo_\d+", name)), key=lambda name: int(name[5:]))
