"""Environments by name: our own, and whatever Gymnasium and the packages beside it have registered."""

from __future__ import annotations

import os
import sys
from typing import Any

from jepakit.errors import UserError, did_you_mean, missing_extra, shown
from jepakit.modalities.trajectories.built_in.two_rooms import FLICKER, LOCKED

OWN = {
    "two-rooms": "jepakit/TwoRooms-v0",
    "two-rooms-fixed": "jepakit/TwoRoomsFixed-v0",
    "two-rooms-flicker": "jepakit/TwoRoomsFlicker-v0",
    "two-rooms-stochastic": "jepakit/TwoRoomsStochastic-v0",
    "two-rooms-stochastic-pixels": "jepakit/TwoRoomsStochasticPixels-v0",
    "two-rooms-two-doors": "jepakit/TwoRoomsTwoDoors-v0",
    "two-rooms-either-door": "jepakit/TwoRoomsEitherDoor-v0",
    "maze": "jepakit/Maze-v0",
    "maze-fixed": "jepakit/MazeFixed-v0",
    "point-maze": "jepakit/PointMaze-v0",
    "point-maze-pixels": "jepakit/PointMazePixels-v0",
    "pendulum": "jepakit/Pendulum-v0",
    "pendulum-pixels": "jepakit/PendulumPixels-v0",
    "reacher": "jepakit/Reacher-v0",
    "reacher-pixels": "jepakit/ReacherPixels-v0",
    "push-t": "jepakit/PushT-v0",
    "minigrid": "jepakit/MinigridEmpty-v0",
    "minigrid-four-rooms": "jepakit/MinigridFourRooms-v0",
}

# Of each name: the function or class that makes it, what it is made with, the steps of an episode.
_MADE: dict[str, tuple[str, dict[str, Any], int]] = {
    "two-rooms": ("two_rooms_environment:TwoRooms", {}, 200),
    "two-rooms-fixed": ("two_rooms_environment:TwoRooms", {"fixed": True}, 200),
    "two-rooms-flicker": ("two_rooms_environment:TwoRooms", {"flicker": FLICKER}, 200),
    "two-rooms-stochastic": ("two_rooms_environment:TwoRooms", {"fixed": True, "locked": LOCKED, "pixels": False}, 200),
    "two-rooms-stochastic-pixels": ("two_rooms_environment:TwoRooms", {"fixed": True, "locked": LOCKED}, 200),
    "two-rooms-two-doors": ("two_rooms_environment:TwoRooms", {"fixed": True, "locked": 0.0, "pixels": False}, 200),
    "two-rooms-either-door": (
        "two_rooms_environment:TwoRooms", {"fixed": True, "locked": LOCKED, "either": True, "pixels": False}, 200,
    ),
    "maze": ("maze_environment:MazeEnvironment", {}, 200),
    "maze-fixed": ("maze_environment:MazeEnvironment", {"layout": 0}, 200),
    "point-maze": ("maze_environment:MazeEnvironment", {"layout": 0, "pixels": False, "inertia": 0.8}, 200),
    "point-maze-pixels": ("maze_environment:MazeEnvironment", {"layout": 0, "inertia": 0.8}, 200),
    "pendulum": ("pendulum_environment:pendulum", {}, 200),
    "pendulum-pixels": ("pendulum_environment:pendulum", {"pixels": True}, 200),
    "reacher": ("reacher_environment:reacher", {}, 100),
    "reacher-pixels": ("reacher_environment:reacher", {"pixels": True}, 100),
    "push-t": ("push_t_environment:push_t", {}, 60),
    "minigrid": ("minigrid_environment:minigrid", {}, 50),
    "minigrid-four-rooms": ("minigrid_environment:minigrid", {"rooms": 4}, 100),
}


def make_environment(name: str, **options: Any) -> Any:
    """The `gymnasium.Env` of this name: one of `OWN`, or any id that Gymnasium knows ("Pendulum-v1", "module:Id-v0").

    Errors: gymnasium is not installed; no such environment, with the nearest name; options that it does not take.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise missing_extra("gymnasium", "worlds", "Environments") from error
    register_own()
    if ":" in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a module in the folder one stands in, as `python -m` finds it
    try:
        return gymnasium.make(OWN.get(name, name), **options)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"env: {shown(name)} cannot be made: {reason} {did_you_mean(name, [*OWN, *gymnasium.registry])} An environment of "
            "another package is named with the module that registers it: module:Name-v0."
        ) from error


def register_own() -> None:
    """Make our environments known to Gymnasium; once is enough, twice does nothing."""
    import gymnasium

    for name, (place, options, steps) in _MADE.items():
        if OWN[name] not in gymnasium.registry:
            gymnasium.register(
                OWN[name], entry_point=f"jepakit.worlds.{place}", kwargs=options, max_episode_steps=steps,
                disable_env_checker=True,
            )  # fmt: skip
