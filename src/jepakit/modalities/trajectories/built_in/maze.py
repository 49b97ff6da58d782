"""A maze of several rooms: a dot that has to find its way through the doors between them; thousands of mazes at once.

Rooms of equal size in rows and columns, in the picture of Two Rooms. The rooms are joined by a random tree of doors, so that
exactly one way leads from any room to any other; `loops` opens further doors. Where each door is in its wall is drawn too.
With `inertia` an action no longer moves the dot but speeds it up (a point maze).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray

from jepakit.errors import UserError, check_range
from jepakit.modalities.trajectories.built_in.walls import (
    HIGH,
    LOW,
    MOST,
    SIDE,
    THICKNESS,
    Points,
    Rectangle,
    dots,
    flickered,
    shortened,
    stopped_move,
)
from jepakit.randomness import Draws

MARGIN = 1.0  # pixels between a wall and where a dot is set, or the edge of a door


@dataclass(frozen=True, kw_only=True)
class MazeConfig:
    """How large the mazes are, what they look like, and how a dot moves in them."""

    rows: int = 2
    """Rooms from top to bottom, up to 4."""
    columns: int = 2
    """Rooms from left to right, up to 4."""
    loops: float = 0.0
    """Chance of a door where the tree of doors has none."""
    layout: int | None = None
    """The number of the one maze that all worlds are; None: each world has its own."""
    inertia: float = 0.0
    """Share of its velocity that a dot keeps from one step to the next; its actions are added to it. 0: actions are moves."""
    door: float = 4.0
    """Half of a door's width, in pixels."""
    dot: float = 1.3
    """Deviation of the dot, a Gaussian blob, in pixels."""
    brightness: float = 1.0
    """Of the dot, up to 1."""
    flicker: float = 0.0
    """Share of full brightness that a background drawn anew for every frame may reach, as in Two Rooms."""

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            check_range(name, getattr(self, name), 1, 4)
        if self.rows * self.columns < 2:
            raise UserError("rows, columns: a maze needs at least two rooms, got one. Give for example 2 and 2.")
        check_range("loops", self.loops, 0, 1)
        check_range("inertia", self.inertia, 0, 0.99)
        check_range("door", self.door, 1, min(self.size) / 2 - THICKNESS / 2 - MARGIN)
        check_range("dot", self.dot, 0.3, 6)
        check_range("brightness", self.brightness, 0.05, 1)
        check_range("flicker", self.flicker, 0, 1)

    @property
    def rooms(self) -> int:
        """Number of rooms; room r is in row r // columns and column r % columns."""
        return self.rows * self.columns

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of a room, from the middle of one wall to that of the next."""
        return (HIGH - LOW) / self.columns, (HIGH - LOW) / self.rows

    @cached_property
    def neighbours(self) -> Int[np.ndarray, "walls 2"]:
        """The rooms on both sides of each inner wall: the left or the upper one first."""
        room = np.arange(self.rooms).reshape(self.rows, self.columns)
        beside = np.stack([room[:, :-1].ravel(), room[:, 1:].ravel()], 1)
        return np.concatenate([beside, np.stack([room[:-1].ravel(), room[1:].ravel()], 1)])

    @property
    def upright(self) -> int:
        """The first so many walls stand between columns, the others between rows."""
        return self.rows * (self.columns - 1)


@dataclass(frozen=True, eq=False)
class Maze:
    """Many mazes of one size: which walls have a door, and where along the wall (in pixels of the picture) its middle is."""

    config: MazeConfig
    open: Bool[np.ndarray, "worlds walls"]
    door: Float[np.ndarray, "worlds walls"]

    def __len__(self) -> int:
        return len(self.open)

    def __getitem__(self, worlds: NDArray | slice) -> Maze:
        return Maze(self.config, self.open[worlds], self.door[worlds])

    @cached_property
    def walls(self) -> list[Rectangle]:
        """Two rectangles a wall, before and after its door; without a door they meet."""
        config, found = self.config, []
        width, height = config.size
        for wall, second in enumerate(config.neighbours[:, 1]):
            row, column = divmod(int(second), config.columns)
            half = np.where(self.open[:, wall], config.door, 0)
            before, after = self.door[:, wall] - half, self.door[:, wall] + half
            along, across = (height, width) if wall < config.upright else (width, height)
            at, start = (column, row) if wall < config.upright else (row, column)
            near, far = LOW + at * across - THICKNESS / 2, LOW + at * across + THICKNESS / 2
            # Beyond the outer walls, along whose line dots slide.
            low, high = LOW + start * along - THICKNESS / 2, LOW + (start + 1) * along + THICKNESS / 2
            for begin, end in ((low, before), (after, high)):
                found.append((near, far, begin, end) if wall < config.upright else (begin, end, near, far))
        return found

    @cached_property
    def drawn(self) -> UInt8[np.ndarray, "worlds 65 65"]:
        """The walls as a picture: 255 where one stands."""
        grid = np.arange(SIDE, dtype=np.float32)
        outer, within = (grid == LOW) | (grid == HIGH), (grid >= LOW) & (grid <= HIGH)
        solid = np.broadcast_to(outer[:, None] | outer[None, :], (len(self), SIDE, SIDE)).copy()
        for wall in self.walls:
            left, right, low, high = (np.broadcast_to(bound, len(self))[:, None] for bound in wall)
            rows, columns = (within & (grid >= start) & (grid <= end) for start, end in ((low, high), (left, right)))
            solid |= rows[:, :, None] & columns[:, None, :]
        return np.uint8(255) * solid

    @cached_property
    def steps(self) -> Int[np.ndarray, "worlds rooms rooms"]:
        """Doors on the shortest way from a room to another (Floyd and Warshall)."""
        rooms = self.config.rooms
        steps = np.full((len(self), rooms, rooms), rooms, dtype=np.int64)
        steps[:, np.arange(rooms), np.arange(rooms)] = 0
        for wall, (first, second) in enumerate(self.config.neighbours):
            steps[:, first, second] = steps[:, second, first] = np.where(self.open[:, wall], 1, rooms)
        for room in range(rooms):
            steps = np.minimum(steps, steps[:, :, [room]] + steps[:, [room], :])
        return steps

    def room(self, places: Points) -> Int[np.ndarray, "worlds"]:
        """The room each dot is in; on a wall's line, the one to the right or below."""
        cell = ((places - LOW) / self.config.size).astype(np.int64)
        cell = np.clip(cell, 0, (self.config.columns - 1, self.config.rows - 1))
        return cell[:, 1] * self.config.columns + cell[:, 0]


