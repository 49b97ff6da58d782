"""Worlds whose model is exact: a point that moves by its action, embedded as it is, and an agent in it."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from jepakit.core.dynamics import Dynamics
from jepakit.core.energies import Energy
from jepakit.core.latent import DiscreteLatent, FreeEnergy
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.nn.tokens import Tokens
from jepakit.worlds.acting import PlanningConfig
from jepakit.worlds.agent.agent import Agent
from jepakit.worlds.agent.configurator import TaskConfig
from jepakit.worlds.agent.intrinsic_cost import StateReader

LIMIT, WIND = 0.5, 0.3


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


class Windy(Plane):
    """A wind to the right or to the left, which nobody sees, moves the point as well; as long as the episode."""

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.wind = WIND * (1 if self.np_random.random() < 0.5 else -1)
        return found

    def step(self, action):
        self.place[0] += self.wind
        return super().step(action)


class Exact(torch.nn.Module):
    """Its true dynamics: actions come in deviations of .3."""

    def __init__(self, skip):
        super().__init__()
        self.skip = skip
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def begin(self, embeddings, actions, lengths=None):
        return embeddings[:, -1]

    def advance(self, state, action, condition=None):
        moved = state + 0.3 * action.unflatten(1, (self.skip, 2)).sum(1)
        if condition is None:
            return moved
        wind = self.skip * WIND * (condition[:, :1] - condition[:, 1:])
        return moved + torch.cat([wind, torch.zeros_like(wind)], 1)

    def embedding(self, state):
        return state


class Identity(torch.nn.Module):
    def forward(self, inputs):
        return Tokens(inputs, torch.zeros(*inputs.shape[:2], 1))


def exact_model(skip=1, history=1, windy=False):
    inputs = TrajectoryInputs(
        shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), action_mean=(0.0,) * 2 * skip, action_std=(0.3,) * 2 * skip,
        history=history, horizon=1,
    )  # fmt: skip
    energy = FreeEnergy(DiscreteLatent(codes=2)) if windy else Energy(name="l2")
    return Dynamics(Identity(), Exact(skip), energy, history=history).eval(), inputs


READER = StateReader(("x", "y"), lambda embeddings: embeddings)


def task(**options):
    plan = {"horizon": 8, "replan": 1, "cost": "sum", "deviations": None, **options.pop("plan", {})}
    given = {"planner": "icem", "search": {"population": 64, "elites": 8, "iterations": 4}, **options}
    return TaskConfig(plan=PlanningConfig(**plan), **given)


def agent(skip=1, parts=None, windy=False, **options):
    model, inputs = exact_model(skip, windy=windy)
    return Agent(model, inputs, task(**options), frame_skip=skip, reader=READER, **(parts or {}))
