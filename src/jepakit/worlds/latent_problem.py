"""Planning in imagination: what actions cost is how far from the goal's embedding they lead a world model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State, map_tree, tensors_of
from jepakit.errors import UserError, check_choice, check_range, shown
from jepakit.worlds.problem import ActionSpace, Reach
from jepakit.worlds.risk import Risk, check_risk, over_futures

MOST = 2**26  # numbers of embeddings imagined at once

Objective = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""What imagined rollouts cost: `objective(embeddings [rows, steps, *tokens, dim], actions, owner [rows]) -> [rows]`.

The actions `[rows, steps, action]` are in the environment's units, None of single states in a tree; row i is of environment
`owner[i]`. +inf: not allowed.
"""


def _ordinary(tensor: Tensor) -> Tensor:
    """Without a graph behind it, and fit for one after it."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _start_and_goal(model: Dynamics, start: State, goal: Tensor) -> tuple[State, Tensor]:
    """Both, if they fit the model and each other. An agent may observe under inference_mode, through whose tensors no gradient
    could be taken: those are copied."""
    if start.batch != len(goal):
        raise UserError(f"One goal for each environment: the state has {start.batch}, there are {len(goal)} goals.")
    if not bool(goal.isfinite().all()):
        raise UserError("The goal's embedding holds NaN or infinite numbers. Look at the goal observation.")
    start = State(map_tree(_ordinary, start.tree))
    here = model.embedding(start)
    if here.shape != goal.shape:
        raise UserError(f"A goal is an embedding of the model's, {list(here.shape)}; got {list(goal.shape)}.")
    return start, _ordinary(goal)


def apart(model: Dynamics, embeddings: Tensor, goal: Tensor) -> Tensor:
    """How far each number of embeddings lies from the goal's: squared, or as it is in a model that was taught by L1."""
    difference = embeddings - goal
    return difference.abs() if model.measure.name == "l1" else difference.square()


def _only(objective: Objective | None, environment: int) -> Objective | None:
    """That of one environment by itself, whose rows are all of environment 0."""
    if objective is None:
        return None
    return lambda embeddings, actions, owner: objective(embeddings, actions, owner + environment)


