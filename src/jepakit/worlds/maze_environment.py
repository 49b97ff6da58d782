"""A maze of rooms behind Gymnasium's interface: from a room to one that lies as far away as any, through the doors between."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.trajectories.built_in.maze import MazeConfig, draw_mazes, draw_task, guide, move, picture
from jepakit.modalities.trajectories.built_in.maze_episodes import Wanderers
from jepakit.modalities.trajectories.built_in.walls import HIGH, LOW, MOST, SIDE, coloured, shortened
from jepakit.randomness import Draws

NEAR = 4.5  # pixels: closer to the goal than this is success, as in Two Rooms


class MazeEnvironment(gymnasium.Env):
    """Observations are pictures `[2, 65, 65]` of dot and walls, or (`pixels` False) x, y and with inertia the velocity.

    Actions are (dx, dy) in pixels, with inertia what is added to the velocity. A dot that a wall stops has lost its velocity.
    Numbers say nothing of the walls: use them with one `layout`.

    `info`: "state" (x, y), "goal" (an observation, at rest), "goal_state", "distance" (in a straight line), "success", and
    "doors", how many lie on the shortest way. `reset(options={"start": (x, y), "goal": (x, y)})` sets places.

    far: start and goal lie in rooms as far apart (in doors) as any two; otherwise in any two different rooms. Other options
    are `MazeConfig`'s. Maze, start and goal are a function of the seed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  as gymnasium declares it
    state_names = ("x", "y")

    def __init__(self, render_mode: str | None = None, pixels: bool = True, far: bool = True, **options: Any):
        self.config, self.render_mode, self.pixels, self.far = MazeConfig(**options), render_mode, pixels, far
        most = MOST / (1 - self.config.inertia)  # the velocity that actions of MOST add up to
        if pixels:
            self.observation_space = spaces.Box(0, 255, (2, SIDE, SIDE), np.uint8)
        else:
            low, high = [LOW, LOW], [HIGH, HIGH]
            if self.config.inertia:
                low, high = [*low, -2 * most, -2 * most], [*high, 2 * most, 2 * most]
            self.observation_space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
        self.action_space = spaces.Box(-MOST, MOST, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**62))
        draws = Draws(number, "maze-task", 0, [0])
        self._flicker = Draws(number, "flicker", 0, [0])
        self.maze = draw_mazes(self.config, draws)
        self.place, self.goal = draw_task(self.maze, draws, self.far)
        for name, place in (options or {}).items():
            self._set(name, np.asarray(place, dtype=np.float64))
        self.velocity = np.zeros((1, 2))
        self._wanderer: Wanderers | None = None
        self._goal_seen = self._seen(self.goal, self.velocity)
        return self._seen(self.place, self.velocity), self._info()

    def step(self, action: NDArray) -> tuple[NDArray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise UserError(f"Maze: an action is (dx, dy), two finite numbers in pixels; got {action.tolist()}.")
        asked = self.config.inertia * self.velocity + np.clip(action, -MOST, MOST)
        moved = move(self.maze, self.place, asked)
        stopped = np.abs(moved - self.place - asked).max() > 1e-6
        self.place, self.velocity = moved, np.zeros((1, 2)) if stopped else asked
        info = self._info()
        return self._seen(self.place, self.velocity), -info["distance"], False, False, info

    def heuristic_action(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """The next step of a wanderer who now and then makes for a door: what to collect data with."""
        if self._wanderer is None:
            self._wanderer = Wanderers(self.maze, Draws(int(rng.integers(2**62)), "wanderer", 0, [0]))
        return self._pushed(self._wanderer.actions(self.place))

    def oracle_action(self) -> NDArray[np.float32]:
        """What somebody does who knows the map: the upper bound that planners stand beside."""
        return self._pushed(guide(self.maze, self.place, self.goal))

    def render(self) -> NDArray[np.uint8]:
        """The dot in white, the walls in grey, the goal in green, `[260, 260, 3]`."""
        return coloured(*(picture(self.maze, place, self._flicker)[0] for place in (self.place, self.goal)))

    def _pushed(self, way: NDArray) -> NDArray[np.float32]:
        """The action that moves the dot this way, its velocity taken off."""
        return shortened(way - self.config.inertia * self.velocity)[0].astype(np.float32)

    def _seen(self, place: NDArray, velocity: NDArray) -> NDArray:
        if self.pixels:
            return picture(self.maze, place, self._flicker)[0]
        return np.concatenate([place[0], velocity[0][: 2 * (self.config.inertia > 0)]]).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        distance = float(np.hypot(*(self.place - self.goal)[0]))
        here, there = self.maze.room(self.place)[0], self.maze.room(self.goal)[0]
        return {
            "state": self.place[0].astype(np.float32),
            "goal": self._goal_seen.copy(),
            "goal_state": self.goal[0].astype(np.float32),
            "distance": distance,
            "doors": int(self.maze.steps[0, here, there]),
            "success": distance < NEAR,
        }

    def _set(self, name: str, place: NDArray[np.float64]) -> None:
        if name not in ("start", "goal"):
            raise UserError(f"Maze: reset takes the options start and goal, got {name!r}.")
        if place.shape != (2,) or not ((place >= LOW) & (place <= HIGH)).all() or self._in_wall(place):
            raise UserError(f"Maze: {name} is (x, y) within {LOW:g} to {HIGH:g}, not in a wall; got {place.tolist()}.")
        setattr(self, "place" if name == "start" else "goal", place[None])

    def _in_wall(self, place: NDArray[np.float64]) -> bool:
        (x, y), walls = place, self.maze.walls
        return any(bool(np.all((x >= a) & (x <= b) & (y >= c) & (y <= d) & (d > c) & (b > a))) for a, b, c, d in walls)
