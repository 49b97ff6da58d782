import builtins

import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.modalities.trajectories.built_in.pendulum import LONGEST_TORQUE, draw_pendulum, held_torque, pendulum_episodes

pytest.importorskip("gymnasium")


def test_states_follow_the_equation_of_motion():
    """theta'' = 3 g / (2 l) sin theta + 3 u / (m l^2) with g 10, l = m = 1, by semi-implicit Euler steps of 0.05 s."""
    episodes = pendulum_episodes(pixels=False, episodes=4, steps=30)
    states, torque = episodes.states.reshape(4, 30, 3), episodes.actions.reshape(4, 30)
    angle, velocity = np.arctan2(states[..., 1], states[..., 0]), states[..., 2]
    expected = velocity[:, :-1] + (15 * np.sin(angle[:, :-1]) + 3 * torque[:, :-1]) * 0.05
    np.testing.assert_allclose(velocity[:, 1:], np.clip(expected, -8, 8), atol=1e-4)
    turned = np.angle(np.exp(1j * (angle[:, 1:] - angle[:, :-1] - 0.05 * velocity[:, 1:])))
    np.testing.assert_allclose(turned, 0, atol=1e-4)
    assert episodes.starts.tolist() == [0, 30, 60, 90, 120]


def test_episodes_are_a_function_of_the_seed():
    one, again, other = (pendulum_episodes(pixels=False, seed=seed, episodes=3, steps=8) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.observations, again.observations)
    np.testing.assert_array_equal(one.actions, again.actions)
    assert np.abs(one.observations - other.observations).mean() > 0.1


def test_torque_is_held_for_a_while():
    torque = held_torque(0, 50, 64)[..., 0]
    assert np.abs(torque).max() <= 2
    same = torque[:, 1:] == torque[:, :-1]
    runs = 64 / (1 + (~same).sum(1))
    assert 3 < runs.mean() < LONGEST_TORQUE


def test_the_picture_is_the_rod():
    """Its centre of mass lies half way along the rod, and its grey is the rod's area, at every angle."""
    angle = np.linspace(0, 2 * np.pi, 25, dtype=np.float32)
    pictures = draw_pendulum(np.cos(angle), np.sin(angle))[:, 0] / 255
    places = (np.arange(32) + 0.5) / 16 - 1
    mass = pictures.sum((1, 2))
    right, up = (pictures.sum(1) @ places) / mass, -(pictures.sum(2) @ places) / mass
    np.testing.assert_allclose(right, -0.4 * np.sin(angle), atol=0.01)
    np.testing.assert_allclose(up, 0.4 * np.cos(angle), atol=0.01)
    area = (2 * 0.12 * 0.8 + np.pi * 0.12**2) * 256
    np.testing.assert_allclose(mass, area, rtol=0.04)  # a grey by distance is no exact share of the pixel
    assert pictures.max() == 1
    assert ((pictures > 0) & (pictures < 1)).any()


def test_a_small_turn_moves_grey_a_little():
    pictures = draw_pendulum(*(f(np.array([0.5, 0.52], dtype=np.float32)) for f in (np.cos, np.sin))).astype(float)
    assert 0 < np.abs(pictures[0] - pictures[1]).max() < 128


def test_without_gymnasium_the_extra_is_named(monkeypatch):
    found = builtins.__import__

    def refuse(name, *rest, **options):
        if name == "gymnasium":
            raise ImportError(name)
        return found(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'jepakit\[worlds\]'"):
        pendulum_episodes(pixels=False)
