"""Two Rooms: a dot that has to go through the door in a wall; thousands of worlds at once.

The world of PLDM (arXiv 2502.14819) with the numbers of EB-JEPA (arXiv 2602.03604).

Two rooms of 56 x 56 pixels side by side, a wall of width 3 between them and a door in it; the observation is two pictures of
65 x 65: the dot, and the walls. An action moves the dot by (dx, dy) pixels, and a wall stops it where it is met. Where the wall
stands (20 to 44) and where its door (10 to 54) is drawn for each world, or fixed.

Factors of variation are fields of `TwoRoomsConfig`: a background that flickers unpredictably, the size and the brightness of
the dot, the width of the door.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from jepakit.errors import UserError, check_range
from jepakit.modalities.trajectory_files import Episodes
from jepakit.randomness import Draws

SIDE = 65  # pixels
LOW, HIGH = 4.0, 60.0  # where the outer walls stand
WALLS, DOORS = (20, 44), (10, 54)  # where the inner wall and its door may be
THICKNESS = 3.0  # of the inner wall
MOST = 2.45  # pixels of a move (EB-JEPA's planner)
FLICKER = 0.5  # of full brightness, in the world called two-rooms-flicker
GAP = 1e-3  # pixels that a stopped dot stays before a wall

Points = Float[np.ndarray, "worlds 2"]


@dataclass(frozen=True, kw_only=True)
class TwoRoomsConfig:
    """What the worlds look like; the defaults are EB-JEPA's."""

    fixed: bool = False
    """One wall (in the middle) and one door for all worlds, instead of one drawn for each."""
    door: float = 4.0
    """Half of the door's width, in pixels."""
    dot: float = 1.3
    """Deviation of the dot, a Gaussian blob, in pixels."""
    brightness: float = 1.0
    """Of the dot, up to 1."""
    flicker: float = 0.0
    """Share of full brightness that a background of 8 x 8 patches, drawn anew for every frame, may reach; in both pictures."""

    def __post_init__(self) -> None:
        check_range("door", self.door, 1, 10)
        check_range("dot", self.dot, 0.3, 6)
        check_range("brightness", self.brightness, 0.05, 1)
        check_range("flicker", self.flicker, 0, 1)


TWO_ROOMS: dict[str, TwoRoomsConfig] = {
    "two-rooms": TwoRoomsConfig(),
    "two-rooms-fixed": TwoRoomsConfig(fixed=True),
    "two-rooms-flicker": TwoRoomsConfig(flicker=FLICKER),
}
"""The worlds that have a name, as data to learn from and as environments to act in."""


@dataclass(frozen=True, eq=False)
class Rooms:
    """The walls of many worlds: x of the inner wall's middle, y of the door's, `[worlds]`."""

    wall: Float[np.ndarray, "worlds"]
    door: Float[np.ndarray, "worlds"]

    def __len__(self) -> int:
        return len(self.wall)

    def __getitem__(self, worlds: NDArray | slice) -> Rooms:
        return Rooms(self.wall[worlds], self.door[worlds])


def draw_rooms(config: TwoRoomsConfig, draws: Draws) -> Rooms:
    """Walls for each of the streams."""
    if config.fixed:
        middle = np.full(len(draws), (LOW + HIGH) / 2)
        return Rooms(middle, middle.copy())
    wall = WALLS[0] + draws.integers(WALLS[1] - WALLS[0] + 1, 1)[:, 0]
    door = DOORS[0] + draws.integers(DOORS[1] - DOORS[0] + 1, 1)[:, 0]
    return Rooms(wall.astype(np.float64), door.astype(np.float64))


def draw_places(rooms: Rooms, draws: Draws, left: Bool[np.ndarray, "worlds"] | None = None) -> Points:
    """A place in a room of each world, uniform over its area: the left room, the right one, or (None) either, by its area."""
    near, far = rooms.wall - THICKNESS / 2 - 1, rooms.wall + THICKNESS / 2 + 1
    unit = draws.uniform(3)
    if left is None:
        left = unit[:, 2] * (near - LOW + HIGH - far) < near - LOW
    low, high = np.where(left, LOW + 1, far), np.where(left, near, HIGH - 1)
    return np.stack([low + unit[:, 0] * (high - low), LOW + 1 + unit[:, 1] * (HIGH - LOW - 2)], axis=1)