class LatentProblem:
    """A `Problem`: from an observed state, reach a goal embedding.

    The model observes once, outside; a call of `cost` rolls it out once over all environments and candidates, and under each
    of several `latents`, the same for all candidates of an environment.

    Args:
        model: a world model in eval mode.
        start: what it knows of each environment, from `model.observe`.
        goal: embedding to reach, `[env, *tokens, dim]` as `model.embedding` gives it.
        space: the environment's actions, in its raw units.
        horizon: steps of the model.
        scale: mean and deviation `[action]` that the model's actions were normalised with: it is given (action - mean) / std.
            None: raw actions.
        skip: environment actions to one step of the model, which takes them in a row as one block; an action of the plan is
            such a block (`problem.space.steps(plan.actions)` takes plans apart).
        cost: squared distance to the goal (absolute, in a model taught by L1): the "sum" over all imagined steps, that of the
            "last", or of the "nearest": what happens after it counts for nothing.
        haste: with "nearest", what each step until then costs, `[env]`, so that of two ways to a goal the shorter one is taken.
        latents: z's to roll out under, the model's condition: `[samples, z]` (as `model.futures()` gives them) for all
            environments or `[env, samples, z]`; None: no condition.
        risk: what a candidate costs of its futures under these: their "mean", the "worst", or a quantile (`worlds.risk`).
        belief: how likely each of these is, `[env, samples]`, rows that sum to 1; None: all alike.
        chunk: most rollouts (environments x candidates x samples) at once, which bounds memory; at most, and with None, as
            many as have 256 MB of embeddings. With gradient each chunk is computed twice, so that memory stays bounded.
        ids, feasible: see `Problem`; `feasible` is given blocks.
        objective: asked instead of the distance to the goal.

    Errors: goals, state, scale, latents or actions that do not fit each other; NaN or infinite goals; a deviation of 0.
    """

    def __init__(
        self,
        model: Dynamics,
        start: State,
        goal: Float[Tensor, "env *tokens dim"],
        space: ActionSpace,
        horizon: int,
        *,
        scale: tuple[Tensor, Tensor] | None = None,
        skip: int = 1,
        cost: Reach = "sum",
        haste: Float[Tensor, "env"] | None = None,
        latents: Tensor | None = None,
        risk: Risk = "mean",
        belief: Float[Tensor, "env samples"] | None = None,
        chunk: int | None = None,
        ids: Sequence[int] | None = None,
        feasible: Callable[[Tensor], Tensor] | None = None,
        objective: Objective | None = None,
    ):
        check_range("horizon", horizon, 1)
        check_range("skip", skip, 1)
        check_choice("cost", cost, get_args(Reach))
        check_risk(risk)
        if chunk is not None:
            check_range("chunk", chunk, 1)
        fit = max(1, MOST // (horizon * goal.shape[1:].numel()))
        self.model, self.reach, self.risk, self.chunk = model, cost, risk, fit if chunk is None else min(chunk, fit)
        self.horizon, self.environments = horizon, len(goal)
        self.haste = goal.new_zeros(len(goal)) if haste is None else haste
        self.ids = None if ids is None else list(ids)
        self.constraint, self.objective = feasible, objective
        with torch.inference_mode(False), torch.no_grad():
            self.start, self.goal = _start_and_goal(model, start, goal)
            self.device = tensors_of(self.start.tree)[0].device
            self.space = space.to(self.device).block(skip)
            self.scale = None if scale is None else self._scale(*scale, skip)
            self.latents = None if latents is None else self._latents(latents)
            self.belief = None if belief is None else self._belief(belief)

    def _scale(self, mean: Tensor, std: Tensor, skip: int) -> tuple[Tensor, Tensor]:
        """Of one action, repeated over a block."""
        width = self.space.size // skip
        for name, given in (("mean", mean), ("std", std)):
            if given.shape != (width,) or not bool(given.isfinite().all()):
                raise UserError(f"scale: the {name} of actions is {width} finite numbers, got {given.tolist()}.")
        if not bool((std > 0).all()):
            raise UserError(f"scale: deviations of actions must be above 0, got {std.tolist()}. Use 1 for a constant number.")
        return mean.to(self.goal).repeat(skip), std.to(self.goal).repeat(skip)

    def _latents(self, given: Tensor) -> Float[Tensor, "env samples z"]:
        """Those of each environment."""
        each = given if given.dim() == 3 else given.expand(self.environments, *given.shape)
        if each.dim() != 3 or len(each) != self.environments or not each.shape[1] or not bool(each.isfinite().all()):
            raise UserError(
                f"latents are finite numbers, [samples, z] or for {self.environments} environments [env, samples, z]; got "
                f"{list(given.shape)}. model.futures() gives them."
            )
        return each.to(self.goal)

    def _belief(self, given: Tensor) -> Float[Tensor, "env samples"]:
        """A share for each latent."""
        wanted = () if self.latents is None else self.latents.shape[:2]
        if given.shape != wanted or not bool((given >= 0).all()) or not bool(((given.sum(1) - 1).abs() < 1e-3).all()):
            raise UserError(f"belief: shares of the latents {list(wanted)}, rows sum to 1; got {shown(given.tolist())}.")
        return given.to(self.goal)

    def feasible(self, actions: Float[Tensor, "env candidate horizon action"]) -> Bool[Tensor, "env candidate"]:
        """Whether candidates break no constraint."""
        if self.constraint is None:
            return torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device)
        return self.constraint(actions)

    def cost(self, actions: Float[Tensor, "env candidate horizon action"]) -> Float[Tensor, "env candidate"]:
        """Distance of what the model imagines to the goal, summed over the embedding; the risk over the latents."""
        if (actions.shape[0], *actions.shape[2:]) != (self.environments, self.horizon, self.space.size):
            raise UserError(
                f"Candidates are [env, candidate, horizon, action] = [{self.environments}, any, {self.horizon}, "
                f"{self.space.size}], got {list(actions.shape)}."
            )
        candidates, futures = actions.shape[1], 1 if self.latents is None else self.latents.shape[1]
        rows = actions.flatten(0, 1).repeat_interleave(futures, dim=0)
        owner = torch.arange(self.environments, device=self.device).repeat_interleave(candidates * futures)
        future = torch.arange(futures, device=self.device).repeat(self.environments * candidates)
        if len(rows) <= self.chunk:
            found = self._imagine(rows, owner, future)
        else:
            again = torch.is_grad_enabled() and rows.requires_grad
            parts: list[Any] = [
                checkpoint(self._imagine, *part, use_reentrant=False) if again else self._imagine(*part)
                for part in zip(*(whole.split(self.chunk) for whole in (rows, owner, future)), strict=True)
            ]
            found = torch.cat(parts)
        belief = None if self.belief is None else self.belief[:, None].expand(-1, candidates, -1)
        return over_futures(found.unflatten(0, (self.environments, candidates, futures)), self.risk, belief)

    def imagine(self, actions: Float[Tensor, "env horizon action"]) -> Float[Tensor, "env horizon *tokens dim"]:
        """The embeddings that a plan of each environment would lead through; of several latents under the likeliest, the first
        of those alike."""
        likeliest = 0 if self.belief is None else self.belief.argmax(1)
        given = None if self.latents is None else self.latents[torch.arange(self.environments), likeliest]
        return self.model.rollout(self.start, self._given(actions), given).embeddings

    def _given(self, actions: Float[Tensor, "*rows action"]) -> Float[Tensor, "*rows action"]:
        """Actions as the model takes them."""
        actions = actions.to(self.goal.dtype)
        return actions if self.scale is None else (actions - self.scale[0]) / self.scale[1]

    def only(self, environment: int) -> LatentProblem:
        """The problem of one environment by itself."""
        alone = copy.copy(self)
        alone.start = self.start.index(torch.tensor([environment]))
        alone.goal = self.goal[environment : environment + 1].clone()
        alone.haste = self.haste[environment : environment + 1]
        alone.latents = None if self.latents is None else self.latents[environment : environment + 1]
        alone.belief = None if self.belief is None else self.belief[environment : environment + 1]
        alone.environments, alone.ids = 1, None if self.ids is None else [self.ids[environment]]
        alone.objective = _only(self.objective, environment)
        return alone

    def _imagine(self, rows: Tensor, owner: Tensor, future: Tensor) -> Float[Tensor, "rows"]:
        """Costs of some rollouts, each of the environment that owns it, under one of its latents."""
        given = None if self.latents is None else self.latents[owner, future]
        last = self.objective is None and self.reach == "last"
        embeddings = self.model.rollout(self.start, self._given(rows), given, owner, last=last).embeddings
        if self.objective is not None:
            return self.objective(embeddings, rows, owner)
        distances = apart(self.model, embeddings, self.goal[owner][:, None]).flatten(2).sum(2)
        if self.reach != "nearest":
            return distances.sum(1)
        return (distances + self.haste[owner][:, None] * torch.arange(1, self.horizon + 1, device=self.device)).amin(1)


