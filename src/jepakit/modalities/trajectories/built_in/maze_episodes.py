"""Episodes of wanderers in mazes, as training data."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from jepakit.modalities.trajectories.built_in.maze import Maze, MazeConfig, draw_mazes, draw_places, move, picture, towards
from jepakit.modalities.trajectories.built_in.walls import DrawnFrames, Points
from jepakit.modalities.trajectories.episodes import Episodes
from jepakit.randomness import Draws

LOST = 0.05  # chance in a step that a wanderer changes its mind
DOORS = 0.7  # and then of making for a door, instead of walking about


class Wanderers:
    """Walk about with a slowly turning heading, and now and then make for a door and through it.

    Heading and step are those of Two Rooms (EB-JEPA's). maze: of n worlds; draws: a stream for each.
    """

    def __init__(self, maze: Maze, draws: Draws):
        self.maze, self.draws = maze, draws
        self.heading = draws.uniform(1, high=2 * np.pi)[:, 0]
        self.aim: Int[np.ndarray, "worlds"] = np.full(len(maze), -1)  # the room made for, -1 where none

    def actions(self, places: Points) -> Points:
        """The next move of each."""
        maze, draws, here = self.maze, self.draws, self.maze.room(places)
        self.aim = np.where(self.aim == here, -1, self.aim)
        lost = draws.uniform(1)[:, 0] < LOST
        beside = maze.steps[np.arange(len(maze)), here] == 1
        neighbour = np.where(beside, draws.uniform(maze.config.rooms), -1).argmax(1)
        self.aim = np.where(lost, np.where(draws.uniform(1)[:, 0] < DOORS, neighbour, -1), self.aim)
        reachable = (self.aim >= 0) & beside[np.arange(len(maze)), np.maximum(self.aim, 0)]
        way = towards(maze, places, np.where(reachable, self.aim, neighbour))
        turn = np.sqrt(0.2) * draws.normal(1)[:, 0]
        self.heading = np.where(reachable, np.arctan2(way[:, 1], way[:, 0]), self.heading) + turn
        length = np.clip(1.0 + 0.4 * draws.normal(1)[:, 0], 0.2, 1.8)
        return length[:, None] * np.stack([np.cos(self.heading), np.sin(self.heading)], axis=1)


def maze_episodes(
    config: MazeConfig | None = None, seed: int = 0, episodes: int = 3_000, steps: int = 91
) -> Episodes:
    """Pictures of wanderers; a function of the seed. States are (x, y) of the dot in pixels."""
    config = config or MazeConfig()
    maze, places, actions = wander(config, seed, episodes, steps)
    states = places.reshape(-1, 2).astype(np.float32)
    return Episodes(
        DrawnFrames(picture, maze, places, config.flicker, seed), actions.reshape(-1, 2).astype(np.float32), states,
        np.arange(episodes + 1) * steps, state_names=("x", "y"),
    )  # fmt: skip


def wander(
    config: MazeConfig, seed: int, episodes: int, steps: int
) -> tuple[Maze, Float[np.ndarray, "episodes steps 2"], NDArray[np.float64]]:
    """Mazes, places and actions (the last of an episode is unused) of wanderers that start anywhere. Inertia is left out."""
    draws = Draws(seed, "maze", 0, np.arange(episodes))
    maze = draw_mazes(config, draws)
    places, actions = np.empty((episodes, steps, 2)), np.zeros((episodes, steps, 2))
    places[:, 0] = draw_places(maze, draws, draws.integers(config.rooms, 1)[:, 0])
    wanderers = Wanderers(maze, draws)
    for t in range(steps - 1):
        actions[:, t] = wanderers.actions(places[:, t])
        places[:, t + 1] = move(maze, places[:, t], actions[:, t])
    return maze, places, actions
