"""Reads Minari data sets: `data/main_data.hdf5` with a group for each episode, and `data/metadata.json`; without minari.

    episode_i/observations [T + 1, ...] (or a group of them), actions [T, ...], rewards, terminations, truncations [T], infos?

Actions of a Discrete space become one-hot; `infos/state`, where it is there, the physical state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.files import read_json
from jepakit.modalities.files.hdf5 import Hdf5
from jepakit.modalities.trajectories.readers.observation_choice import chosen_observation


def minari_file(folder: Path) -> Path | None:
    """The HDF5 file of a data set's folder, or of its folder `data`."""
    places = (place / f"main_data{suffix}" for place in (folder / "data", folder) for suffix in (".hdf5", ".h5"))
    return next((place for place in places if place.is_file()), None)


def is_minari(file: Hdf5) -> bool:
    """Whether there are episodes in it."""
    return bool(_episodes(file))


def minari_episodes(file: Hdf5, observation: str | None) -> Iterator[dict[str, NDArray]]:
    """The episodes in order of number; `observation` names one of a group of observations (`chosen_observation`)."""
    spaces = _spaces(file.path.with_name("metadata.json"))
    for name in _episodes(file):
        group = file.group(name)
        place = f"{file.path}, {name}"
        observations = _observations(group, observation, spaces.get("observation_space", {}), place)
        actions = group.array("actions")
        if len(observations) != len(actions) + 1:
            raise UserError(f"{place} has {len(observations)} observations and {len(actions)} actions: one less is expected.")
        if (space := spaces.get("action_space", {})).get("type") == "Discrete":
            choices = int(space.get("start", 0)) + np.arange(int(space["n"]))
            actions = (actions.reshape(-1, 1) == choices).astype(np.uint8)
        part = {"actions": actions}
        for ours, theirs in (("rewards", "rewards"), ("terminated", "terminations"), ("truncated", "truncations")):
            if theirs in group:
                part[ours] = group.array(theirs)
        # A row more, as observations have one more: it is not used.
        part = {key: np.concatenate([array, np.zeros((1, *array.shape[1:]), array.dtype)]) for key, array in part.items()}
        part["observations"] = observations
        if "infos" in group and "state" in (infos := group.group("infos")) and not infos.is_group("state"):
            part["states"] = infos.array("state")
        yield part


def _observations(group: Hdf5, wanted: str | None, space: dict[str, Any], place: str) -> NDArray:
    if group.is_group("observations"):
        parts = group.group("observations")
        axes = {name: len(parts.shape(name)) for name in parts.names if not parts.is_group(name)}
        return chosen_observation(axes, parts.array, wanted, place)
    shape = space.get("shape")
    if space.get("type") == "Box" and list(group.shape("observations")[1:]) != shape:
        raise UserError(
            f"{place}: observations of shape {shape} are stored in another one: pictures as JPEG, which is not read. Make the "
            "data set with jpeg_encoding=False."
        )
    return group.array("observations")


def _spaces(path: Path) -> dict[str, dict[str, Any]]:
    """The spaces that the metadata describe, as JSON in JSON; none where they say nothing."""
    found = read_json(path) if path.is_file() else {}
    spaces = {}
    for name in ("observation_space", "action_space"):
        text = found.get(name) if isinstance(found, dict) else None
        try:
            space = json.loads(text) if isinstance(text, str) else text
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: {name} is not JSON. Copy the data set again.") from error
        if isinstance(space, dict):
            if space.get("type") == "Discrete" and not all(type(space.get(key, 0)) is int for key in ("n", "start")):
                raise UserError(f"{path}: {name} has no whole number of choices. Copy the data set again.")
            spaces[name] = space
    return spaces


def _episodes(file: Hdf5) -> list[str]:
    return sorted((name for name in file.names if re.fullmatch(r"episode_\d+", name)), key=lambda name: int(name[8:]))
