"""The configurator: a task's description sets what all other parts of an agent do (LeCun 2022, section 3.1.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jepakit.config import from_plain, read_yaml
from jepakit.errors import UserError, check_choice, check_range, shown
from jepakit.worlds.acting import PlanningConfig
from jepakit.worlds.agent.intrinsic_cost import CostConfig, Imagined, IntrinsicCost, StateReader
from jepakit.worlds.planners import PLANNERS, make_planner
from jepakit.worlds.problem import Planner


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A task, as `task.yaml` describes it. Nothing is trained when it changes."""

    mode: Literal[1, 2] = 2
    """1: the reactive actor; 2: planning."""
    costs: tuple[CostConfig, ...] = (CostConfig(),)
    """Terms of the intrinsic cost, see `CostConfig`."""
    critic: float = 0.0
    """Weight of the critic on the last imagined state; 0: it is not asked."""
    planner: str = "icem"
    """random, cem, icem, mppi or gradient; tree where actions are a choice among a few."""
    search: Any = field(default_factory=dict)
    """Options of the planner: population, elites, iterations, ..."""
    plan: PlanningConfig = field(default_factory=lambda: PlanningConfig(replan=1, cost="nearest"))
    """How far ahead and how often, and which step of a plan counts for a goal's distance."""
    attend: tuple[int, ...] | None = None
    """The part of an observation that is looked at, see `Perception`."""
    recall: bool = False
    """Weigh the futures of a model with a latent by what this episode's memory says of them, see `Belief`: for what nothing
    shows and what stays as it is, such as a door that is locked."""
    budget: int | None = None
    """Steps of the environment after which the agent rests; None: no bound."""
    fallback: tuple[float, ...] | None = None
    """The action where no plan is allowed; None: the one that comes nearest to doing nothing."""

    def __post_init__(self) -> None:
        check_choice("task.planner", self.planner, [name for name in PLANNERS if name != "amortised"])
        check_range("task.critic", self.critic, 0)
        if self.budget is not None:
            check_range("task.budget", self.budget, 1)
        if not isinstance(self.search, dict):
            raise UserError(f"task.search: options of the planner by name, as {{population: 64}}. Got {shown(self.search)}.")
        if not self.costs:
            raise UserError("task.costs: a task has at least one term. Leave costs out for the distance to the goal.")

    def make_planner(self, seed: int = 0) -> Planner:
        """The planner it names, with its options."""
        options = {**self.search, "cost": self.plan.cost} if self.planner == "tree" else self.search
        return make_planner(self.planner, seed=seed, **options)


def read_task(path: str | Path) -> TaskConfig:
    """The task in a YAML file. Errors: no such file; an unknown option or value, with its place."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"task: {path} does not exist. Give a YAML file that describes one, see docs/agent.md.")
    try:
        return from_plain(TaskConfig, read_yaml(path) or {}, "task")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


class Configurator:
    """Turns a task into the settings of an agent's parts, which stay as they are.

    Args:
        task: the description.
        reader: reads variables of the state, where a term of the cost names some.
        critic: the trained one, where the task asks it.
        actor: the trained one, for mode 1.
        seed: of the planner's draws.

    Errors: a part that the task asks for and that is not there; variables that the state does not have.
    """

    def __init__(
        self, task: TaskConfig, *, reader: StateReader | None = None, critic: nn.Module | None = None,
        actor: nn.Module | None = None, seed: int = 0,
    ):  # fmt: skip
        self.task, self.reader, self.critic = task, reader, critic
        if task.mode == 1 and actor is None:
            raise UserError("mode 1 needs a reactive actor, and none was taught. Act in mode 2 first, with --teach.")
        if task.critic and critic is None:
            raise UserError("task.critic asks a critic, and none was taught. Act in mode 2 first, with --teach.")
        self.intrinsic = IntrinsicCost(task.costs, task.plan.cost)
        for term in task.costs:
            for name in term.where or ():
                if reader is None:
                    raise UserError(
                        f"costs.{term.title} names variables of the state, and nothing reads them: train on episodes that hold "
                        "states, and run `jepakit evaluate RUN`."
                    )
                reader.column(str(name))
        self.planner = task.make_planner(seed)

    def judged(self, imagined: Imagined) -> dict[str, Tensor]:
        """What each term of the whole cost adds, the critic's too: `[rows]` each."""
        found = self.intrinsic.parts(imagined)
        if self.critic is not None and self.task.critic:
            last = imagined.embeddings[:, -1].flatten(1)
            goal = torch.zeros_like(last) if imagined.goal is None else imagined.goal.flatten(1)
            found["critic"] = self.task.critic * self.critic(last, goal)
        return found
