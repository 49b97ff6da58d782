"""Two Rooms: a dot that has to go through the door in a wall; thousands of worlds at once.

The world of PLDM (arXiv 2502.14819) with the numbers of EB-JEPA (arXiv 2602.03604).

Two rooms of 56 x 56 pixels side by side, a wall of width 3 between them and a door in it; the observation is two pictures of
65 x 65: the dot, and the walls. An action moves the dot by (dx, dy) pixels, and a wall stops it where it is met. Where the wall
stands (20 to 44) and where its door (10 to 54) is drawn for each world, or fixed.

Factors of variation are fields of `TwoRoomsConfig`: a background that flickers unpredictably, the size and the brightness of
the dot, the width of the door; and a second door, of which nobody sees whether it is locked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from jepakit.errors import UserError, check_range
from jepakit.modalities.trajectories.built_in.walls import (
    GAP,
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
from jepakit.modalities.trajectories.episodes import Episodes, Frames
from jepakit.randomness import Draws

WALLS, DOORS = (20, 44), (10, 54)  # where the inner wall and its door may be
SURE, DOUBTFUL, APART = 50.0, 22.0, 18  # where fixed doors are, one of two; pixels that two drawn ones are apart, at least
STATE_NAMES = ("x", "y", "wall x", "door y")
STOCHASTIC_NAMES = (*STATE_NAMES, "doubtful door y", "locked")
PUSHES = 12  # steps of somebody who tries a door
FLICKER = 0.5  # of full brightness, in the world called two-rooms-flicker
LOCKED = 0.5  # of the episodes, in those called two-rooms-stochastic and two-rooms-either-door


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

    locked: float | None = None
    """Chance that a second door, drawn as open, is locked: decided for each episode, and known by nobody who has not tried it.
    None: there is one door, which is open."""
    either: bool = False
    """Of the two doors the first is locked when the second is not: one way, and nothing says which."""
    pixels: bool = True
    """Observations are pictures; False: x and y of the dot, which say enough where the wall is `fixed`."""

    def __post_init__(self) -> None:
        check_range("locked", self.locked or 0, 0, 1)
        if self.either and self.locked is None:
            raise UserError("either: one of two doors is locked, and there is one door. Give locked, a chance, as well.")
        if not self.pixels and not self.fixed:
            raise UserError("pixels: x and y say nothing of walls drawn for each world. Set fixed, or leave the pixels.")
        check_range("door", self.door, 1, 10)
        check_range("dot", self.dot, 0.3, 6)
        check_range("brightness", self.brightness, 0.05, 1)
        check_range("flicker", self.flicker, 0, 1)


TWO_ROOMS: dict[str, TwoRoomsConfig] = {
    "two-rooms": TwoRoomsConfig(),
    "two-rooms-fixed": TwoRoomsConfig(fixed=True),
    "two-rooms-flicker": TwoRoomsConfig(flicker=FLICKER),
    "two-rooms-stochastic": TwoRoomsConfig(fixed=True, locked=LOCKED, pixels=False),
    "two-rooms-stochastic-pixels": TwoRoomsConfig(fixed=True, locked=LOCKED),
    "two-rooms-two-doors": TwoRoomsConfig(fixed=True, locked=0.0, pixels=False),
    "two-rooms-either-door": TwoRoomsConfig(fixed=True, locked=LOCKED, either=True, pixels=False),
}
"""The worlds that have a name, as data to learn from and as environments to act in."""


@dataclass(frozen=True, eq=False)
class Rooms:
    """The walls of many worlds: x of the inner wall's middle, y of the door's, `[worlds]`; y of a second door and whether it
    is locked, where there is one; whether the first is, where it may be."""

    wall: Float[np.ndarray, "worlds"]
    door: Float[np.ndarray, "worlds"]
    doubtful: Float[np.ndarray, "worlds"] | None = None
    locked: Bool[np.ndarray, "worlds"] | None = None
    barred: Bool[np.ndarray, "worlds"] | None = None

    def __len__(self) -> int:
        return len(self.wall)

    def __getitem__(self, worlds: NDArray | slice) -> Rooms:
        parts = (self.wall, self.door, self.doubtful, self.locked, self.barred)
        return Rooms(*(None if part is None else part[worlds] for part in parts))  # type: ignore[arg-type]

    @property
    def state(self) -> Float[np.ndarray, "worlds numbers"]:
        """What a state says of the walls, beside x and y of the dot."""
        parts = [part for part in (self.wall, self.door, self.doubtful, self.locked) if part is not None]
        return np.stack([part.astype(np.float64) for part in parts], axis=1)

    def known(self, places: Points, goals: Points) -> Rooms:
        """To somebody who knows what is locked: each world with one door, the open one on the shorter way."""
        if self.doubtful is None or self.locked is None:
            return self
        doors = (self.door, self.doubtful)
        ways = [sum(np.hypot(end[:, 0] - self.wall, end[:, 1] - y) for end in (places, goals)) for y in doors]
        shorter = ways[1] < ways[0] if self.barred is None else self.barred | (ways[1] < ways[0])
        return Rooms(self.wall, np.where(~self.locked & shorter, self.doubtful, self.door))


def draw_rooms(config: TwoRoomsConfig, draws: Draws) -> Rooms:
    """Walls for each of the streams."""
    if config.fixed:
        middle = np.full(len(draws), (LOW + HIGH) / 2)
        if config.locked is None:
            return Rooms(middle, middle.copy())
        sure, doubtful = (np.full(len(draws), y) for y in (SURE, DOUBTFUL))
        return Rooms(middle, sure, doubtful, *_locks(config, draws))
    count = DOORS[1] - DOORS[0] + 1
    wall = WALLS[0] + draws.integers(WALLS[1] - WALLS[0] + 1, 1)[:, 0]
    door = DOORS[0] + draws.integers(count, 1)[:, 0]
    rooms = Rooms(wall.astype(np.float64), door.astype(np.float64))
    if config.locked is None:
        return rooms
    apart = APART + draws.integers(count - 2 * APART + 1, 1)[:, 0]
    doubtful = DOORS[0] + (door - DOORS[0] + apart) % count
    return Rooms(rooms.wall, rooms.door, doubtful.astype(np.float64), *_locks(config, draws))


def _locks(config: TwoRoomsConfig, draws: Draws) -> tuple[Bool[np.ndarray, "worlds"], Bool[np.ndarray, "worlds"] | None]:
    """Whether the second door is locked, and the first."""
    locked = draws.uniform(1)[:, 0] < (config.locked or 0)
    return locked, ~locked if config.either else None


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
    if rooms.doubtful is None or rooms.locked is None:
        return stopped_move(places, actions, [(near, far, -np.inf, rooms.door - door), (near, far, rooms.door + door, np.inf)])
    first, second = np.minimum(rooms.door, rooms.doubtful), np.maximum(rooms.door, rooms.doubtful)
    heights = [(-np.inf, first - door), (first + door, second - door), (second + door, np.inf)]
    for y, shut in ((rooms.doubtful, rooms.locked), (rooms.door, rooms.barred)):
        if shut is not None:
            leaf = (door + GAP) * shut  # of an open door no height is left, which stops nobody
            heights.append((y - leaf, y + leaf))
    return stopped_move(places, actions, [(near, far, low, high) for low, high in heights])


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
    if rooms.doubtful is not None:  # whether it is locked is not to be seen
        closed &= (np.abs(grid - rooms.doubtful[:, None]) > config.door)[:, :, None]
    outer = (grid == LOW) | (grid == HIGH)
    seen[:, 1] = np.uint8(255) * ((solid & closed) | outer[:, None] | outer[None, :])
    return flickered(seen, config.flicker, draws)


def wander(config: TwoRoomsConfig, seed: int, episodes: int, steps: int) -> tuple[Rooms, NDArray, NDArray]:
    """What EB-JEPA trains on: rooms, places `[episodes, steps, 2]` and actions `[episodes, steps, 2]` (the last is unused).

    A dot starts anywhere and walks with a heading that changes by a normal of variance 0.2 (the reference's Von Mises of
    concentration 5) and steps of length 1.0 +- 0.4 within 0.2 and 1.8. In 35 % of the episodes it first heads for the door
    and through it. Where a door may be locked, see `Tries`.
    """
    draws = Draws(seed, "two-rooms", 0, np.arange(episodes))
    rooms = draw_rooms(config, draws)
    places, actions = np.empty((episodes, steps, 2)), np.zeros((episodes, steps, 2))
    places[:, 0] = draw_places(rooms, draws)
    if config.locked is not None:
        tries = Tries(rooms, places[:, 0], draws, config.door)
        for t in range(steps - 1):
            actions[:, t] = tries.actions()
            places[:, t + 1] = move(rooms, places[:, t], actions[:, t], config.door)
        return rooms, places, actions
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


class Tries:
    """Wanderers who try a door, in three of four episodes: go to its front and push, twelve steps long, whatever comes of it.

    Two thirds try the second one. They walk without looking, by where they would be if it were locked, so that what is done
    says nothing of whether it let through: actions that did would tell a model what it is to be uncertain of. Where either
    may be locked they then try the other one.
    rooms: of n worlds, with two doors; places: where the wanderers start; draws: a stream for each; door: half of its width.
    """

    def __init__(self, rooms: Rooms, places: Points, draws: Draws, door: float = 4.0):
        if rooms.doubtful is None:
            raise UserError("Tries: these worlds have one door, which is open. Draw them with a chance that one is locked.")
        shut = np.ones(len(rooms), dtype=bool)
        self.rooms, self.places = replace(rooms, locked=shut, barred=None if rooms.barred is None else shut), places
        self.draws, self.width = draws, door
        self.heading = draws.uniform(1, high=2 * np.pi)[:, 0]
        self.out = np.where(in_left_room(rooms, places), 1.0, -1.0)
        second = draws.uniform(1)[:, 0] < 2 / 3
        tried, other = np.where(second, (rooms.doubtful, rooms.door), (rooms.door, rooms.doubtful))
        self.front = np.stack([rooms.wall - self.out * (THICKNESS / 2 + 1), tried], axis=1)
        self.coming = draws.uniform(1)[:, 0] < 0.75
        self.then, self.left = other, self.coming & (rooms.barred is not None)  # the door after it, and who has it to try
        self.pushes = np.zeros(len(rooms), dtype=np.int64)  # that are left

    def actions(self) -> Points:
        """The next move of each."""
        way, turn = self.front - self.places, np.sqrt(0.2) * self.draws.normal(1)[:, 0]
        arrived = self.coming & (np.hypot(*way.T) < 1.5)
        self.coming &= ~arrived
        self.pushes = np.where(arrived, PUSHES, self.pushes)
        self.heading = self.heading + turn
        self.heading = np.where(self.coming, np.arctan2(way[:, 1], way[:, 0]) + turn, self.heading)
        self.heading = np.where(self.pushes > 0, np.where(self.out > 0, 0.0, np.pi) + turn / 2, self.heading)
        done = self.left & (self.pushes == 1)
        self.front[done, 1], self.coming, self.left = self.then[done], self.coming | done, self.left & ~done
        self.pushes = np.maximum(self.pushes - 1, 0)
        length = np.clip(1.0 + 0.4 * self.draws.normal(1)[:, 0], 0.2, 1.8)
        moves = length[:, None] * np.stack([np.cos(self.heading), np.sin(self.heading)], axis=1)
        self.places = move(self.rooms, self.places, moves, self.width)
        return moves


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
    rooms = rooms.known(places, goals)
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
    """Episodes of `wander`; a function of the seed. States are (x, y) of the dot in pixels, x of the wall, y of the door, and
    with a second door its y and whether it is locked (1 or 0).

    Of 3,000 a model learns the worlds by heart: what it imagines comes through their walls (docs/worlds.md).
    """
    config = config or TwoRoomsConfig()
    rooms, places, actions = wander(config, seed, episodes, steps)
    walls = rooms.state[:, None].repeat(steps, axis=1)
    states = np.concatenate([places, walls], axis=2).reshape(episodes * steps, -1).astype(np.float32)
    frames: Frames = DrawnFrames(partial(picture, config=config), rooms, places, config.flicker, seed)
    if not config.pixels:
        frames = states[:, :2]
    names: tuple[str, ...] = STATE_NAMES if states.shape[1] == len(STATE_NAMES) else STOCHASTIC_NAMES
    return Episodes(
        frames, actions.reshape(-1, 2).astype(np.float32), states, np.arange(episodes + 1) * steps, state_names=names
    )
