"""What `act` keeps of its first episodes for the report, and how the report reads it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console

from jepakit.errors import UserError
from jepakit.evaluation.linear import Linear
from jepakit.evaluation.state_probe import StateProbe
from jepakit.pages.world_data import Episode
from jepakit.training.weight_files import read_weights, write_weights
from jepakit.worlds.recording import Recorder, Recording, animation, render_again

FORMAT = 1
ARRAYS = "recorded.safetensors"
_ARRAYS = ("states", "goal", "plan_steps", "imagined")  # of an episode, each where there is one


def write_recordings(
    folder: Path, recorder: Recorder, make: Callable[..., Any], planner: str, frame_skip: int
) -> dict[str, Any] | None:
    """Write animations and arrays into a folder; returns what `acting.json` says of them, None where nothing was recorded.

    folder: of earlier recordings those files are replaced or removed that this function writes.
    make: makes the environment, given `render_mode`.
    planner: the policy whose plans were recorded.
    """
    for old in [*folder.glob("*-[0-9]*.gif"), folder / ARRAYS]:
        old.unlink(missing_ok=True)
    if not recorder.seeds:
        return None
    folder.mkdir(exist_ok=True)
    pictures = _Pictures(make)
    episodes, arrays = [], {}
    for policy, noted in recorder.episodes.items():
        for number, (seed, episode) in enumerate(noted.items()):
            key = f"{re.sub('[^a-z0-9]+', '-', policy.lower())}-{number}"
            drawn = pictures.of(episode)
            shown = None if drawn is None else f"{key}.gif"
            if drawn is not None:
                (folder / f"{key}.gif").write_bytes(drawn)
            if episode.states:
                arrays[f"{key}/states"] = torch.from_numpy(np.stack(episode.states))
            if episode.goal is not None:
                arrays[f"{key}/goal"] = torch.from_numpy(np.asarray(episode.goal, dtype=np.float32).reshape(-1))
            plans = recorder.chosen_plans(policy, seed) if policy == planner else []
            if plans:
                arrays[f"{key}/plan_steps"] = torch.tensor([plan.step for plan in plans])
                arrays[f"{key}/imagined"] = torch.from_numpy(_stacked([plan.imagined() for plan in plans]))
            said = {"key": key, "policy": policy, "seed": seed, "success": episode.success, "steps": len(episode.actions)}
            episodes.append({**said, "animation": shown})
    if arrays:
        write_weights(folder / ARRAYS, arrays)
    first = recorder.chosen_plans(planner, recorder.seeds[0])
    return {
        "format": FORMAT,
        "planner": planner,
        "frame_skip": frame_skip,
        "episodes": episodes,
        "landscape": first[0].landscape() if first else None,
    }


def _stacked(plans: list[Float[np.ndarray, "_ dim"]]) -> Float[np.ndarray, "plan horizon dim"]:
    """Plans up to the end of an episode are shorter than others: they stay where they end."""
    most = max(len(plan) for plan in plans)
    return np.stack([np.pad(plan, ((0, most - len(plan)), (0, 0)), mode="edge") for plan in plans])


class _Pictures:
    """Animations of episodes, until an environment turns out to draw none."""

    def __init__(self, make: Callable[..., Any]):
        environment = make()
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            # Pictures need no screen: without these pygame complains of none, and MuJoCo ends the process at the second try.
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
            os.environ.setdefault("MUJOCO_GL", "egl")
        self.possible = "rgb_array" in ((environment.metadata or {}).get("render_modes") or ())
        environment.close()
        self.make = make

    def of(self, episode: Recording) -> bytes | None:
        """The episode as a GIF; None where nothing draws it."""
        if not self.possible:
            return None
        try:
            return animation(render_again(lambda: self.make(render_mode="rgb_array"), episode))
        except Exception as error:  # whatever a renderer raises without a screen: what was measured stands without pictures
            Console(stderr=True).print(f"No animations, for the environment cannot be drawn here: {error}", markup=False)
            self.possible = False
            return None


def read_recordings(folder: Path, acting: dict[str, Any] | None, probe: StateProbe | None) -> list[Episode]:
    """The recorded episodes that `acting.json` names, plans read by the probe; what is missing of them is None.

    Errors: a description that is not jepakit's.
    """
    said = (acting or {}).get("recorded")
    if said is None:
        return []
    try:
        listed = [
            (str(one["key"]), str(one["policy"]), bool(one["success"]), int(one["steps"]), one["animation"])
            for one in said["episodes"]
        ]
        skip, known = int(said["frame_skip"]), said["format"] == FORMAT
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise UserError(f"{folder.parent / 'acting.json'} does not hold what jepakit writes there. Act again: jepakit act.")
    path = folder / ARRAYS
    arrays = read_weights(path) if path.exists() else {}
    found = []
    for key, policy, success, steps, shown in listed:
        picture = folder / str(shown)
        inside = shown is not None and re.fullmatch(r"[a-z0-9-]+\.gif", str(shown)) and picture.is_file()
        own = {name: arrays[f"{key}/{name}"] for name in _ARRAYS if f"{key}/{name}" in arrays}
        expected = own.pop("imagined", None)
        decoded = None
        if probe is not None and expected is not None and expected.shape[-1] == len(probe.linear.weight):
            decoded = probe(expected)
        numbers = {name: tensor.numpy() for name, tensor in own.items()}
        pictured = picture.read_bytes() if inside else None
        found.append(Episode(policy, success, steps, skip, pictured, decoded=decoded, **numbers))
    return found


def read_probe(path: Path) -> StateProbe | None:
    """The probe that `evaluate` fitted, None where it fitted none. Errors: a file that is not one."""
    if not path.exists():
        return None
    tensors = read_weights(path)
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or bias is None or weight.dim() != 2 or bias.shape != weight.shape[1:]:
        raise UserError(f"{path} does not hold a probe of the state. Evaluate the run again.")
    return StateProbe(Linear(weight, bias, 0.0))
