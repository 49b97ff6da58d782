"""The pendulum of Gymnasium with a goal: swing it up, and hold it there."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from numpy.typing import NDArray

from jepakit.modalities.trajectories.built_in.pendulum import STATE_NAMES, draw_pendulum
from jepakit.worlds.goals import WithGoal

NEAR = 0.2  # rad from upright: closer is near the goal
HOLD = 20  # steps, 1 s: for so long it must have been near
KEPT = 0.2  # chance that a random torque is drawn anew in a step


class Pendulum(PendulumEnv):
    """`Pendulum-v1` with ways to act. Observations (cos, sin, velocity in rad/s), or pictures of 32 x 32 without velocity."""

    state_names = STATE_NAMES

    def __init__(self, render_mode: str | None = None, pixels: bool = False):
        super().__init__(render_mode)
        self.pixels = pixels
        if pixels:
            self.observation_space = spaces.Box(0, 255, (1, 32, 32), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict[str, Any]]:
        self._torque: float | None = None
        return super().reset(seed=seed, options=options)

    def heuristic_action(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random torque, kept for five steps in the mean: drawn anew in each step it would move nothing."""
        if self._torque is None or rng.random() < KEPT:
            self._torque = float(rng.uniform(-self.max_torque, self.max_torque))
        return np.array([self._torque], dtype=np.float32)

    def oracle_action(self) -> NDArray[np.float32]:
        """Pumps energy until it is that of standing upright (Åström and Furuta, 2000), then balances."""
        angle, velocity = (self.state[0] + np.pi) % (2 * np.pi) - np.pi, self.state[1]
        if abs(angle) < 0.5 and abs(10 * angle + 3 * velocity) < 3:
            torque = -(10 * angle + 3 * velocity)
        else:
            energy = velocity**2 / 2 + 15 * (np.cos(angle) - 1)  # upright and at rest: 0
            torque = -np.sign(velocity or 1.0) * np.sign(energy) * self.max_torque * min(1.0, abs(energy))
        return np.array([np.clip(torque, -self.max_torque, self.max_torque)], dtype=np.float32)

    def _get_obs(self) -> NDArray:
        seen = super()._get_obs()
        return draw_pendulum(seen[:1], seen[1:2])[0] if self.pixels else seen


def pendulum(render_mode: str | None = None, pixels: bool = False) -> WithGoal:
    """The goal is to be upright and at rest; success, to have been within 0.2 rad of upright for the last second."""
    upright = np.array([1, 0, 0], dtype=np.float32)
    environment = Pendulum(render_mode, pixels)
    if not pixels:
        return WithGoal(environment, upright, NEAR, distance=_angle, hold=HOLD)
    picture = draw_pendulum(upright[:1], upright[1:2])[0]
    return WithGoal(environment, lambda *_: (picture, upright), NEAR, distance=_angle, hold=HOLD, state=_state)


def _angle(state: NDArray, goal_state: NDArray) -> float:
    """Between the rods, in rad."""
    turn = np.arctan2(state[1], state[0]) - np.arctan2(goal_state[1], goal_state[0])
    return float(abs((turn + np.pi) % (2 * np.pi) - np.pi))


def _state(environment: Pendulum) -> NDArray:
    angle, velocity = environment.state
    return np.array([np.cos(angle), np.sin(angle), velocity], dtype=np.float32)
