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
from jepakit.device import autocast, choose_precision
from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.modality import WorldInputs
from jepakit.randomness import derive_seed
from jepakit.worlds.agent.perception import Perception
from jepakit.worlds.latent_problem import LatentProblem, LatentTreeProblem
from jepakit.worlds.moves import Moves, moves
from jepakit.worlds.problem import ActionSpace, Plan, Planner, Reach, shifted
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

    The goal is `info["goal"]`, an observation; it and every state are encoded once, and a goal again where another takes its
    place (`goals.InSequence`). Plans start from what is left of the last
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
        inputs: WorldInputs,
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
        self.perception = Perception(self.model, self.inputs, self.frame_skip, self.config.observations)
        self.perception.begin(len(seeds))
        self.moves = self._moves(self.space or environments[0].action_space)
        specs = [getattr(environment, "spec", None) for environment in environments]
        self.ends = min((spec.max_episode_steps for spec in specs if spec and spec.max_episode_steps), default=None)
        self.ids = [int(seed) for seed in seeds]
        self.goal: Tensor | None = None
        self.asked: list[NDArray] = []  # the observations that it is the embedding of
        self.warm: Tensor | None = None
        self.queue: list[NDArray] = []  # planned and not yet done

    def act(self, observations: Sequence[NDArray], infos: Sequence[Information]) -> NDArray:
        self.perception.see(observations)
        if not self.queue:
            self._plan(infos)
        action = self.queue.pop(0)
        self.perception.did(self.moves.codes(action))
        return action

    def _plan(self, infos: Sequence[Information]) -> None:
        start, clock = time.perf_counter(), self.perception.clock
        with torch.no_grad(), self._precision():
            problem = self._problem(self.perception.state(), self._aim(infos))
        with self._precision():
            plan = self.planner(problem, self._warm(problem.horizon), step=clock)
        self._keep(plan)
        self.seconds.append(time.perf_counter() - start)

    def _warm(self, horizon: int) -> Tensor | None:
        """What is left of the last plans, for the next one to start from."""
        return None if self.warm is None else self.warm[..., :horizon, :]

    def _keep(self, plan: Plan) -> None:
        """What is done of a plan, and what the next one starts from."""
        best = plan.actions[:, None] if plan.elites is None else torch.cat([plan.actions[:, None], plan.elites[:, :WARM]], 1)
        self.warm = shifted(best, self.config.replan)
        self.queue = list(self.moves.steps(plan.actions[:, : self.config.replan]).swapaxes(0, 1))

    def _moves(self, space: Any) -> Moves:
        config = self.config
        return moves(
            self.model, self.inputs, space, self.frame_skip,
            cost=config.cost, deviations=None if self.space else config.deviations, chunk=config.chunk,
            risk=config.risk, futures=config.futures,
        )  # fmt: skip

    def _problem(self, state: State, goal: Tensor) -> LatentProblem | LatentTreeProblem:
        return self.moves.problem(state, goal, self._horizon(), self.ids)

    def _precision(self) -> contextlib.AbstractContextManager:
        return autocast(self.device, choose_precision(self.config.precision, self.device))

    def _horizon(self) -> int:
        """In steps of the model."""
        left = self.config.horizon * self.frame_skip if self.ends is None else self.ends - self.perception.clock
        return max(1, min(self.config.horizon, -(-left // self.frame_skip)))

    def _aim(self, infos: Sequence[Information]) -> Tensor:
        """Embeddings of the goals as they are now."""
        if self.goal is None or not all(np.array_equal(old, info["goal"]) for old, info in zip(self.asked, infos, strict=True)):
            self.goal = self._embed_goal(infos)
            self.asked = [np.array(info["goal"]) for info in infos]
        return self.goal

    def _embed_goal(self, infos: Sequence[Information]) -> Tensor:
        if any("goal" not in info for info in infos):
            raise UserError(
                "This environment gives no goal: info['goal'], an observation, is what the plans are to reach. Wrap it so that "
                "reset and step put one there."
            )
        return self.perception.embed([info["goal"] for info in infos])


@dataclass(frozen=True)
class Outcome:
    """What came of one episode. success: `info["success"]` at its end, or that it terminated where there is none. error: what
    the environment raised, which ended it."""

    seed: int
    success: bool
    steps: int
    reward: float
    states: list[NDArray] = field(default_factory=list, repr=False)
    error: str | None = None


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
    outcomes: list[Outcome] = []
    for first in range(0, episodes, len(environments)):
        seeds = episode_seeds(seed, min(len(environments), episodes - first), first)
        found = _run(environments[: len(seeds)], policy, seeds)
        for row, outcome in enumerate(found):
            if outcome.error is not None:
                environments[row] = make()  # who knows what state the old one is in
        outcomes += found
    for environment in environments:
        environment.close()
    if all(outcome.error is not None for outcome in outcomes):
        raise UserError(f"Each of {episodes} episodes was ended by an error of the environment: {outcomes[0].error}.")
    return outcomes


def _run(environments: Sequence[Any], policy: Policy, seeds: Sequence[int]) -> list[Outcome]:
    begun = [environment.reset(seed=seed) for environment, seed in zip(environments, seeds, strict=True)]
    observations, infos = [one for one, _ in begun], [info for _, info in begun]
    policy.begin(environments, seeds)
    rewards, ended = [0.0] * len(seeds), [False] * len(seeds)
    steps, success, states = [0] * len(seeds), [False] * len(seeds), [[info.get("state")] for info in infos]
    errors: list[str | None] = [None] * len(seeds)
    while not all(ended):
        actions = policy.act(observations, infos)
        for row, environment in enumerate(environments):
            if ended[row]:
                continue  # its last observation stays, until the others have come to their ends
            try:
                observations[row], reward, terminated, truncated, infos[row] = environment.step(actions[row])
            except UserError:
                raise
            except Exception as error:  # whatever a simulator raises: the episode counts as failed, and the reason is kept
                errors[row], ended[row], success[row] = f"{type(error).__name__}: {error}"[:200], True, False
                continue
            rewards[row] += float(reward)
            steps[row] += 1
            states[row].append(infos[row].get("state"))
            ended[row] = terminated or truncated
            success[row] = bool(infos[row].get("success", terminated))
    paths = [[state for state in path if state is not None] for path in states]
    return [
        Outcome(seeds[row], success[row], steps[row], rewards[row], paths[row], errors[row]) for row in range(len(seeds))
    ]
