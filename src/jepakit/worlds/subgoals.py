"""Acting on two levels: the upper one plans far, by macro-actions, and what it imagines are the lower one's goals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State
from jepakit.errors import check_range
from jepakit.modalities.modality import WorldInputs
from jepakit.worlds.acting import WARM, Information, PlanningConfig, PlanningPolicy
from jepakit.worlds.latent_problem import LatentProblem, LatentTreeProblem
from jepakit.worlds.problem import ActionSpace, Planner, shifted

HASTE = 1e-3  # what a step costs, on both levels, as a part of the squared distance of start and goal
WIDEST = 3.0  # deviations of macro-actions that are searched where no number is given: beyond lie 3 in a thousand


class HierarchicalPolicy(PlanningPolicy):
    """Plans on two levels, LeCun 2022, section 4.6: macro-actions above, and below the actions that lead to what they promise.

    From the newest observation the upper level plans `config.horizon` of its steps towards the goal. The states it imagines are
    the goals of the lower level, one after another, each for as long as an upper step lasts; below, plans look one upper step
    ahead and are made anew at each lower step. From the planned state that is nearest to the goal on, the goal itself takes
    the place of what was imagined. With the cost "nearest" each step until then costs a little, or plans put off arriving.

    Args:
        above: a world model in eval mode whose actions are macro-actions of mean 0 and deviation 1.
        below: one of the environment's actions, whose embeddings can be compared with those of `above` (`core.hierarchy`).
        inputs: what `below` expects.
        planner_above, planner: for each level, any for continuous actions.
        config: the upper level's. `horizon` and `replan` are in its steps; the rest holds for both levels.
        macro: numbers of a macro-action.
        steps: of the lower level to one of the upper.
        space, frame_skip: of the lower level, as of `PlanningPolicy`.
    """

    def __init__(
        self,
        above: Dynamics,
        below: Dynamics,
        inputs: WorldInputs,
        planner_above: Planner,
        planner: Planner,
        config: PlanningConfig | None = None,
        *,
        macro: int,
        steps: int,
        space: ActionSpace | None = None,
        frame_skip: int = 1,
    ):
        check_range("macro", macro, 1)
        check_range("steps", steps, 1)
        self.above, self.planner_above, self.steps = above, planner_above, steps
        self.config_above = config or PlanningConfig()
        most = torch.full((macro,), self.config_above.deviations or WIDEST)
        config = replace(self.config_above, horizon=steps, replan=1)
        super().__init__(below, inputs, planner, config, space=space, frame_skip=frame_skip)
        self.macro_space = ActionSpace(-most, most).to(self.device)

    def begin(self, environments: Sequence[Any], seeds: Sequence[int]) -> None:
        super().begin(environments, seeds)
        self.final: Tensor | None = None
        self.haste = torch.zeros(len(seeds), device=self.device)
        self.warm_above: Tensor | None = None
        self.way: Tensor | None = None  # the subgoals that are left, [env, upper step, dim]

    def _plan(self, infos: Sequence[Information]) -> None:
        start, (whole, part) = time.perf_counter(), divmod(self.perception.clock, self.steps * self.frame_skip)
        if part == 0 or self.way is None:
            if self.way is None or whole % self.config_above.replan == 0:
                self.way = self._look_far(infos)
            self.subgoal = self.way[:, whole % self.config_above.replan]
        spent = time.perf_counter() - start
        super()._plan(infos)
        self.seconds[-1] += spent

    def _look_far(self, infos: Sequence[Information]) -> Float[Tensor, "env replan dim"]:
        """Plans above; what the level below is to reach at each of the next upper steps."""
        config = self.config_above
        with torch.no_grad(), self._precision():
            here = self.perception.newest()
            final = super()._aim(infos)
            if final is not self.final:
                self.final = final
                self.haste = HASTE * (here - self.final).square().sum(1)
            nothing = torch.zeros(len(here), 0, self.macro_space.size, device=self.device)
            problem = LatentProblem(
                self.above, State(self.above.predictor.begin(here[:, None], nothing)), final, self.macro_space,
                self._horizon_above(), cost=config.cost, haste=self.haste, chunk=config.chunk, ids=self.ids,
            )  # fmt: skip
            warm = None if self.warm_above is None else self.warm_above[..., : problem.horizon, :]
            plan = self.planner_above(problem, warm, step=self.perception.clock)
            path = problem.imagine(plan.actions)
        best = plan.actions[:, None] if plan.elites is None else torch.cat([plan.actions[:, None], plan.elites[:, :WARM]], 1)
        self.warm_above = shifted(best, config.replan)
        return self.subgoals(here, path.float(), final)

    def _aim(self, infos: Sequence[Information]) -> Tensor:
        """Of the level below."""
        return self.subgoal

    def subgoals(
        self, here: Float[Tensor, "env dim"], path: Float[Tensor, "env horizon dim"], final: Float[Tensor, "env dim"]
    ) -> Float[Tensor, "env replan dim"]:
        """What to reach at each upper step, from where the level above is, the states it plans to pass and the goal."""
        distances = (torch.cat([here[:, None], path], 1) - final[:, None]).square().sum(2)
        distances = distances + self.haste[:, None] * torch.arange(path.shape[1] + 1, device=path.device)
        steps = torch.arange(1, self.config_above.replan + 1, device=path.device).clamp(max=path.shape[1])
        arrived = steps >= distances.argmin(1, keepdim=True)
        return torch.where(arrived[..., None], final[:, None], path[:, steps - 1])

    def _problem(self, state: State, goal: Tensor) -> LatentProblem | LatentTreeProblem:
        problem = super()._problem(state, goal)
        if isinstance(problem, LatentProblem):
            problem.haste = self.haste
        return problem

    def _horizon_above(self) -> int:
        """In upper steps, and none past the end of the episode."""
        length = self.steps * self.frame_skip
        left = self.config_above.horizon * length if self.ends is None else self.ends - self.perception.clock
        return max(1, min(self.config_above.horizon, -(-left // length)))
