"""A dot among walls, in pixels: what the worlds of rooms share. How far a move gets, and how dot and flicker look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.randomness import Draws

SIDE = 65  # pixels
LOW, HIGH = 4.0, 60.0  # where the outer walls stand
THICKNESS = 3.0  # of an inner wall
MOST = 2.45  # pixels of a move (EB-JEPA's planner)
GAP = 1e-3  # pixels that a stopped dot stays before a wall

Points = Float[np.ndarray, "worlds 2"]
Rectangle = tuple[Any, Any, Any, Any]  # left, right, low, high: each a number, or one for each world


def stopped_move(places: Points, actions: Points, walls: Sequence[Rectangle]) -> Points:
    """Where dots are after `actions` (dx, dy): as far along the way as no wall is met; along the outer walls they slide."""
    goal = np.clip(places + actions, LOW, HIGH)
    way = goal - places
    free = np.ones(len(places))
    for wall in walls:
        free = np.minimum(free, _entry(places, way, *wall))
    length = np.hypot(way[:, 0], way[:, 1])
    stopped = free < 1
    free = np.where(stopped, np.maximum(free - GAP / np.maximum(length, GAP), 0), 1.0)
    return places + free[:, None] * way


def _entry(places: Points, way: Points, left: Any, right: Any, low: Any, high: Any) -> NDArray[np.float64]:
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


def shortened(ways: Points, most: float = MOST) -> Points:
    """Moves of at most this length in the same directions."""
    length = np.maximum(np.hypot(ways[:, 0], ways[:, 1]), 1e-9)
    return ways * np.minimum(1.0, most / length)[:, None]


def dots(places: Points, deviation: float, brightness: float) -> Float[np.ndarray, "worlds 65 65"]:
    """A Gaussian blob at each place, up to 255 bright."""
    grid = np.arange(SIDE, dtype=np.float32)
    x, y = (np.exp(-((grid - places[:, [axis]].astype(np.float32)) ** 2) / (2 * deviation**2)) for axis in (0, 1))
    return (255 * brightness * y[:, :, None]) * x[:, None, :]


def flickered(
    pictures: UInt8[np.ndarray, "worlds 2 65 65"], flicker: float, draws: Draws | None
) -> UInt8[np.ndarray, "worlds 2 65 65"]:
    """With a background of 8 x 8 patches, each up to `flicker` of full brightness, where nothing brighter is."""
    if not flicker:
        return pictures
    if draws is None:
        raise UserError("picture: a flickering background needs draws, a stream for each picture.")
    patches = 255 * flicker * draws.uniform(2, 9, 9)
    noise = patches.astype(np.uint8).repeat(8, axis=2).repeat(8, axis=3)[:, :, :SIDE, :SIDE]
    return np.maximum(pictures, noise, out=pictures)


def coloured(seen: UInt8[np.ndarray, "2 65 65"], goal: UInt8[np.ndarray, "2 65 65"]) -> UInt8[np.ndarray, "260 260 3"]:
    """For people: the dot in white, the walls in grey, the goal's dot in green, four times as large."""
    grey = seen[0] | seen[1] // 2
    return np.stack([grey, grey | goal[0], grey], axis=2).repeat(4, axis=0).repeat(4, axis=1)


class DrawnFrames:
    """The pictures of all steps of all episodes, `[steps, 2, 65, 65]`, each drawn when it is asked for: kept, they would take
    8 kB a step.

    draw: `draw(worlds, places, draws=...)` makes the pictures; it pickles. worlds: of the episodes, chosen by index.
    places: `[episodes, steps, 2]`. Where there is flicker, each picture is given its stream of it.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, draw: Callable[..., NDArray], worlds: Any, places: NDArray, flicker: float, seed: int):
        self._draw, self._worlds, self._places, self._flicker, self._seed = draw, worlds, places, flicker, seed
        self.shape = (places.shape[0] * places.shape[1], 2, SIDE, SIDE)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, steps: Any) -> UInt8[np.ndarray, "*chosen 2 65 65"]:
        chosen = np.arange(len(self))[steps]
        flat = np.atleast_1d(chosen)
        episode, step = np.divmod(flat, self._places.shape[1])
        worlds = self._worlds[episode[:1]] if (episode == episode[0]).all() else self._worlds[episode]
        draws = Draws(self._seed, "flicker", 0, flat) if self._flicker else None
        drawn = self._draw(worlds, self._places[episode, step], draws=draws)
        return drawn if np.ndim(chosen) else drawn[0]
