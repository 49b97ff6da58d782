"""A goal for any Gymnasium environment: what is to be reached, how far it is, and whether it is reached now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, check_range, shown
from jepakit.randomness import derive_seed

Goal = NDArray | tuple[NDArray, NDArray]


def straight(state: NDArray, goal_state: NDArray) -> float:
    """Euclidean distance of two states."""
    return float(np.linalg.norm(np.asarray(state, dtype=np.float64) - goal_state))


class WithGoal(gymnasium.Wrapper):
    """Puts into `info` what agents here act by: "goal" (an observation), "goal_state", "state", "distance", "success".

    Args:
        env: any environment whose observations are a Box.
        goal: the observation to be reached, the same in every episode, or `goal(env.unwrapped, rng)`, called after each reset,
            which gives one. Where `state` is given the goal is a pair: observation and state.
        near: success is a distance below this.
        distance: of a state and a goal state; None: Euclidean.
        hold: so many steps in a row, the newest among them, must have been near.
        state: `state(env.unwrapped)`, the true state; None: the observation is the state.

    Goals are a function of the seed of the reset. `reset(options={"goal": observation})` (or a pair) sets one instead.

    Errors: a goal that is no observation of the environment: another shape, NaN or infinite; a pair where none is expected.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        goal: NDArray | Callable[[Any, np.random.Generator], Goal],
        near: float,
        *,
        distance: Callable[[NDArray, NDArray], float] | None = None,
        hold: int = 1,
        state: Callable[[Any], NDArray] | None = None,
    ):
        super().__init__(env)
        check_range("near", near, 0)
        check_range("hold", hold, 1)
        if not isinstance(env.observation_space, gymnasium.spaces.Box):
            raise UserError(
                f"goal: {type(env.unwrapped).__name__} observes {shown(env.observation_space)}, and models learn from a Box. "
                "Wrap it first in gymnasium.wrappers.FlattenObservation, or choose a part with FilterObservation."
            )
        self.near, self.hold = near, hold
        self._draw, self._distance, self._state = goal, distance or straight, state
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict[str, Any]]:
        options = dict(options or {})
        given = options.pop("goal", None)
        observation, info = self.env.reset(seed=seed, options=options or None)
        if seed is not None:
            self._rng = np.random.default_rng(derive_seed(seed, "goal"))
        if given is None:
            given = self._draw(self.env.unwrapped, self._rng) if callable(self._draw) else self._draw
        self.goal, self.goal_state = self._checked(given)
        self._close = 0
        return observation, self._told(observation, info)

    def step(self, action: Any) -> tuple[NDArray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, self._told(observation, info)

    def _told(self, observation: NDArray, info: dict[str, Any]) -> dict[str, Any]:
        state = np.asarray(observation if self._state is None else self._state(self.env.unwrapped), dtype=np.float32)
        distance = float(self._distance(state, self.goal_state))
        self._close = self._close + 1 if distance < self.near else 0
        told = {"goal": self.goal.copy(), "goal_state": self.goal_state.copy(), "state": state, "distance": distance}
        return {**info, **told, "success": self._close >= self.hold}

    def _checked(self, given: Any) -> tuple[NDArray, NDArray]:
        """The goal's observation, of the space's type, and its state."""
        name, space = type(self.env.unwrapped).__name__, self.observation_space
        if isinstance(given, tuple) != (self._state is not None):
            raise UserError(
                f"goal: {name} is wrapped {'with' if self._state else 'without'} `state`, so a goal is "
                f"{'a pair (observation, state)' if self._state else 'an observation alone'}; got {shown(given)}."
            )
        seen, state = given if isinstance(given, tuple) else (given, given)
        seen, state = np.asarray(seen), np.asarray(state, dtype=np.float32)
        if seen.shape != space.shape:
            raise UserError(
                f"goal: {name} observes {list(space.shape or ())}, the goal is {list(seen.shape)}. A goal is an observation: "
                "what would be seen once there, at the same resolution."
            )
        if not (np.isfinite(seen).all() and np.isfinite(state).all()):
            raise UserError(f"goal: {name} was given a goal with NaN or infinite numbers: {shown(seen.tolist())}.")
        return seen.astype(space.dtype), state


class InSequence(gymnasium.Wrapper):
    """Other goals before an environment's own, one after another, each for a given time (V-JEPA 2-AC, arXiv 2506.09985, section
    4.2: pictures of grasping, of moving, of setting down). Only `info["goal"]` changes: success is the environment's.

    Args:
        env: an environment whose `info["goal"]` is an observation.
        goals: what to reach first, observations, or `goals(env.unwrapped, rng)` that gives them after each reset.
        steps: how many steps of the environment each of these is the goal for.

    Errors: as many steps as goals are asked for, each at least 1; a goal of another shape than the environment's.
    """

    def __init__(
        self, env: gymnasium.Env, goals: Sequence[NDArray] | Callable[[Any, np.random.Generator], Sequence[NDArray]],
        steps: Sequence[int],
    ):  # fmt: skip
        super().__init__(env)
        for number in steps:
            check_range("steps", number, 1)
        self._draw, self._ends = goals, np.cumsum(list(steps))
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = np.random.default_rng(derive_seed(seed, "goals in sequence"))
        given = self._draw(self.env.unwrapped, self._rng) if callable(self._draw) else self._draw
        self.goals = [np.asarray(goal) for goal in given]
        own = np.asarray(info.get("goal"))
        if len(self.goals) != len(self._ends) or any(goal.shape != own.shape for goal in self.goals):
            raise UserError(
                f"goals in sequence: {len(self._ends)} observations of {list(own.shape)} are asked for, one for each of steps; "
                f"got {[list(goal.shape) for goal in self.goals]}."
            )
        self.clock = 0
        return observation, self._told(info)

    def step(self, action: Any) -> tuple[NDArray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.clock += 1
        return observation, float(reward), terminated, truncated, self._told(info)

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        number = int(np.searchsorted(self._ends, self.clock, side="right"))
        return info if number == len(self.goals) else {**info, "goal": self.goals[number].astype(info["goal"].dtype)}
