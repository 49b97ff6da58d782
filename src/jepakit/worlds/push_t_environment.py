"""Push-T with goals: an agent, a disc, that pushes a block shaped like a T to where it is to lie (`gym-pusht`, Apache-2.0).

Goals are those of the literature on world models (DINO-WM, LeWorldModel): what somebody reaches from the same start within 2.5
seconds, so that every goal can be reached. Here that is the heuristic, which pushes at random; a goal is one at which the block
has moved by more than success allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.errors import missing_extra
from jepakit.worlds.goals import WithGoal

try:
    from gym_pusht.envs.pusht import PushTEnv
except ImportError as error:
    raise missing_extra("gym-pusht", "push-t", "Push-T") from error

SIDE = 512.0  # pixels of the table
REACH = 100.0  # pixels: an action of 1 asks the agent to be so far from where it is (DINO-WM)
AHEAD = 25  # steps of .1 s from the start to the goal (DINO-WM)
NEAR, TURN = 20.0, np.pi / 9  # pixels and rad: success (DINO-WM)


class PushT(PushTEnv):
    """Observations (x, y of the agent, x, y of the block, cos, sin of its angle), in pixels of a table of 512 x 512.

    Actions are where the agent shall be, from where it is, from -1 to 1 in 100 pixels; `gym-pusht`'s are places on the table.
    Nothing ends an episode but its length.
    """

    state_names = ("agent x", "agent y", "block x", "block y", "cos angle", "sin angle")
    _aim: NDArray | None
    moves: list[NDArray[np.float32]]

    def __init__(self, render_mode: str = "rgb_array"):
        super().__init__(obs_type="state", render_mode=render_mode)
        low, high = np.array([0, 0, 0, 0, -1, -1]), np.array([SIDE, SIDE, SIDE, SIDE, 1, 1])
        self.observation_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict[str, Any]]:
        _, info = super().reset(seed=seed, options=options)
        self._begin()
        self._draw_goal(self.np_random)
        return self.get_obs(), info

    def step(self, action: NDArray) -> tuple[NDArray, float, bool, bool, dict[str, Any]]:
        asked = np.array(self.agent.position) + REACH * np.clip(np.asarray(action, dtype=np.float64), -1, 1)
        observation, reward, _, truncated, info = super().step(np.clip(asked, 0, SIDE))
        self.clock_steps += 1
        return observation, float(reward), False, truncated, info

    def heuristic_action(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Towards the block, past its middle, or now and then anywhere: it moves the block in two of five steps."""
        if self._aim is None or rng.random() < 0.15:
            near_block = np.array(self.block.position) + rng.normal(0, 40, 2)
            self._aim = near_block if rng.random() < 0.75 else rng.uniform(50, SIDE - 50, 2)
        way = (self._aim - np.array(self.agent.position)) / REACH
        length = max(float(np.hypot(*way)), 1e-6)
        way = way * min(1.0, 0.6 / length) if length > 0.2 else rng.normal(0, 0.3, 2)
        return np.clip(way + rng.normal(0, 0.1, 2), -1, 1).astype(np.float32)

    def oracle_action(self) -> NDArray[np.float32]:
        """Does again what led to the goal, and stays there."""
        if self.clock_steps < len(self.moves):
            return self.moves[self.clock_steps]
        way = (self.target[:2] - np.array(self.agent.position)) / REACH
        return np.clip(way, -1, 1).astype(np.float32)

    def _draw_goal(self, rng: np.random.Generator) -> None:
        """What the heuristic reaches from here; afterwards the table is as it was before."""
        start = np.array([*self.agent.position, *self.block.position, self.block.angle])
        for _ in range(50):
            self._placed(start)
            begun, moves = self.get_obs(), []
            for _ in range(AHEAD):
                moves.append(self.heuristic_action(rng))
                reached = self.step(moves[-1])[0]
            # Of the block alone: an agent that merely walked is no task.
            if apart(np.concatenate([reached[:2], begun[2:]]), reached) > 1:
                break
        angle = self.block.angle
        self._placed(start)
        self.goal_pose = np.array([*reached[2:4], angle])
        self.moves, self.target = moves, reached

    def get_obs(self) -> NDArray[np.float32]:
        angle = self.block.angle
        return np.array([*self.agent.position, *self.block.position, np.cos(angle), np.sin(angle)], dtype=np.float32)

    def _placed(self, state: NDArray) -> None:
        super().reset(options={"reset_to_state": state})
        self._begin()

    def _begin(self) -> None:
        self._aim = None
        self.clock_steps = 0
        self.moves = []
        self.target = self.get_obs()


def apart(state: NDArray, goal_state: NDArray) -> float:
    """The larger of two: pixels between agents and blocks together in parts of 20, and the angle in parts of pi / 9."""
    turn = np.arctan2(state[5], state[4]) - np.arctan2(goal_state[5], goal_state[4])
    angle = abs((turn + np.pi) % (2 * np.pi) - np.pi)
    return float(max(np.linalg.norm(state[:4] - goal_state[:4]) / NEAR, angle / TURN))


def push_t(render_mode: str = "rgb_array") -> WithGoal:
    """The goal is what 25 random pushes reach; success, to have agent and block within 20 pixels (the norm of both) and the
    block within pi / 9 of it."""
    return WithGoal(PushT(render_mode), lambda environment, _: environment.target, 1.0, distance=apart)