def draw_mazes(config: MazeConfig, draws: Draws) -> Maze:
    """A maze for each of the streams."""
    worlds, neighbours = len(draws), config.neighbours
    if config.layout is not None:
        one = draw_mazes(_own(config), Draws(config.layout, "maze", 0, [0]))
        return Maze(config, one.open.repeat(worlds, 0), one.door.repeat(worlds, 0))
    weight = draws.uniform(len(neighbours))
    opened = draws.uniform(len(neighbours)) < config.loops
    joined = np.zeros((worlds, config.rooms), dtype=bool)
    joined[:, 0] = True
    for _ in range(config.rooms - 1):  # Prim's tree: the lightest wall between a room that is joined and one that is not
        frontier = joined[:, neighbours[:, 0]] != joined[:, neighbours[:, 1]]
        wall = np.where(frontier, weight, np.inf).argmin(1)
        opened[np.arange(worlds), wall] = True
        joined[np.arange(worlds)[:, None], neighbours[wall]] = True
    start = np.where(
        np.arange(len(neighbours)) < config.upright, neighbours[:, 1] // config.columns, neighbours[:, 1] % config.columns
    )
    length = np.where(np.arange(len(neighbours)) < config.upright, config.size[1], config.size[0])
    room = length / 2 - THICKNESS / 2 - MARGIN - config.door
    door = LOW + (start + 0.5) * length + (2 * draws.uniform(len(neighbours)) - 1) * room
    return Maze(config, opened, door)


def _own(config: MazeConfig) -> MazeConfig:
    return MazeConfig(rows=config.rows, columns=config.columns, loops=config.loops, door=config.door)


