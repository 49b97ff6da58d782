"""`act`: a world model plans in an environment, beside a policy that acts at random and one that knows the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from jepakit.config import to_plain
from jepakit.device import choose_device, keep_freed_memory
from jepakit.errors import UserError, check_choice, check_range
from jepakit.evaluation.intervals import Interval, wilson
from jepakit.files import write_json
from jepakit.interop.runs import Run
from jepakit.randomness import derive_seed
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.agent import agent, told
from jepakit.verbs.agent import teach as teach_agent
from jepakit.verbs.planning import planning_policy
from jepakit.verbs.recordings import write_recordings
from jepakit.worlds.acting import (
    OraclePolicy,
    Outcome,
    PlanningConfig,
    PlanningPolicy,
    PlanningPrecision,
    Policy,
    RandomPolicy,
    episode_seeds,
    run_episodes,
)
from jepakit.worlds.agent.agent import Agent
from jepakit.worlds.agent.configurator import TaskConfig, read_task
from jepakit.worlds.behaviour_cloning import clone
from jepakit.worlds.choices import is_choice
from jepakit.worlds.environments import make_environment
from jepakit.worlds.planners import PLANNERS
from jepakit.worlds.problem import Reach
from jepakit.worlds.recording import Recorder
from jepakit.worlds.risk import Risk

FORMAT = 1


def act(
    run: str | Path,
    *,
    env: str | Callable[..., Any],
    planner: str = "mppi",
    episodes: int = 100,
    horizon: int = 20,
    replan: int = 5,
    cost: Reach = "sum",
    population: int | None = None,
    elites: int | None = None,
    iterations: int | None = None,
    std: float | None = None,
    deviations: float | None = 2.5,
    observations: int | None = None,
    risk: Risk | None = None,
    futures: int = 16,
    task: str | Path | TaskConfig | None = None,
    mode: Literal[1, 2] | None = None,
    teach: bool = False,
    behaviour_cloning: bool = False,
    together: int = 25,
    seed: int = 0,
    record: int = 3,
    precision: PlanningPrecision = "float32",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> dict[str, Any]:
    """Plan in an environment with a run's world model; writes `acting.json` into the run folder and prints a table.

    The first episodes are recorded for the report: `acting/`, with what each plan imagined.

    Args:
        run: the run folder of a system with dynamics (pldm, lewm, v-jepa-2-ac, pixel-world, h-jepa).
        env: one of ours (docs/worlds.md lists them), or the id of a Gymnasium environment that puts a goal observation into
            info["goal"]; in Python also a function that makes one, and takes `render_mode`.
        planner: random, cem, icem, mppi or gradient; tree where actions are a choice among a few.
        episodes: how many, each with its own start and goal.
        horizon: steps of the model that are imagined; of h-jepa those of its upper level, below it one of them is looked ahead.
        replan: steps that are done before planning again, of h-jepa upper ones; below it plans anew at each step.
        cost: "sum" of the distances to the goal (squared; absolute in a model taught by L1) at all imagined steps, that of the
            "last", or of the "nearest".
        population: candidates of an iteration, of the tree search the width of its beam; None: the planner's own.
        elites: how many of them the next iteration builds on; None: the planner's own.
        iterations: rounds of the search; None: the planner's own.
        std: deviation of the first draws of cem, icem and mppi, in halves of the range of actions; None: the planner's own.
        deviations: plans keep each number of an action within so many deviations of the recorded ones' mean. Fewer keep them
            where the model was trained; with fewer, draw more widely (std). None: within the environment's bounds only.
        observations: newest ones that a plan starts from; None: as many as the model's history. Where that has room for these
            and the horizon, plans are up to twice as fast.
        risk: what a plan costs whose model has a latent, and several futures: their "mean" (also None), the "worst", or a
            quantile such as 0.9.
        futures: how many of a continuous latent; of a discrete one there are as many as codes.
        task: a YAML file that says what to do and how to plan (docs/agent.md), in place of the options above: the agent then
            acts, with its costs, limits and memory.
        mode: 1: the agent reacts, as `teach` taught it; 2: it plans. None: as the task says.
        teach: from what the agent did and met, train its reactive actor (mode 1) and its critic, and keep both in the run.
        behaviour_cloning: train a policy that copies the run's recorded actions (tens of seconds), and show it beside.
        together: environments that are planned for at once.
        seed: draws starts, goals and plans. Episode i is the same with any number of episodes.
        record: episodes of each policy that are kept for the report (animations, states, plans); 0: none.
        precision: of what the model computes: bfloat16 is about twice as fast where it is native; auto: bfloat16 there.
        device: where the model runs.

    Errors: a run without dynamics, an environment without a goal or with other observations than the model's.
    """
    check_choice("planner", planner, [name for name in PLANNERS if name != "amortised"])
    for name, value, least in (("episodes", episodes, 1), ("together", together, 1), ("record", record, 0)):
        check_range(name, value, least)
    folder, where = RunFolder(run), choose_device(device)
    search = {"population": population, "elites": elites, "iterations": iterations, "std": std}
    looking = {
        "horizon": horizon, "replan": replan, "cost": cost, "deviations": deviations, "observations": observations,
        "risk": risk, "futures": futures, "precision": precision,
    }  # fmt: skip
    described = _described(task, mode, planner, search, looking)
    make: Callable[..., Any] = partial(make_environment, env) if isinstance(env, str) else env
    tried = make()
    name = env if isinstance(env, str) else type(tried.unwrapped).__name__
    _check_planner(name, tried.action_space, described.planner)
    has_oracle = hasattr(tried.unwrapped, "oracle_action")
    tried.close()
    recorder = Recorder(episode_seeds(seed, min(record, episodes)))
    opened = Run(run, where)
    if task is not None or mode is not None or teach:
        planning: PlanningPolicy = agent(opened, described, seed=seed, device=where)
    else:
        above = described.make_planner(derive_seed(seed, "above"))  # of a hierarchy
        planning = planning_policy(opened, described.make_planner(seed), described.plan, where, above=above)
    planning.planner = recorder.planner(planning.planner)
    planned = _name(described)
    policies: dict[str, Policy] = {planned: planning, "random": RandomPolicy()}
    if behaviour_cloning:
        cloned = clone(opened.data.train, planning.inputs, seed=opened.config.training.seed)
        policies["behaviour cloning"] = cloned
    if has_oracle:
        policies["oracle"] = OraclePolicy()
    if where.type == "cpu":
        keep_freed_memory()
    rows, said = {}, {}
    for kind, policy in policies.items():
        begun, spent = time.perf_counter(), time.process_time()
        if isinstance(policy, Agent):
            policy.judged = set(recorder.seeds)
        outcomes = run_episodes(recorder.environments(kind, make), policy, episodes, seed, together)
        rows[kind] = _row(outcomes, time.perf_counter() - begun, time.process_time() - spent)
        if isinstance(policy, Agent):
            said = {"task": to_plain(described), **told(policy, outcomes)}
            if teach:
                said["taught"] = teach_agent(policy, folder, seed)
    plans = np.array(planning.seconds)
    result = {
        "format": FORMAT,
        "env": name,
        "planner": {"name": planned, **to_plain(described.plan), **described.search},
        "seed": seed,
        "rows": rows,
        "plan_s": {"mean": float(plans.mean()), "p50": float(np.median(plans)), "p99": float(np.quantile(plans, 0.99))},
        **said,
    }
    write_json(folder.acting, result)  # before anything is drawn: a renderer may end the process
    result["recorded"] = write_recordings(folder.recordings, recorder, make, planned, planning.frame_skip)
    write_json(folder.acting, result)
    console = Console(stderr=True)
    console.print(_table(result))
    for line in _lines(result):
        console.print(line, markup=False)
    return result


def _described(
    task: str | Path | TaskConfig | None, mode: Literal[1, 2] | None, planner: str, search: dict[str, Any],
    looking: dict[str, Any],
) -> TaskConfig:  # fmt: skip
    """The task that was given, or what the options of planning say; in the mode asked for."""
    asked = {name: value for name, value in search.items() if value is not None}
    if task is None:
        if planner == "tree":
            asked = {"beam" if name == "population" else name: value for name, value in asked.items()}
        found = TaskConfig(planner=planner, search=asked, plan=PlanningConfig(**looking))
    else:
        given = {"planner": planner, **looking}
        defaults = {name: signature(act).parameters[name].default for name in given}
        changed = [*asked, *(name for name, value in given.items() if value != defaults[name])]
        if changed:
            raise UserError(
                f"{', '.join(changed)}: the task says how to plan. Write it there (planner, search, plan), or leave --task out."
            )
        found = task if isinstance(task, TaskConfig) else read_task(task)
    return found if mode is None else replace(found, mode=mode)


def _name(task: TaskConfig) -> str:
    """Of the row of the world model's policy."""
    if task.mode == 1:
        return "mode 1"
    return "random shooting" if task.planner == "random" else task.planner  # not the policy of that name


