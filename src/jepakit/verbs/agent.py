"""A run's world model as an agent: with the parts that the run folder holds, for `act` and for use by itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepakit.core.hierarchy import Hierarchy
from jepakit.errors import UserError
from jepakit.files import read_json
from jepakit.interop.runs import Run
from jepakit.training.run_folder import RunFolder
from jepakit.training.weight_files import read_weights, write_weights
from jepakit.verbs.planning import frame_skip_of, world_of
from jepakit.worlds.acting import Outcome
from jepakit.worlds.agent.actor import ReactiveActor, distil
from jepakit.worlds.agent.agent import Agent
from jepakit.worlds.agent.configurator import TaskConfig, read_task
from jepakit.worlds.agent.critic import Critic, train_critic
from jepakit.worlds.agent.intrinsic_cost import StateReader
from jepakit.worlds.agent.network import Standardised

SHOWN = 20  # incidents that are told one by one


def agent(
    run: str | Path | Run, task: str | Path | TaskConfig | None = None, *, seed: int = 0, device: torch.device | None = None
) -> Agent:
    """The agent of a run: its world model, and what `evaluate` (the network that reads states) and `act --teach` (critic and
    reactive actor) have left in the folder.

    Args:
        run: the run folder of a system with dynamics, or that run, opened.
        task: a YAML file or a `TaskConfig`; None: reach the goal.
        seed: of the planner's draws.
        device: where the model runs.

    Errors: a run without dynamics; a task that asks for a part that is not there.
    """
    run = Run.of(run, device)
    folder, model = RunFolder(run.path), world_of(run)
    if isinstance(model, Hierarchy):
        raise UserError(
            f"{run.path} plans on two levels, and a task describes one: leave --task, --mode and --teach out, or act with the "
            "run of its lower level."
        )
    described = task if isinstance(task, TaskConfig) else TaskConfig() if task is None else read_task(task)
    critic = actor = None
    if folder.critic.exists():
        critic = Critic.of(read_weights(folder.critic), folder.critic)
    if folder.actor.exists():
        actor = ReactiveActor(Standardised.of(read_weights(folder.actor), folder.actor))
    return Agent(
        model, model.inputs, described, frame_skip=frame_skip_of(run), reader=_reader(folder, device),
        critic=critic and critic.to(device), actor=actor and actor.to(device), seed=seed,
    )  # fmt: skip


def _reader(folder: RunFolder, device: torch.device | None) -> StateReader | None:
    """The network that reads states, with the names of what it reads; None where `evaluate` left none."""
    if not folder.state_reader.exists() or not folder.evaluation.exists():
        return None
    names = ((read_json(folder.evaluation).get("world_model") or {}).get("state") or {}).get("variables")
    network = Standardised.of(read_weights(folder.state_reader), folder.state_reader)
    return None if names is None else StateReader(tuple(names), network.to(device))


def teach(made: Agent, folder: RunFolder, seed: int) -> dict[str, Any]:
    """Train critic and reactive actor from an agent's memory, keep both in the run folder; what `acting.json` says of it.

    Errors: too few episodes to learn from.
    """
    actor = distil(made.memory, seed=seed)
    critic, r2 = train_critic(made.memory, seed=seed)
    write_weights(folder.actor, actor.network.state_dict())
    write_weights(folder.critic, critic.tensors())
    return {"steps": len(made.memory.entries()), "critic_r2": r2, "critic_delay": critic.delay}


def told(made: Agent, outcomes: list[Outcome]) -> dict[str, Any]:
    """What `acting.json` holds of an agent's episodes beside their success: why it rested, which zones were really entered,
    and of the episodes that were recorded what each cost added to each plan, and what was remembered."""
    reasons = [incident.reason for incident in made.incidents]
    return {
        "incidents": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
        "first_incidents": [
            {"seed": one.seed, "step": one.step, "reason": one.reason} for one in made.incidents[:SHOWN]
        ],
        "zones": zones(made, outcomes),
        "judgements": {str(seed): _judged(made, seed) for seed in sorted(made.judged)},
        "memory": remembered(made),
    }


def _judged(made: Agent, seed: int) -> dict[str, Any]:
    """By step at which a plan was made: what each term added, None where it forbade the plan; how likely each future was
    taken to be, where memory was asked."""
    given = [one for one in made.judgements if one.seed == seed]
    names = given[0].parts if given else ()
    return {
        "steps": [one.step for one in given],
        "parts": {name: [_number(one.parts[name]) for one in given] for name in names},
        "belief": [one.belief for one in given] if given and given[0].belief is not None else None,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def zones(made: Agent, outcomes: list[Outcome]) -> dict[str, int]:
    """Episodes in which each zone of the task was really entered, by the states that the environment tells; margins are the
    model's and not counted. Zones of variables that it does not tell are left out."""
    found = {}
    for term in made.configurator.task.costs:
        if term.kind != "zone" or made.reader is None:
            continue
        columns = [made.reader.column(str(name)) for name in term.where]
        low, high = np.array([list(map(float, bounds)) for bounds in term.where.values()]).T
        told = [np.stack(outcome.states) for outcome in outcomes if outcome.states]
        if told and all(states.ndim == 2 and states.shape[1] == len(made.reader.names) for states in told):
            inside = [((states[:, columns] > low) & (states[:, columns] < high)).all(1).any() for states in told]
            found[term.title] = int(sum(inside))
    return found


def remembered(made: Agent) -> dict[str, Any]:
    """How much was met and imagined; how far what was imagined lay from what was then met (surprise), beside how far a step
    goes; and by time, of the recorded episodes, the cost that was met and the surprise."""
    counts: dict[str, Any] = {kind: len(made.memory.entries(kind == "imagined")) if made.memory.holds(kind == "imagined") else 0
              for kind in ("met", "imagined")}  # fmt: skip
    if not counts["met"]:
        return {**counts, "episodes": {}}
    met = made.memory.entries()
    rows = {key: row for row, key in enumerate(zip(met.episode.tolist(), met.time.tolist(), strict=True))}
    surprise = torch.full((len(met),), math.nan)
    moved = surprise.clone()
    if counts["imagined"]:
        ahead = made.memory.entries(imagined=True)
        for number, key in enumerate(zip(ahead.episode.tolist(), ahead.time.tolist(), strict=True)):
            row, before = rows.get(key), rows.get((key[0], key[1] - 1))
            if row is not None and before is not None:
                surprise[row] = (ahead.state[number] - met.state[row]).norm()
                moved[row] = (met.state[row] - met.state[before]).norm()
    known = surprise.isfinite()
    if bool(known.any()):
        counts |= {"surprise": float(surprise[known].mean()), "moved": float(moved[known].mean())}
    episodes = {}
    for seed in sorted(made.judged):
        own = met.episode == seed
        episodes[str(seed)] = {
            "steps": (met.time[own] * made.frame_skip).tolist(),
            "cost": [_number(value) for value in met.cost[own].tolist()],
            "surprise": [_number(value) for value in surprise[own].tolist()],
        }
    return {**counts, "episodes": episodes}