def draw_places(maze: Maze, draws: Draws, rooms: Int[np.ndarray, "worlds"]) -> Points:
    """A place in the given room of each world, uniform over its area."""
    size = np.array(maze.config.size)
    row, column = np.divmod(rooms, maze.config.columns)
    inner = size - THICKNESS - 2 * MARGIN
    return LOW + (np.stack([column, row], 1) + 0.5) * size + (draws.uniform(2) - 0.5) * inner


def draw_task(maze: Maze, draws: Draws, far: bool = True) -> tuple[Points, Points]:
    """Start and goal: in two rooms that lie as far apart as any two (in doors), or (`far` False) in any two rooms."""
    steps, rooms = maze.steps, maze.config.rooms
    asked = steps == steps.max((1, 2), keepdims=True) if far else steps > 0
    chosen = np.where(asked.reshape(len(maze), -1), draws.uniform(rooms * rooms), -1).argmax(1)
    start, goal = np.divmod(chosen, rooms)
    return draw_places(maze, draws, start), draw_places(maze, draws, goal)


def move(maze: Maze, places: Points, actions: Points) -> Points:
    """Where the dots are after `actions` (dx, dy): as far along the way as no wall is met."""
    return stopped_move(places, actions, maze.walls)


def towards(maze: Maze, places: Points, room: Int[np.ndarray, "worlds"]) -> Points:
    """The way to a point in a neighbouring room: to the front of the door, and from there through it."""
    config, here = maze.config, maze.room(places)
    # Asked for no neighbour, the first wall: a way of no meaning.
    pair = np.stack([np.minimum(here, room), np.maximum(here, room)], 1)
    wall = (config.neighbours[None] == pair[:, None]).all(2).argmax(1)
    door = maze.door[np.arange(len(maze)), wall]
    out, upright = np.where(room > here, 1.0, -1.0), wall < config.upright
    across, along = np.where(upright, 0, 1), np.where(upright, 1, 0)
    world = np.arange(len(maze))
    second = config.neighbours[wall, 1]
    at = LOW + np.where(upright, second % config.columns, second // config.columns) * np.where(upright, *config.size)
    before = np.abs(places[world, along] - door) > config.door - 1.5
    target = np.empty((len(maze), 2))
    target[world, along] = door
    target[world, across] = at + out * np.where(before, -1, 1) * (THICKNESS / 2 + 1)
    return target - places


def guide(maze: Maze, places: Points, goals: Points, most: float = MOST) -> Points:
    """What somebody who knows the map does next: straight to a goal in the same room, else to the next door on the shortest
    way. Out of a door's frame it goes straight, so that no wall stops it."""
    config, here, there = maze.config, maze.room(places), maze.room(goals)
    steps = maze.steps[np.arange(len(maze)), :, there]  # from each room to the goal's
    beside = maze.steps[np.arange(len(maze)), here] == 1
    onward = np.where(beside, steps, config.rooms + 1).argmin(1)
    away = here != there
    way = np.where(away[:, None], towards(maze, places, np.where(away, onward, here)), goals - places)
    size = config.size
    step = np.stack([onward % config.columns - here % config.columns, onward // config.columns - here // config.columns], 1)
    for axis, count in enumerate((config.columns, config.rows)):
        line = np.rint((places[:, axis] - LOW) / size[axis])
        off = places[:, axis] - LOW - line * size[axis]
        framed = (line > 0) & (line < count) & (np.abs(off) < THICKNESS / 2 + 0.5)
        leaving = framed & ~(away & (step[:, axis] * off < 0))
        way[leaving, axis], way[leaving, 1 - axis] = np.where(off >= 0, most, -most)[leaving], 0
    return shortened(way, most)


def picture(
    maze: Maze, places: Points, draws: Draws | None = None
) -> UInt8[np.ndarray, "worlds 2 65 65"]:
    """The dots and the walls, as pixels; one maze serves all the places. draws: the streams of the flicker."""
    seen = np.empty((len(places), 2, SIDE, SIDE), dtype=np.uint8)
    seen[:, 0] = dots(places, maze.config.dot, maze.config.brightness)
    seen[:, 1] = maze.drawn
    return flickered(seen, maze.config.flicker, draws)
