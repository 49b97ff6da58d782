"""Minigrid with goals: an agent on a grid that turns left, turns right or goes forward (`minigrid`, Apache-2.0).

The whole grid is observed, in 0 and 1: where walls are, where the agent is, which way it looks. Actions are a choice of three,
so models are planned in by tree search.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.errors import missing_extra
from jepakit.worlds.goals import WithGoal

try:
    from minigrid.envs import EmptyEnv, FourRoomsEnv
    from minigrid.minigrid_env import MiniGridEnv
except ImportError as error:
    raise missing_extra("minigrid", "minigrid", "Minigrid") from error

LEFT, RIGHT, FORWARD = range(3)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # to where it looks: right, down, left, up


class _Walk(MiniGridEnv):
    """What both grids share. Observations `[2 cells + 4]`: walls, agent (columns one after the other), direction one-hot."""

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self.observation_space = spaces.Box(0, 1, (2 * self.width * self.height + 4,), np.float32)
        self.action_space = spaces.Discrete(3)

    def gen_obs(self) -> NDArray[np.float32]:
        return self.seen_from(self.agent_pos, int(self.agent_dir))

    def seen_from(self, cell: Any, direction: int) -> NDArray[np.float32]:
        """What would be observed with the agent in this cell."""
        agent, looks = np.zeros((self.width, self.height)), np.zeros(4)
        agent[tuple(cell)], looks[direction] = 1, 1
        return np.concatenate([self.walls().ravel(), agent.ravel(), looks]).astype(np.float32)

    def walls(self) -> NDArray[np.bool_]:
        """Where no agent can be, `[column, row]`."""
        cells = [self.grid.get(x, y) for x in range(self.width) for y in range(self.height)]
        return np.array([cell is not None and not cell.can_overlap() for cell in cells]).reshape(self.width, self.height)

    def goal_cell(self) -> tuple[int, int]:
        """Where the goal lies."""
        cells = ((x, y) for x in range(self.width) for y in range(self.height))
        return next(cell for cell in cells if getattr(self.grid.get(*cell), "type", None) == "goal")

    def oracle_action(self) -> np.int64:
        """The first of the fewest actions to the goal."""
        walls, goal = self.walls(), self.goal_cell()
        start = (*(int(number) for number in self.agent_pos), int(self.agent_dir))
        first, waiting = {start: LEFT}, deque([start])
        while waiting:
            x, y, looks = place = waiting.popleft()
            if (x, y) == goal:
                return np.int64(first[place])
            ahead = (x + STEPS[looks][0], y + STEPS[looks][1], looks)
            after = {LEFT: (x, y, (looks - 1) % 4), RIGHT: (x, y, (looks + 1) % 4), FORWARD: ahead}
            for action, reached in after.items():
                if reached not in first and not walls[reached[:2]]:
                    first[reached] = action if place == start else first[place]
                    waiting.append(reached)
        return np.int64(LEFT)


class Empty(_Walk, EmptyEnv):
    """A room of 4 x 4 cells; the start is drawn."""

    def __init__(self, render_mode: str | None = None):
        super().__init__(size=6, agent_start_pos=None, render_mode=render_mode)


class FourRooms(_Walk, FourRoomsEnv):
    """Four rooms on a grid of 19 x 19; doors, start and goal are drawn."""

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode=render_mode)


def minigrid(rooms: int = 1, render_mode: str | None = None) -> WithGoal:
    """The goal is the agent in the goal's cell, looking right; success, to be in that cell, which ends the episode."""
    environment = FourRooms(render_mode) if rooms == 4 else Empty(render_mode)
    return WithGoal(environment, _goal, 0.5, state=lambda env: np.array(env.agent_pos, dtype=np.float32))


def _goal(environment: _Walk, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    cell = environment.goal_cell()
    return environment.seen_from(cell, 0), np.array(cell, dtype=np.float32)
