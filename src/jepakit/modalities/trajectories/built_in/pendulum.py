"""The built-in trajectories: gymnasium's Pendulum-v1 under random torque, as numbers or drawn small."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from jepakit.errors import missing_extra
from jepakit.modalities.trajectories.episodes import Episodes
from jepakit.randomness import Draws, derive_seed

ROD = 0.8  # length and width of the rod, in halves of the picture's side
WIDTH = 0.12
LONGEST_TORQUE = 8  # steps
STATE_NAMES = ("cos angle", "sin angle", "velocity")


def pendulum_episodes(pixels: bool, seed: int = 0, episodes: int = 200, steps: int = 64) -> Episodes:
    """Episodes of 0.05 s a step that begin at a random angle; a function of the seed.

    Observations are (cos, sin, angular velocity in rad/s), or pictures of 32 x 32 in which no velocity is seen; actions the
    torque in N m, from -2 to 2, held for 1 to 8 steps so that it moves something; states (cos, sin, velocity).

    Errors: gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise missing_extra("gymnasium", "worlds", "The built-in pendulum") from error
    torque = held_torque(seed, episodes, steps)
    states = np.empty((episodes, steps, 3), dtype=np.float32)
    environment = gymnasium.make("Pendulum-v1").unwrapped  # without the wrappers' checks: ten times faster
    for episode in range(episodes):
        states[episode, 0], _ = environment.reset(seed=derive_seed(seed, "pendulum", episode) % 2**31)
        for t in range(steps - 1):
            states[episode, t + 1] = environment.step(torque[episode, t])[0]
    flat = states.reshape(-1, 3)
    observations = draw_pendulum(flat[:, 0], flat[:, 1]) if pixels else flat
    starts = np.arange(episodes + 1) * steps
    return Episodes(observations, torque.reshape(-1, 1), flat, starts, state_names=STATE_NAMES)


def held_torque(seed: int, episodes: int, steps: int) -> Float[np.ndarray, "episodes steps 1"]:
    """Uniform torques, each held for a random number of steps."""
    draws = Draws(seed, "torque", 0, np.arange(episodes))
    values, lengths = draws.uniform(steps, low=-2.0, high=2.0), 1 + draws.integers(LONGEST_TORQUE, steps)
    ends = np.cumsum(lengths, axis=1)
    number = (ends[:, None, :] <= np.arange(steps)[None, :, None]).sum(-1)
    return np.take_along_axis(values, number, axis=1)[..., None].astype(np.float32)


def draw_pendulum(
    cos: NDArray[np.float32], sin: NDArray[np.float32], size: int = 32
) -> UInt8[np.ndarray, "n 1 size size"]:
    """A white rod on black, turning around the middle; upright at angle 0, counter-clockwise as the angle grows.

    A pixel's grey is how far the rod's edge lies beyond its centre, cut to one pixel: an edge moves smoothly.
    """
    centres = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = centres[None, None, :], -centres[None, :, None]
    pictures = np.empty((len(cos), 1, size, size), dtype=np.uint8)
    for start in range(0, len(cos), 1024):
        part = slice(start, start + 1024)
        tip_x, tip_y = -sin[part, None, None], cos[part, None, None]
        along = np.clip(x * tip_x + y * tip_y, 0, ROD)
        distance = np.hypot(x - along * tip_x, y - along * tip_y)
        grey = np.clip((WIDTH - distance) * size / 2 + 0.5, 0, 1)
        pictures[part, 0] = np.round(255 * grey).astype(np.uint8)
    return pictures
