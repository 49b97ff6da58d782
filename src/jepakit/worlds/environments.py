"""Environments by name: our own, and whatever Gymnasium and the packages beside it have registered."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

from jepakit.errors import UserError, did_you_mean, missing_extra, shown
from jepakit.modalities.trajectories.built_in.two_rooms import FLICKER, LOCKED


class Own(NamedTuple):
    """An environment of ours: its id in Gymnasium, the function or class that makes it, the steps of an episode, and what it is
    made with."""

    id: str
    place: str
    steps: int
    options: dict[str, Any] = {}  # noqa: RUF012  (never written to)


OWN = {
    "two-rooms": Own("jepakit/TwoRooms-v0", "two_rooms_environment:TwoRooms", 200),
    "two-rooms-fixed": Own("jepakit/TwoRoomsFixed-v0", "two_rooms_environment:TwoRooms", 200, {"fixed": True}),
    "two-rooms-flicker": Own("jepakit/TwoRoomsFlicker-v0", "two_rooms_environment:TwoRooms", 200, {"flicker": FLICKER}),
    "two-rooms-stochastic": Own(
        "jepakit/TwoRoomsStochastic-v0",
        "two_rooms_environment:TwoRooms",
        200,
        {"fixed": True, "locked": LOCKED, "pixels": False},
    ),
    "two-rooms-stochastic-pixels": Own(
        "jepakit/TwoRoomsStochasticPixels-v0", "two_rooms_environment:TwoRooms", 200, {"fixed": True, "locked": LOCKED}
    ),
    "two-rooms-two-doors": Own(
        "jepakit/TwoRoomsTwoDoors-v0", "two_rooms_environment:TwoRooms", 200, {"fixed": True, "locked": 0.0, "pixels": False}
    ),
    "two-rooms-either-door": Own(
        "jepakit/TwoRoomsEitherDoor-v0",
        "two_rooms_environment:TwoRooms",
        200,
        {"fixed": True, "locked": LOCKED, "either": True, "pixels": False},
    ),
    "maze": Own("jepakit/Maze-v0", "maze_environment:MazeEnvironment", 200),
    "maze-fixed": Own("jepakit/MazeFixed-v0", "maze_environment:MazeEnvironment", 200, {"layout": 0}),
    "point-maze": Own(
        "jepakit/PointMaze-v0", "maze_environment:MazeEnvironment", 200, {"layout": 0, "pixels": False, "inertia": 0.8}
    ),
    "point-maze-pixels": Own(
        "jepakit/PointMazePixels-v0", "maze_environment:MazeEnvironment", 200, {"layout": 0, "inertia": 0.8}
    ),
    "pendulum": Own("jepakit/Pendulum-v0", "pendulum_environment:pendulum", 200),
    "pendulum-pixels": Own("jepakit/PendulumPixels-v0", "pendulum_environment:pendulum", 200, {"pixels": True}),
    "reacher": Own("jepakit/Reacher-v0", "reacher_environment:reacher", 100),
    "reacher-pixels": Own("jepakit/ReacherPixels-v0", "reacher_environment:reacher", 100, {"pixels": True}),
    "push-t": Own("jepakit/PushT-v0", "push_t_environment:push_t", 60),
    "minigrid": Own("jepakit/MinigridEmpty-v0", "minigrid_environment:minigrid", 50),
    "minigrid-four-rooms": Own("jepakit/MinigridFourRooms-v0", "minigrid_environment:minigrid", 100, {"rooms": 4}),
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
        return gymnasium.make(OWN[name].id if name in OWN else name, **options)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"env: {shown(name)} cannot be made: {reason} {did_you_mean(name, [*OWN, *gymnasium.registry])} An environment of "
            "another package is named with the module that registers it: module:Name-v0."
        ) from error


def register_own() -> None:
    """Make our environments known to Gymnasium; once is enough, twice does nothing."""
    import gymnasium

    for own in OWN.values():
        if own.id not in gymnasium.registry:
            gymnasium.register(
                own.id, entry_point=f"jepakit.worlds.{own.place}", kwargs=own.options, max_episode_steps=own.steps,
                disable_env_checker=True,
            )  # fmt: skip
