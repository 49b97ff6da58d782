"""The agent: configurator, perception, world model, cost, actor and memory, wired (LeCun 2022, figure 2).

    perceive s[t]  ->  believe what memory says of z  ->  mode 1: a = A(s[t])
                                                          mode 2: a = argmin over a of C(imagined by the world model under z)
                   ->  remember (t, s[t], a[t], C(s[t]))

Where no action is allowed, predictions are no numbers or the budget of steps is used up it does a defined action, and says why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.modalities.modality import WorldInputs
from jepakit.worlds.acting import PlanningPolicy
from jepakit.worlds.agent.belief import Belief
from jepakit.worlds.agent.configurator import Configurator, TaskConfig
from jepakit.worlds.agent.intrinsic_cost import Imagined, StateReader
from jepakit.worlds.agent.memory import Entries, ShortTermMemory
from jepakit.worlds.agent.perception import Perception
from jepakit.worlds.latent_problem import apart
from jepakit.worlds.problem import Plan


@dataclass(frozen=True)
class Incident:
    """Why an agent did not do what it wanted: in the episode of this seed, at this step of the environment."""

    seed: int
    step: int
    reason: str


@dataclass(frozen=True)
class Judgement:
    """What each term added to the cost of the plan that was chosen at a step of an episode, and how likely each future was
    taken to be, where memory was asked."""

    seed: int
    step: int
    parts: dict[str, float]
    belief: list[float] | None = None


class Agent(PlanningPolicy):
    """A `Policy` for several environments at once; for a single one `act` takes its observation and info as they are.

    Args:
        model: a world model in eval mode, on its device.
        inputs: what it expects.
        task: what to do; `configure` sets another one at any time.
        frame_skip: steps of the environment to one of the model.
        reader, critic, actor: parts that some tasks need, see `Configurator`.
        memory: what it writes to and its critic and actor are taught from; None: a new one.
        seed: of the planner's draws.

    incidents: what went wrong, oldest first. judgements: what each term of the cost added to each plan, of the episodes whose
    seeds are in `judged`.
    """

    def __init__(
        self, model: Dynamics, inputs: WorldInputs, task: TaskConfig | None = None, *, frame_skip: int = 1,
        reader: StateReader | None = None, critic: nn.Module | None = None, actor: nn.Module | None = None,
        memory: ShortTermMemory | None = None, seed: int = 0,
    ):  # fmt: skip
        self.reader, self.critic, self.actor, self.seed = reader, critic, actor, seed
        self.memory = ShortTermMemory() if memory is None else memory
        self.incidents: list[Incident] = []
        self.judgements: list[Judgement] = []
        self.judged: set[int] = set()
        self.configurator = self._configured(task or TaskConfig())
        super().__init__(model, inputs, self.configurator.planner, self.configurator.task.plan, frame_skip=frame_skip)

    def _configured(self, task: TaskConfig) -> Configurator:
        return Configurator(task, reader=self.reader, critic=self.critic, actor=self.actor, seed=self.seed)

    def configure(self, task: TaskConfig) -> None:
        """Another task from the next decision on, with the same model, memory and episode."""
        self.configurator = self._configured(task)
        self.planner, self.config = self.configurator.planner, task.plan
        if hasattr(self, "perception"):
            self._begin_task()

    def begin(self, environments: Sequence[Any], seeds: Sequence[int]) -> None:
        super().begin(environments, seeds)
        self.action_space = environments[0].action_space
        self.episode = list(self.ids)
        self.belief: Belief | None = None
        self.before: State | None = None
        self._begin_task()

    def _begin_task(self) -> None:
        """What the task changes of an episode under way: what is attended to, the actions allowed, and no plan is left."""
        task, old = self.configurator.task, self.perception
        self.perception = Perception(self.model, self.inputs, self.frame_skip, task.plan.observations, task.attend)
        self.perception.continue_from(old)
        self.moves = self._moves(self.action_space)
        self.warm, self.goal, self.queue = None, None, self.queue[: -self.perception.clock % self.frame_skip]
        rest = self.moves.resting(len(self.ids))
        if task.fallback is not None:
            given = np.asarray(task.fallback, dtype=rest.dtype)
            if given.shape != rest.shape[1:] and not (rest.ndim == 1 and given.shape == (1,)):
                raise UserError(f"task.fallback: an action is {rest.shape[1:] or 1} numbers, got {list(task.fallback)}.")
            rest = np.broadcast_to(given.reshape(rest.shape[1:]), rest.shape).copy()
        self.rest = rest
        if task.recall and self.belief is None:
            latents = self.moves.latents
            if latents is None:
                raise UserError(
                    "task.recall: the world model knows of one future, nothing is to be believed. Leave it out, or train with "
                    "a latent variable (pretrain pldm --latent discrete)."
                )
            self.belief = Belief(self.model, latents, len(self.ids))

    def act(self, observations: Any, infos: Any = None) -> NDArray:
        """The next action of each environment; of one observation with its info, of that one."""
        if isinstance(infos, dict) or infos is None:
            return self.act([observations], [infos or {}])[0]
        self.perception.see(observations)
        aware = self.perception.awaits
        if aware:
            with torch.no_grad(), self._precision():
                before, self.state = self.before, self.perception.state()
                self.before = self.state
                self.now = self.model.embedding(self.state).float()
                if self.belief is not None and before is not None:
                    self._believe(self.belief, before)
                if self.configurator.intrinsic.asks_goal:
                    self.goal = self._aim(infos).float()
        action = self._spent() if self._over() else self._next(aware)
        self.perception.did(self.moves.codes(action))
        return action

    def _believe(self, belief: Belief, before: State) -> None:
        """What memory holds of the last step of the model, and where it led to."""
        if not self.memory.holds():
            return
        last = self.memory.newest(len(self.ids))
        if last.episode.tolist() == self.episode and bool((last.time == self.perception.clock // self.frame_skip - 1).all()):
            belief.update(before, self.inputs.normalise_actions(last.action).to(self.device), self.now)

    def _believed(self) -> Tensor | None:
        """How likely each future is, if the task asks memory."""
        return self.belief.shares() if self.belief is not None and self.configurator.task.recall else None

    def _next(self, aware: bool) -> NDArray:
        if not self.queue:
            start = time.perf_counter()
            self._decide()
            self.seconds.append(time.perf_counter() - start)
        if aware:
            self._remember()
        return self.queue.pop(0)

    def _over(self) -> bool:
        budget = self.configurator.task.budget
        return budget is not None and self.perception.clock >= budget

    def _spent(self) -> NDArray:
        """The budget of steps is used up: the agent rests."""
        if self.perception.clock == self.configurator.task.budget:
            self._note(range(len(self.ids)), f"the budget of {self.perception.clock} steps is used up")
        return self.rest.copy()

    def _decide(self) -> None:
        """Fills the queue: mode 1 reacts, mode 2 plans; where nothing is allowed the agent rests."""
        if self.configurator.task.mode == 1:
            self.queue = self._reaction()
            return
        with torch.no_grad(), self._precision():
            goal = self.now if self.goal is None else self.goal
            belief = self._believed()
            problem = self.moves.problem(self.state, goal, self._horizon(), self.ids, self._objective, belief)
        self.real = torch.zeros(len(self.ids), dtype=torch.bool, device=self.device)
        with self._precision():
            plan = self.planner(problem, self._warm(problem.horizon), step=self.perception.clock)
        self._keep(plan)
        self._judge(problem, plan)
        self._rest_where(~plan.feasible & self.real, "every plan breaks a hard limit")
        self._rest_where(~self.real, "the world model's predictions are not numbers")

    def _objective(self, embeddings: Tensor, actions: Tensor | None, owner: Tensor) -> Tensor:
        """The whole cost of imagined rollouts; +inf where it is no number."""
        imagined = self._imagined(embeddings, actions, owner)
        cost = torch.stack(list(self.configurator.judged(imagined).values())).sum(0)
        real = ~cost.isnan()
        self.real[owner[real]] = True
        return cost.where(real, torch.full_like(cost, torch.inf))

    def _imagined(self, embeddings: Tensor, actions: Tensor | None, owner: Tensor | None = None) -> Imagined:
        """Rollouts as the cost judges them, row i of environment owner[i], or of environment i."""
        goal = self.goal if self.goal is None or owner is None else self.goal[owner]
        return Imagined(embeddings, actions, goal, self.reader, self.frame_skip, partial(apart, self.model))

    def _reaction(self) -> list[NDArray]:
        """The reactive actor's block, where the world model foresees no broken limit."""
        goal = torch.zeros_like(self.now) if self.goal is None else self.goal
        actor: Any = self.actor
        with torch.no_grad():
            blocks = actor(self.now.flatten(1), goal.flatten(1))
        self.queue = list(self.moves.nearest(blocks).swapaxes(0, 1))
        if any(term.hard for term in self.configurator.task.costs):
            done = torch.cat([self.moves.codes(action) for action in self.queue], 1)
            with torch.no_grad(), self._precision():
                ahead = self.model.rollout(self.state, self.inputs.normalise_actions(done)[:, None].to(self.device))
                imagined = self._imagined(ahead.embeddings, done[:, None])
                cost = torch.stack(list(self.configurator.intrinsic.parts(imagined).values())).sum(0)
            self._rest_where(~cost.isfinite(), "the reactive actor would break a hard limit")
        return self.queue

    def _judge(self, problem: Any, plan: Plan) -> None:
        """What the plan is expected to lead to, as far as it will be followed, goes to memory as imagined; and what each term
        says of it is noted."""
        steps = self.config.replan
        with torch.no_grad(), self._precision():
            embeddings = problem.imagine(plan.actions).float()
        choice = plan.actions.dtype == torch.int64
        imagined = self._imagined(embeddings, None if choice else plan.actions)
        parts, belief = self.configurator.judged(imagined), self._believed()
        for row, seed in enumerate(self.ids):
            if seed in self.judged:
                said = {name: float(value[row]) for name, value in parts.items()}
                believed = None if belief is None else belief[row].tolist()
                self.judgements.append(Judgement(seed, self.perception.clock, said, believed))
        ahead = range(min(steps, embeddings.shape[1]))
        rows = torch.cat([self.moves.codes(action) for action in self.queue[: self.frame_skip]], 1)
        begun = self.perception.clock // self.frame_skip
        for k in ahead:
            self.memory.append(self._entries(embeddings[:, k], begun + k + 1, rows if k == 0 else torch.zeros_like(rows), True))

    def _remember(self) -> None:
        """What is met at this step of the model, with the block of actions that begins."""
        block = torch.cat([self.moves.codes(action) for action in self.queue[: self.frame_skip]], 1)
        self.memory.append(self._entries(self.now, self.perception.clock // self.frame_skip, block, False))

    def _entries(self, states: Tensor, when: int, block: Tensor, imagined: bool) -> Entries:
        judged = self._imagined(states[:, None], None)
        cost = torch.stack(list(self.configurator.intrinsic.parts(judged).values())).sum(0)
        flat, count = states.flatten(1).float().cpu(), len(self.ids)
        goal = torch.zeros_like(flat) if self.goal is None else self.goal.flatten(1).float().cpu()
        return Entries(
            torch.tensor(self.episode), torch.full((count,), when), flat, goal, block.float(), cost.float().cpu(),
            torch.full((count,), imagined),
        )  # fmt: skip

    def _rest_where(self, rows: Tensor, reason: str) -> None:
        chosen = rows.nonzero()[:, 0].tolist()
        if chosen:
            self._note(chosen, reason)
            for action in self.queue:
                action[chosen] = self.rest[chosen]

    def _note(self, rows: Sequence[int], reason: str) -> None:
        self.incidents += [Incident(self.ids[row], self.perception.clock, reason) for row in rows]