def _lines(result: dict[str, Any]) -> list[str]:
    """What an agent has to tell beside its success."""
    episodes = next(iter(result["rows"].values()))["episodes"]
    lines = [f"{count} times it rested: {reason}." for reason, count in result.get("incidents", {}).items()]
    lines += [f"Zone {name}: entered in {count} of {episodes} episodes." for name, count in result.get("zones", {}).items()]
    for name, row in result["rows"].items():
        if row["errors"]:
            first = next(one["error"] for one in row["outcomes"] if one["error"])
            lines.append(f"{name}: {row['errors']} of {episodes} episodes were ended by the environment: {first}")
    if "taught" in result:
        taught = result["taught"]
        lines.append(
            f"Taught from {taught['steps']:,} steps: the reactive actor (--mode 1), and a critic that foresees the cost "
            f"{taught['critic_delay']} steps ahead with R2 {taught['critic_r2']:.2f} on held-out episodes."
        )
    return lines


def _check_planner(env: str, space: Any, planner: str) -> None:
    """Errors: a planner that does not fit the environment's actions."""
    if is_choice(space) and planner != "tree":
        raise UserError(f"planner: the actions of {env} are a choice among {space.n}. Plan with --planner tree, not {planner}.")
    if planner == "tree" and not is_choice(space):
        raise UserError(f"planner: tree chooses among a few actions, those of {env} are continuous. Plan with --planner icem.")