def move(rooms: Rooms, places: Points, actions: Points, door: float = 4.0) -> Points:
    """Where the dots are after `actions` (dx, dy): as far along the way as no wall is met."""
    goal = np.clip(places + actions, LOW, HIGH)  # the outer walls: the dot slides along them
    way = goal - places
    free = np.ones(len(places))
    near, far = rooms.wall - THICKNESS / 2, rooms.wall + THICKNESS / 2
    for low, high in ((np.full(len(rooms), -np.inf), rooms.door - door), (rooms.door + door, np.full(len(rooms), np.inf))):
        free = np.minimum(free, _entry(places, way, near, far, low, high))
    length = np.hypot(way[:, 0], way[:, 1])
    stopped = free < 1
    free = np.where(stopped, np.maximum(free - GAP / np.maximum(length, GAP), 0), 1.0)
    return places + free[:, None] * way


def _entry(places: Points, way: Points, left: NDArray, right: NDArray, low: NDArray, high: NDArray) -> NDArray[np.float64]:
    """The share of each way after which a rectangle is entered; infinite where it never is."""
    enters, leaves = np.full(len(places), -np.inf), np.full(len(places), np.inf)
    inside = np.ones(len(places), dtype=bool)
    for axis, (first, last) in enumerate(((left, right), (low, high))):
        start, step = places[:, axis], way[:, axis]
        still = np.abs(step) < 1e-12
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (first - start) / step, (last - start) / step
        enters = np.where(still, enters, np.maximum(enters, np.minimum(one, other)))
        leaves = np.where(still, leaves, np.minimum(leaves, np.maximum(one, other)))
        inside &= ~still | ((start > first) & (start < last))
    return np.where(inside & (enters < leaves) & (enters >= 0) & (enters <= 1), enters, np.inf)


def in_left_room(rooms: Rooms, places: Points) -> Bool[np.ndarray, "worlds"]:
    """Whether each dot is left of the inner wall's middle."""
    return places[:, 0] < rooms.wall


def picture(
    rooms: Rooms, places: Points, config: TwoRoomsConfig | None = None, draws: Draws | None = None
) -> UInt8[np.ndarray, "worlds 2 65 65"]:
    """The dots and the walls, as pixels; one world's rooms serve all the places.

    draws: the streams of the flicker, one for each picture; only flicker needs them.
    """
    config = config or TwoRoomsConfig()
    grid = np.arange(SIDE, dtype=np.float32)
    x, y = (np.exp(-((grid - places[:, [axis]].astype(np.float32)) ** 2) / (2 * config.dot**2)) for axis in (0, 1))
    seen = np.empty((len(places), 2, SIDE, SIDE), dtype=np.uint8)
    seen[:, 0] = (255 * config.brightness * y[:, :, None]) * x[:, None, :]
    solid = (np.abs(grid - rooms.wall[:, None]) <= THICKNESS / 2)[:, None, :]
    closed = (np.abs(grid - rooms.door[:, None]) > config.door)[:, :, None]
    outer = (grid == LOW) | (grid == HIGH)
    seen[:, 1] = np.uint8(255) * ((solid & closed) | outer[:, None] | outer[None, :])
    if config.flicker:
        if draws is None:
            raise UserError("picture: a flickering background needs draws, a stream for each picture.")
        patches = 255 * config.flicker * draws.uniform(2, 9, 9)
        noise = patches.astype(np.uint8).repeat(8, axis=2).repeat(8, axis=3)[:, :, :SIDE, :SIDE]
        np.maximum(seen, noise, out=seen)
    return seen


