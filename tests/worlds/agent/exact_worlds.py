"""Worlds whose model is exact: a point that moves by its action, embedded as it is, and an agent in it."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from jepakit.core.dynamics import Dynamics
from jepakit.core.energies import Energy
from jepakit.modalities.trajectories import TrajectoryInputs
from jepakit.nn.tokens import Tokens
from jepakit.worlds.acting import PlanningConfig
from jepakit.worlds.agent.agent import Agent
from jepakit.worlds.agent.configurator import TaskConfig
from jepakit.worlds.agent.intrinsic_cost import StateReader

LIMIT = 0.5


class Plane(gymnasium.Env):
    """The observation is the point; the goal lies 2 to the right."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-LIMIT, LIMIT, (2,), np.float32)

    def __init__(self, steps=14):
        self.length = steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([-1, self.np_random.uniform(-0.3, 0.3)], dtype=np.float32)
        self.goal = np.array([1, self.np_random.uniform(-0.3, 0.3)], dtype=np.float32)
        self.steps = 0
        return self.place.copy(), self._info()

    def step(self, action):
        self.place = (self.place + np.clip(action, -LIMIT, LIMIT)).astype(np.float32)
        self.steps += 1
        return self.place.copy(), 0.0, False, self.steps >= self.length, self._info()

    def _info(self):
        distance = float(np.linalg.norm(self.place - self.goal))
        return {"goal": self.goal.copy(), "success": distance < 0.2, "state": self.place.copy()}


class Exact(torch.nn.Module):
    """Its true dynamics: actions come in deviations of .3."""

    def __init__(self, skip):
        super().__init__()
        self.skip = skip
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def begin(self, embeddings, actions, lengths=None):
        return embeddings[:, -1]

    def advance(self, state, action, condition=None):
        return state + 0.3 * action.unflatten(1, (self.skip, 2)).sum(1)

    def embedding(self, state):
        return state


class Identity(torch.nn.Module):
    def forward(self, inputs):
        return Tokens(inputs, torch.zeros(*inputs.shape[:2], 1))


def exact_model(skip=1, history=1):
    inputs = TrajectoryInputs(
        shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), action_mean=(0.0,) * 2 * skip, action_std=(0.3,) * 2 * skip,
        history=history, horizon=1,
    )  # fmt: skip
    return Dynamics(Identity(), Exact(skip), Energy(name="l2"), history=history).eval(), inputs


READER = StateReader(("x", "y"), lambda embeddings: embeddings)


def task(**options):
    plan = {"horizon": 8, "replan": 1, "cost": "sum", "deviations": None, **options.pop("plan", {})}
    given = {"planner": "icem", "search": {"population": 64, "elites": 8, "iterations": 4}, **options}
    return TaskConfig(plan=PlanningConfig(**plan), **given)


def agent(skip=1, parts=None, **options):
    model, inputs = exact_model(skip)
    return Agent(model, inputs, task(**options), frame_skip=skip, reader=READER, **(parts or {}))
