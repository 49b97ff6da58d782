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
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from jepakit.errors import check_range
from jepakit.modalities.trajectory_files import Episodes
from jepakit.modalities.walls import (
    HIGH,
    LOW,
    MOST,
    SIDE,
    THICKNESS,
    DrawnFrames,
    Points,
    dots,
    flickered,
    shortened,
    stopped_move,
)
from jepakit.randomness import Draws

WALLS, DOORS = (20, 44), (10, 54)  # where the inner wall and its door may be
STATE_NAMES = ("x", "y", "wall x", "door y")
FLICKER = 0.5  # of full brightness, in the world called two-rooms-flicker


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
    near, far = rooms.wall - THICKNESS / 2, rooms.wall + THICKNESS / 2
    return stopped_move(places, actions, [(near, far, -np.inf, rooms.door - door), (near, far, rooms.door + door, np.inf)])


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
    seen = np.empty((len(places), 2, SIDE, SIDE), dtype=np.uint8)
    seen[:, 0] = dots(places, config.dot, config.brightness)
    solid = (np.abs(grid - rooms.wall[:, None]) <= THICKNESS / 2)[:, None, :]
    closed = (np.abs(grid - rooms.door[:, None]) > config.door)[:, :, None]
    outer = (grid == LOW) | (grid == HIGH)
    seen[:, 1] = np.uint8(255) * ((solid & closed) | outer[:, None] | outer[None, :])
    return flickered(seen, config.flicker, draws)


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
    return shortened(chosen, most)


def two_rooms_episodes(
    config: TwoRoomsConfig | None = None, seed: int = 0, episodes: int = 30_000, steps: int = 91
) -> Episodes:
    """Episodes of `wander`; a function of the seed. States are (x, y) of the dot in pixels, x of the wall, y of the door.

    Of 3,000 a model learns the worlds by heart: what it imagines comes through their walls (docs/worlds.md).
    """
    config = config or TwoRoomsConfig()
    rooms, places, actions = wander(config, seed, episodes, steps)
    walls = np.stack([rooms.wall, rooms.door], axis=1)[:, None].repeat(steps, axis=1)
    states = np.concatenate([places, walls], axis=2).reshape(-1, 4).astype(np.float32)
    frames = DrawnFrames(partial(picture, config=config), rooms, places, config.flicker, seed)
    return Episodes(
        frames, actions.reshape(-1, 2).astype(np.float32), states,
        np.arange(episodes + 1) * steps,
    )  # fmt: skip