def wander(config: TwoRoomsConfig, seed: int, episodes: int, steps: int) -> tuple[Rooms, NDArray, NDArray]:
    """What EB-JEPA trains on: rooms, places `[episodes, steps, 2]` and actions `[episodes, steps, 2]` (the last is unused).

    A dot starts anywhere and walks with a heading that changes by a normal of variance 0.2 (the reference's Von Mises of
    concentration 5) and steps of length 1.0 +- 0.4 within 0.2 and 1.8. In 35 % of the episodes it first heads for the door
    and through it.
    """
    draws = Draws(seed, "two-rooms", 0, np.arange(episodes))
    rooms = draw_rooms(config, draws)
    places, actions = np.empty((episodes, steps, 2)), np.zeros((episodes, steps, 2))
    places[:, 0] = draw_places(rooms, draws)
    heading = draws.uniform(1, high=2 * np.pi)[:, 0]
    crossing = draws.uniform(1)[:, 0] < 0.35
    from_left = in_left_room(rooms, places[:, 0])
    for t in range(steps - 1):
        here = places[:, t]
        heading = heading + np.sqrt(0.2) * draws.normal(1)[:, 0]
        crossing &= in_left_room(rooms, here) == from_left
        towards = door_heading(rooms, here, from_left) + np.sqrt(0.2) * draws.normal(1)[:, 0]
        heading = np.where(crossing, towards, heading)
        length = np.clip(1.0 + 0.4 * draws.normal(1)[:, 0], 0.2, 1.8)
        actions[:, t] = length[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        places[:, t + 1] = move(rooms, here, actions[:, t], config.door)
    return rooms, places, actions


def door_heading(rooms: Rooms, places: Points, from_left: Bool[np.ndarray, "worlds"]) -> Float[np.ndarray, "worlds"]:
    """The direction to go in to leave a room: to the front of the door, and from there through it."""
    out = np.where(from_left, 1.0, -1.0)
    front = np.stack([rooms.wall - out * (THICKNESS / 2 + 1), rooms.door], axis=1)
    there = np.abs(places[:, 1] - rooms.door) < 2.5
    beyond = np.stack([rooms.wall + out * (THICKNESS / 2 + 2), rooms.door], axis=1)
    way = np.where(there[:, None], beyond, front) - places
    return np.arctan2(way[:, 1], way[:, 0])


def guide(rooms: Rooms, places: Points, goals: Points, most: float = MOST) -> Points:
    """What somebody who knows the map does next: straight to the goal in the same room, else to the door and through it."""
    left = in_left_room(rooms, places)
    straight = goals - places
    angle = door_heading(rooms, places, left)
    out = most * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inside = np.abs(places[:, 0] - rooms.wall) < THICKNESS / 2 + 0.5
    across = in_left_room(rooms, goals) != left
    through = np.stack([np.sign(goals[:, 0] - places[:, 0]) * most, np.zeros(len(places))], axis=1)
    chosen = np.where(across[:, None], out, straight)
    chosen = np.where((inside & (np.abs(places[:, 1] - rooms.door) < 4))[:, None], through, chosen)
    length = np.maximum(np.hypot(chosen[:, 0], chosen[:, 1]), 1e-9)
    return chosen * np.minimum(1.0, most / length)[:, None]


class DrawnFrames:
    """The pictures of all steps of all episodes, `[steps, 2, 65, 65]`, each drawn when it is asked for: kept, they would take
    8 kB a step."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, rooms: Rooms, places: NDArray, config: TwoRoomsConfig, seed: int):
        self._rooms, self._places, self._config, self._seed = rooms, places, config, seed
        self.shape = (places.shape[0] * places.shape[1], 2, SIDE, SIDE)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, steps: Any) -> UInt8[np.ndarray, "*chosen 2 65 65"]:
        chosen = np.arange(len(self))[steps]
        flat = np.atleast_1d(chosen)
        episode, step = np.divmod(flat, self._places.shape[1])
        rooms = self._rooms[episode[:1]] if (episode == episode[0]).all() else self._rooms[episode]
        draws = Draws(self._seed, "flicker", 0, flat) if self._config.flicker else None
        drawn = picture(rooms, self._places[episode, step], self._config, draws)
        return drawn if np.ndim(chosen) else drawn[0]


def two_rooms_episodes(
    config: TwoRoomsConfig | None = None, seed: int = 0, episodes: int = 3_000, steps: int = 91
) -> Episodes:
    """Episodes of `wander`; a function of the seed. States are (x, y) of the dot in pixels, x of the wall, y of the door."""
    config = config or TwoRoomsConfig()
    rooms, places, actions = wander(config, seed, episodes, steps)
    walls = np.stack([rooms.wall, rooms.door], axis=1)[:, None].repeat(steps, axis=1)
    states = np.concatenate([places, walls], axis=2).reshape(-1, 4).astype(np.float32)
    return Episodes(
        DrawnFrames(rooms, places, config, seed), actions.reshape(-1, 2).astype(np.float32), states,
        np.arange(episodes + 1) * steps,
    )  # fmt: skip
