"""Acting in environments: policies, among them one that plans in a world model, and episodes of many environments at once."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State, map_tree
from jepakit.errors import UserError, check_choice, check_range, shown
from jepakit.modalities.trajectories import TrajectoryInputs
from jepakit.randomness import derive_seed
from jepakit.training.device import autocast, choose_precision
from jepakit.worlds.moves import moves
from jepakit.worlds.problem import ActionSpace, Planner, Reach, shifted
from jepakit.worlds.risk import Risk, check_risk

Information = dict[str, Any]
PlanningPrecision = Literal["auto", "float32", "bfloat16"]
WARM = 8  # of the last plan's elites that the next begins with, beside the plan


@runtime_checkable
class Policy(Protocol):
    """Chooses the actions of several environments at once; environment i is row i of everything."""

    def begin(self, environments: Sequence[Any], seeds: Sequence[int]) -> None:
        """New episodes begin in these environments."""

    def act(self, observations: Sequence[NDArray], infos: Sequence[Information]) -> NDArray:
        """The next action of each, `[env, action]`, or `[env]` where actions are a choice among a few."""
        ...


class RandomPolicy:
    """Uniform over the action space: what any policy has to beat."""

    def begin(self, environments: Sequence[Any], seeds: Sequence[int]) -> None:
        self.spaces = [copy.deepcopy(environment.action_space) for environment in environments]  # several may share one
        for space, seed in zip(self.spaces, seeds, strict=True):
            space.seed(derive_seed(seed, "random policy") % 2**31)

    def act(self, observations: Sequence[NDArray], infos: Sequence[Information]) -> NDArray:
        return np.stack([space.sample() for space in self.spaces])


class OraclePolicy:
    """What an environment's `oracle_action()` says, which knows what no observer does: the upper bound."""

    def begin(self, environments: Sequence[Any], seeds: Sequence[int]) -> None:
        self.environments = [environment.unwrapped for environment in environments]

    def act(self, observations: Sequence[NDArray], infos: Sequence[Information]) -> NDArray:
        return np.stack([environment.oracle_action() for environment in self.environments])


@dataclass(frozen=True, kw_only=True)
class PlanningConfig:
    """How to plan while acting. Steps are the model's; one is `frame_skip` steps of the environment.

    Where actions are a choice among a few, `cost` is the tree search's own, `deviations` means nothing, and of a model with a
    latent its first guess is imagined.
    """

    horizon: int = 20
    """Steps that are imagined, but none past the end of an episode whose length the environment's `spec` tells."""
    replan: int = 5
    """Steps that are done before planning again; 1 sees most, and costs most."""
    cost: Reach = "sum"
    """Squared distance to the goal's embedding: of all imagined steps, of the last, or of the nearest."""
    deviations: float | None = 2.5
    """Plans keep each number of an action within so many deviations of the recorded ones' mean (uniform draws reach 1.7), for
    of others the model knows nothing; None: within the environment's bounds only."""
    observations: int | None = None
    """Newest observations that a plan starts from; None: as many as the model's history. Windows of a history that has room for
    these and what is imagined never slide, so that nothing is worked out twice."""
    risk: Risk | None = None
    """What a plan costs that has several futures (a model with a latent): their "mean" (also with None), the "worst", or a
    quantile between 0 and 1."""
    futures: int = 16
    """Drawn for a continuous latent, once; of a discrete one there are as many as codes."""
    chunk: int | None = 4096
    """Rollouts imagined at once, which bounds the memory."""
    precision: PlanningPrecision = "float32"
    """Of what the model computes. auto: bfloat16 where the device multiplies it in hardware, else float32."""

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, get_args(PlanningPrecision))
        if self.risk is not None:
            check_risk(self.risk)
        check_range("futures", self.futures, 1)
        check_range("deviations", 1.0 if self.deviations is None else self.deviations, 0.1)
        check_range("horizon", self.horizon, 1)
        check_range("replan", self.replan, 1, self.horizon)
        check_range("observations", 1 if self.observations is None else self.observations, 1)


