"""Two Rooms behind Gymnasium's interface: start in one room, the goal in the other, 200 steps (EB-JEPA's protocol)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.trajectories.built_in.two_rooms import (
    HIGH,
    LOW,
    MOST,
    SIDE,
    STATE_NAMES,
    STOCHASTIC_NAMES,
    Rooms,
    Tries,
    TwoRoomsConfig,
    door_heading,
    draw_places,
    draw_rooms,
    guide,
    in_left_room,
    move,
    picture,
)
from jepakit.modalities.trajectories.built_in.walls import coloured
from jepakit.randomness import Draws

NEAR = 4.5  # pixels: closer to the goal than this is success
BESIDE = 8.0  # pixels that start and goal lie above or below a door that may be locked, at most


class TwoRooms(gymnasium.Env):
    """Observations `[2, 65, 65]` uint8, the dot and the walls, or (`pixels` False) x and y; actions (dx, dy) in pixels. No
    reward: the goal is an observation.

    `info`: "state" (x, y, x of the wall, y of the door; with a second door its y and whether it is locked), "goal" (an
    observation), "goal_state", "distance" in pixels, and "success", whether the goal is near at this moment. As registered,
    episodes are truncated after 200 steps. With a second door start and goal lie on both sides of that door.
    `reset(options={"start": (x, y), "goal": (x, y)})` sets places instead of drawing them; a place in a wall is refused.

    Walls, start and goal are a function of the seed, which every reset needs that is not to continue the last one's.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  as gymnasium declares it
    state_names: tuple[str, ...] = STATE_NAMES

    def __init__(self, render_mode: str | None = None, **options: Any):
        self.config, self.render_mode = TwoRoomsConfig(**options), render_mode
        if self.config.locked is not None:
            self.state_names = STOCHASTIC_NAMES
        self.observation_space = (
            spaces.Box(0, 255, (2, SIDE, SIDE), np.uint8) if self.config.pixels else spaces.Box(LOW, HIGH, (2,), np.float32)
        )
        self.action_space = spaces.Box(-MOST, MOST, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**62))
        draws = Draws(number, "two-rooms-task", 0, [0])
        self._flicker = Draws(number, "flicker", 0, [0])
        self.rooms = draw_rooms(self.config, draws)
        left = draws.uniform(1)[:, 0] < 0.5
        self.place, self.goal = draw_places(self.rooms, draws, left), draw_places(self.rooms, draws, ~left)
        if self.rooms.doubtful is not None:
            for place in (self.place, self.goal):
                beside = self.rooms.doubtful + draws.uniform(1, low=-BESIDE, high=BESIDE)[:, 0]
                place[:, 1] = np.clip(beside, LOW + 1, HIGH - 1)
        for name, place in (options or {}).items():
            self._set(name, np.asarray(place, dtype=np.float64))
        self._heading = float(draws.uniform(1, high=2 * np.pi)[0, 0])
        self._tries: Tries | None = None
        self._goal_seen = self._seen(self.goal)
        return self._seen(self.place), self._info()

    def step(self, action: NDArray) -> tuple[NDArray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise UserError(f"Two Rooms: an action is (dx, dy), two finite numbers in pixels; got {action.tolist()}.")
        self.place = move(self.rooms, self.place, np.clip(action, -MOST, MOST)[None], self.config.door)
        info = self._info()
        return self._seen(self.place), -info["distance"], False, False, info

    def heuristic_action(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """The next step of a wanderer who in a third of the turns makes for the door: what to collect data with. Where there
        are two doors, of one who tries them (`Tries`)."""
        if self.config.locked is not None:
            if self._tries is None:
                self._tries = Tries(self.rooms, self.place, Draws(int(rng.integers(2**62)), "tries", 0, [0]), self.config.door)
            return self._tries.actions()[0].astype(np.float32)
        self._heading += float(rng.normal(0, np.sqrt(0.2)))
        if rng.random() < 0.35:
            self._heading = float(door_heading(self.rooms, self.place, in_left_room(self.rooms, self.place))[0])
        length = float(np.clip(rng.normal(1.0, 0.4), 0.2, 1.8))
        return (length * np.array([np.cos(self._heading), np.sin(self._heading)])).astype(np.float32)

    def oracle_action(self) -> NDArray[np.float32]:
        """What somebody does who knows the map: the upper bound that planners stand beside."""
        return guide(self.rooms, self.place, self.goal)[0].astype(np.float32)

    def render(self) -> NDArray[np.uint8]:
        """The dot in white, the walls in grey, the goal in green, `[260, 260, 3]`."""
        return coloured(*(picture(self.rooms, place, self.config, self._flicker)[0] for place in (self.place, self.goal)))

    def _seen(self, place: NDArray) -> NDArray:
        if self.config.pixels:
            return picture(self.rooms, place, self.config, self._flicker)[0]
        return place[0].astype(np.float32)

    def _info(self) -> dict[str, Any]:
        distance = float(np.hypot(*(self.place - self.goal)[0]))
        walls = self.rooms.state[0]
        return {
            "state": np.array([*self.place[0], *walls], dtype=np.float32),
            "goal": self._goal_seen.copy(),
            "goal_state": np.array([*self.goal[0], *walls], dtype=np.float32),
            "distance": distance,
            "success": distance < NEAR,
        }

    def _set(self, name: str, place: NDArray[np.float64]) -> None:
        if name not in ("start", "goal"):
            raise UserError(f"Two Rooms: reset takes the options start and goal, got {name!r}.")
        if place.shape != (2,) or not ((place >= LOW) & (place <= HIGH)).all() or _in_wall(self.rooms, place, self.config):
            raise UserError(f"Two Rooms: {name} is (x, y) within {LOW:g} to {HIGH:g}, not in a wall; got {place.tolist()}.")
        setattr(self, "place" if name == "start" else "goal", place[None])


def _in_wall(rooms: Rooms, place: NDArray[np.float64], config: TwoRoomsConfig) -> bool:
    doors = [door[0] for door in (rooms.door, rooms.doubtful) if door is not None]
    return bool(abs(place[0] - rooms.wall[0]) < 1.5 and all(abs(place[1] - door) > config.door for door in doors))
