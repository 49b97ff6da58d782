"""The reacher of Gymnasium with a goal to plan for: an arm of two links that is to bring its fingertip to a place.

Gymnasium's own observation holds the target, which no action moves, and the way to it: a world model would learn what never
changes. Here the arm alone is observed, and the goal is the arm as it would stand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from jaxtyping import UInt8
from numpy.typing import NDArray

from jepakit.worlds.goals import WithGoal

NEAR = 0.02  # metres between the fingertips; the arm reaches .21
HOLD = 5  # steps, .1 s: for so long it must have been near
LINKS = (0.1, 0.11)  # metres (reacher.xml)
STRENGTH = 0.2  # of the motors of Reacher-v5, whose full torque speeds an arm up by 200 rad/s within a second
SIDE, THICKNESS = 32, 0.018  # pixels of a picture's side; metres, half of a drawn link's width
BEND = 2.8  # rad to which the elbow is bent at most at start and goal; its limit is 3


class Reacher(ReacherEnv):
    """Observations (cos, cos, sin, sin of shoulder and elbow, their velocities in rad/s, x, y of the fingertip in m), or a
    picture of each link, 32 x 32, without velocity.

    Actions are torques of shoulder and elbow, from -1 to 1, of which a fifth of Gymnasium's is made: random ones then move the
    arm as fast as is of use.
    """

    state_names = (
        "cos shoulder", "cos elbow", "sin shoulder", "sin elbow", "shoulder velocity", "elbow velocity", "fingertip x",
        "fingertip y",
    )  # fmt: skip

    def __init__(self, render_mode: str | None = None, pixels: bool = False):
        self.pixels = pixels
        super().__init__(render_mode=render_mode)
        self.observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float32)
        if pixels:
            self.observation_space = spaces.Box(0, 255, (2, SIDE, SIDE), np.uint8)

    def reset_model(self) -> NDArray:
        """At rest, with joints drawn uniformly."""
        joints = draw_joints(self.np_random)
        self.set_state(np.concatenate([joints, self.init_qpos[2:]]), np.zeros(self.model.nv))
        self.aim(joints)
        return self._get_obs()

    def aim(self, joints: NDArray) -> None:
        """The joints that `oracle_action` steers to; the target is drawn where the fingertip then is."""
        self.joints = joints
        position = np.concatenate([self.data.qpos[:2], fingertip(joints)])
        self.set_state(position, self.data.qvel.copy())

    def step(self, action: NDArray) -> tuple[NDArray, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(STRENGTH * np.clip(action, -1, 1))
        return observation, float(reward), terminated, truncated, info

    def oracle_action(self) -> NDArray[np.float32]:
        """A spring and a damper on each joint; the shoulder takes the shorter way."""
        turn = self.joints - self.data.qpos[:2]
        turn[0] = (turn[0] + np.pi) % (2 * np.pi) - np.pi
        return np.clip(3 * turn - 0.45 * self.data.qvel[:2], -1, 1).astype(np.float32)

    def _get_obs(self) -> NDArray:
        return draw_arm(self.data.qpos[:2]) if self.pixels else self.true_state()

    def true_state(self) -> NDArray[np.float32]:
        """What is observed where no pictures are."""
        return observed(self.data.qpos[:2], self.data.qvel[:2])


def draw_joints(rng: np.random.Generator) -> NDArray[np.float64]:
    """Angles of shoulder and elbow, uniform."""
    return rng.uniform([-np.pi, -BEND], [np.pi, BEND])


def fingertip(joints: NDArray) -> NDArray[np.float64]:
    """(x, y) in metres."""
    first, second = joints[0], joints[0] + joints[1]
    return LINKS[0] * np.array([np.cos(first), np.sin(first)]) + LINKS[1] * np.array([np.cos(second), np.sin(second)])


def draw_arm(joints: NDArray) -> UInt8[np.ndarray, "2 side side"]:
    """A picture of each link, seen from above, so that an elbow bent back upon itself is still seen: white rods on black.

    A pixel's grey is how far the rod's edge lies beyond its centre, cut to one pixel: an edge moves smoothly.
    """
    centres = ((np.arange(SIDE) + 0.5) / SIDE * 2 - 1) * sum(LINKS) * 1.1
    here = np.stack(np.meshgrid(centres, -centres), axis=-1)
    elbow, tip = LINKS[0] * np.array([np.cos(joints[0]), np.sin(joints[0])]), fingertip(joints)
    picture = np.empty((2, SIDE, SIDE), dtype=np.uint8)
    for row, (begin, end) in enumerate([(np.zeros(2), elbow), (elbow, tip)]):
        way = end - begin
        along = np.clip((here - begin) @ way / (way @ way), 0, 1)
        distance = np.linalg.norm(here - begin - along[..., None] * way, axis=-1)
        grey = np.clip((THICKNESS - distance) / (centres[1] - centres[0]) + 0.5, 0, 1)
        picture[row] = np.round(255 * grey)
    return picture


def observed(joints: NDArray, velocities: NDArray) -> NDArray[np.float32]:
    """The observation of an arm that stands and moves like this."""
    return np.concatenate([np.cos(joints), np.sin(joints), velocities, fingertip(joints)]).astype(np.float32)


def reacher(render_mode: str | None = None, pixels: bool = False) -> WithGoal:
    """The goal is the arm at rest with joints drawn uniformly; success, a fingertip within 2 cm of its for the last .1 s."""
    environment = Reacher(render_mode, pixels)
    if not pixels:
        return WithGoal(environment, lambda *given: _draw(*given)[1], NEAR, distance=_apart, hold=HOLD)
    return WithGoal(environment, _draw, NEAR, distance=_apart, hold=HOLD, state=Reacher.true_state)


def _draw(environment: Reacher, rng: np.random.Generator) -> tuple[NDArray, NDArray[np.float32]]:
    """The goal as a picture and as a state."""
    joints = draw_joints(rng)
    environment.aim(joints)
    return draw_arm(joints), observed(joints, np.zeros(2))


def _apart(state: NDArray, goal_state: NDArray) -> float:
    return float(np.hypot(*(state[6:] - goal_state[6:])))