class PlanningPolicy:
    """Plans in a world model towards the embedding of a goal, and plans again every few steps from what it then sees.

    The goal is `info["goal"]`, an observation; it and every state are encoded once. Plans start from what is left of the last
    one and of the best candidates beside it. Where actions are a choice among a few the planner is given a `TreeProblem`.

    Args:
        model: a world model in eval mode, on its device.
        inputs: what it expects.
        planner: any of `worlds.planners` for continuous actions, `TreeSearch` for choices.
        config: how far to look and how often.
        space: the actions there are; None: the environment's.
        frame_skip: steps of the environment to one of the model.
    """

    def __init__(
        self,
        model: Dynamics,
        inputs: TrajectoryInputs,
        planner: Planner,
        config: PlanningConfig | None = None,
        *,
        space: ActionSpace | None = None,
        frame_skip: int = 1,
    ):
        self.model, self.inputs, self.planner, self.frame_skip = model, inputs, planner, frame_skip
        self.config, self.space = config or PlanningConfig(), space
        self.device = next(model.parameters()).device
        self.seconds: list[float] = []
        """Of each plan, for all environments together: encoding and search."""

    def begin(self, environments: Sequence[Any], seeds: Sequence[int]) -> None:
        config = self.config
        if config.observations is not None:
            check_range("observations", config.observations, 1, self.inputs.history)
        self.moves = moves(
            self.model, self.inputs, self.space or environments[0].action_space, self.frame_skip,
            cost=config.cost, deviations=None if self.space else config.deviations, chunk=config.chunk,
            risk=config.risk, futures=config.futures,
        )  # fmt: skip
        specs = [getattr(environment, "spec", None) for environment in environments]
        self.ends = min((spec.max_episode_steps for spec in specs if spec and spec.max_episode_steps), default=None)
        self.ids = [int(seed) for seed in seeds]
        self.goal: Tensor | None = None
        self.warm: Tensor | None = None
        self.block: list[Tensor] = []  # actions since the newest observation
        self.seen: list[Tensor] = []  # normalised observations, a model step apart, newest last
        self.done: list[Tensor] = []  # blocks of actions between them
        self.queue: list[NDArray] = []  # planned and not yet done
        self.clock = 0

    def act(self, observations: Sequence[NDArray], infos: Sequence[Information]) -> NDArray:
        if self.clock % self.frame_skip == 0:
            self.seen = [*self.seen, self._normalised(observations)][-self.inputs.history :]
        if not self.queue:
            self._plan(infos)
        action = self.queue.pop(0)
        self._remember(action)
        self.clock += 1
        return action

    def _plan(self, infos: Sequence[Information]) -> None:
        start = time.perf_counter()
        with torch.no_grad(), self._precision():
            goal = self._embed_goal(infos) if self.goal is None else self.goal
            seen = self.seen[-(self.config.observations or self.inputs.history) :]
            between = self.done[-(len(seen) - 1) :] if len(seen) > 1 else []
            actions = torch.stack(between, 1) if between else torch.zeros(len(infos), 0, self.inputs.action)
            state = self._observe(torch.stack(seen, 1), actions)
            problem = self.moves.problem(state, goal, self._horizon(), self.ids)
        warm = None if self.warm is None else self.warm[..., : problem.horizon, :]
        with self._precision():
            plan = self.planner(problem, warm, step=self.clock)
        best = plan.actions[:, None] if plan.elites is None else torch.cat([plan.actions[:, None], plan.elites[:, :WARM]], 1)
        self.goal, self.warm = goal, shifted(best, self.config.replan)
        self.queue = list(self.moves.steps(plan.actions[:, : self.config.replan]).swapaxes(0, 1))
        self.seconds.append(time.perf_counter() - start)

    def _precision(self) -> contextlib.AbstractContextManager:
        return autocast(self.device, choose_precision(self.config.precision, self.device))

    def _horizon(self) -> int:
        """In steps of the model."""
        left = self.config.horizon * self.frame_skip if self.ends is None else self.ends - self.clock
        return max(1, min(self.config.horizon, -(-left // self.frame_skip)))

    def _embed_goal(self, infos: Sequence[Information]) -> Tensor:
        if any("goal" not in info for info in infos):
            raise UserError(
                "This environment gives no goal: info['goal'], an observation, is what the plans are to reach. Wrap it so that "
                "reset and step put one there."
            )
        goal = self._normalised([info["goal"] for info in infos], "goals")[:, None]
        return self.model.embedding(self._observe(goal, torch.zeros(len(infos), 0, self.inputs.action)))

    def _observe(self, observations: Tensor, actions: Tensor) -> State:
        """In float32 whatever the precision: what is imagined from it later, for the report, is so in another one."""
        state = self.model.observe({"inputs": observations, "actions": actions.to(self.device)})
        return State(map_tree(lambda tensor: tensor.float() if tensor.dtype == torch.bfloat16 else tensor, state.tree))

    def _normalised(self, observations: Sequence[NDArray], what: str = "observations") -> Tensor:
        stacked = torch.from_numpy(np.stack(observations))
        if tuple(stacked.shape[1:]) != self.inputs.shape:
            raise UserError(
                f"The model was trained on observations of shape {list(self.inputs.shape)}, the environment gives {what} of "
                f"{list(stacked.shape[1:])}. Act in the environment it was trained for, or resize what it gives "
                "(gymnasium.wrappers.ResizeObservation; a goal is an observation and must be resized too)."
            )
        if not bool(stacked.isfinite().all()):
            raise UserError(
                f"The environment gives {what} with NaN or infinite numbers: {shown(stacked[~stacked.isfinite()].tolist())}. "
                "Mend the environment, or end the episode before it breaks down."
            )
        return self.inputs.normalise(stacked).to(self.device)

    def _remember(self, action: NDArray) -> None:
        """Keeps the blocks between the observations kept, in the model's units."""
        self.block.append(self.moves.codes(action))
        if len(self.block) == self.frame_skip:
            block = self.inputs.normalise_actions(torch.cat(self.block, 1)).to(self.device)
            self.done, self.block = [*self.done, block][-self.inputs.history :], []


@dataclass(frozen=True)
class Outcome:
    """What came of one episode. success: `info["success"]` at its end, or that it terminated where there is none."""

    seed: int
    success: bool
    steps: int
    reward: float
    states: list[NDArray] = field(default_factory=list, repr=False)


def episode_seeds(seed: int, episodes: int, first: int = 0) -> list[int]:
    """What `run_episodes` resets the environments of its episodes with, from episode number `first` on."""
    return [derive_seed(seed, "episode", number) % 2**31 for number in range(first, first + episodes)]


def run_episodes(
    make: Callable[[], Any], policy: Policy, episodes: int, seed: int = 0, together: int = 25
) -> list[Outcome]:
    """Episode i, from start to end, is a function of (seed, i) and the policy, not of how many run `together`.

    Args:
        make: makes a `gymnasium.Env`.
        episodes: how many.
        together: environments at once, for policies that plan for many in one go.
    """
    check_range("episodes", episodes, 1)
    environments = [make() for _ in range(min(episodes, together))]
    outcomes = []
    for first in range(0, episodes, len(environments)):
        seeds = episode_seeds(seed, min(len(environments), episodes - first), first)
        outcomes += _run(environments[: len(seeds)], policy, seeds)
    for environment in environments:
        environment.close()
    return outcomes


def _run(environments: Sequence[Any], policy: Policy, seeds: Sequence[int]) -> list[Outcome]:
    begun = [environment.reset(seed=seed) for environment, seed in zip(environments, seeds, strict=True)]
    observations, infos = [one for one, _ in begun], [info for _, info in begun]
    policy.begin(environments, seeds)
    rewards, ended = [0.0] * len(seeds), [False] * len(seeds)
    steps, success, states = [0] * len(seeds), [False] * len(seeds), [[info.get("state")] for info in infos]
    while not all(ended):
        actions = policy.act(observations, infos)
        for row, environment in enumerate(environments):
            if ended[row]:
                continue  # its last observation stays, until the others have come to their ends
            observations[row], reward, terminated, truncated, infos[row] = environment.step(actions[row])
            rewards[row] += float(reward)
            steps[row] += 1
            states[row].append(infos[row].get("state"))
            ended[row] = terminated or truncated
            success[row] = bool(infos[row].get("success", terminated))
    paths = [[state for state in path if state is not None] for path in states]
    return [
        Outcome(seeds[row], success[row], steps[row], rewards[row], paths[row]) for row in range(len(seeds))
    ]