class LatentTreeProblem:
    """A `TreeProblem`: from an observed state, reach a goal embedding by a choice among a few actions at each step.

    Args:
        model, start, goal, horizon, chunk: as of `LatentProblem`; `chunk` counts states predicted at once.
        choices: what the model is given for each choice, `[choice, action]` in its own units: one-hot codes, or blocks.
        key: `key(state of the model) -> int [n]`; states of one key are searched as one, see `TreeProblem`.
        ids: see `Problem`.
        objective: of each state by itself, asked instead of the distance to the goal.

    Errors: as of `LatentProblem`.
    """

    def __init__(
        self,
        model: Dynamics,
        start: State,
        goal: Float[Tensor, "env *tokens dim"],
        choices: Float[Tensor, "choice action"],
        horizon: int,
        *,
        chunk: int | None = None,
        key: Callable[[State], Tensor] | None = None,
        ids: Sequence[int] | None = None,
        objective: Objective | None = None,
    ):
        check_range("horizon", horizon, 1)
        if chunk is not None:
            check_range("chunk", chunk, 1)
        if not len(choices) or not bool(choices.isfinite().all()):
            raise UserError(f"choices: at least one action of finite numbers, got {list(choices.shape)} numbers.")
        with torch.inference_mode(False), torch.no_grad():
            start, goal = _start_and_goal(model, start, goal)
            self.choices = choices.to(goal)
        # Goal and environment go with each state, so that a state says by itself what it costs.
        self.start = State({"model": start.tree, "goal": goal, "owner": torch.arange(len(goal), device=goal.device)})
        self.objective = objective
        self.model, self.horizon, self.chunk, self.model_key = model, horizon, chunk, key
        self.actions, self.ids = len(choices), None if ids is None else list(ids)

    @property
    def key(self) -> Callable[[State], Tensor] | None:
        """The key of a state of the search; None if none was given."""
        given = self.model_key
        return None if given is None else lambda state: given(State(state.tree["model"]))

    def predict(self, state: State, action: Int[Tensor, "n"]) -> State:
        """The state after one action in each of n states."""
        parts = torch.arange(state.batch, device=action.device).split(self.chunk or state.batch)
        if len(parts) == 1:
            return self._predict(state, action)
        return State.concatenate([self._predict(state.index(part), action[part]) for part in parts])

    def _predict(self, state: State, action: Tensor) -> State:
        moved = self.model.predict(State(state.tree["model"]), self.choices[action])
        return State({**state.tree, "model": moved.tree})

    def state_cost(self, state: State) -> Float[Tensor, "n"]:
        """Distance of each state's embedding to its goal, as of `LatentProblem`; or what the objective says."""
        embedding = self.model.embedding(State(state.tree["model"]))
        if self.objective is not None:
            return self.objective(embedding[:, None], None, state.tree["owner"])
        return apart(self.model, embedding, state.tree["goal"]).flatten(1).sum(1)

    def imagine(self, actions: Int[Tensor, "env horizon 1"]) -> Float[Tensor, "env horizon *tokens dim"]:
        """The embeddings that a plan of each environment would lead through."""
        return self.model.rollout(State(self.start.tree["model"]), self.choices[actions[..., 0]]).embeddings

    def only(self, environment: int) -> LatentTreeProblem:
        """The problem of one environment by itself."""
        alone = copy.copy(self)
        alone.start = self.start.index(torch.tensor([environment]))
        alone.ids = None if self.ids is None else [self.ids[environment]]
        return alone