def _row(outcomes: list[Outcome], seconds: float, cpu: float) -> dict[str, Any]:
    interval: Interval = wilson(sum(outcome.success for outcome in outcomes), len(outcomes))
    steps = sum(outcome.steps for outcome in outcomes)
    return {
        "episodes": len(outcomes),
        "success": interval.value,
        "low": interval.low,
        "high": interval.high,
        "interval": interval.how,
        "reward": float(np.mean([outcome.reward for outcome in outcomes])),
        "steps": steps,
        "seconds_a_step": seconds / steps,
        "cpu_seconds_a_step": cpu / steps,
        "errors": sum(one.error is not None for one in outcomes),
        "outcomes": [
            {"seed": one.seed, "success": one.success, "steps": one.steps, "error": one.error} for one in outcomes
        ],
    }


def _table(result: dict[str, Any]) -> Table:
    first = next(iter(result["rows"].values()))
    shown = Table(title=f"{result['env']}: {first['episodes']} episodes")
    for column in ("policy", "success", "95 %", "reward", "CPU s a step"):
        shown.add_column(column, justify="left" if column == "policy" else "right")
    for name, row in result["rows"].items():
        shown.add_row(
            name, f"{row['success']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", f"{row['reward']:.1f}",
            f"{row['cpu_seconds_a_step']:.4f}",
        )  # fmt: skip
    return shown
