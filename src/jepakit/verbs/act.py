"""`act`: a world model plans in an environment, beside a policy that acts at random and one that knows the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from jepakit.config import read_config
from jepakit.errors import UserError, check_choice, check_range
from jepakit.evaluation.intervals import Interval, wilson
from jepakit.files import write_json
from jepakit.training.device import choose_device, keep_freed_memory
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.planning import planning_policy
from jepakit.verbs.pretrain import open_data
from jepakit.verbs.recordings import write_recordings
from jepakit.worlds.acting import (
    OraclePolicy,
    Outcome,
    PlanningConfig,
    PlanningPrecision,
    Policy,
    RandomPolicy,
    episode_seeds,
    run_episodes,
)
from jepakit.worlds.behaviour_cloning import clone
from jepakit.worlds.choices import is_choice
from jepakit.worlds.environments import make_environment
from jepakit.worlds.planners import PLANNERS, make_planner
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
        run: the run folder of a system with dynamics (pldm, lewm, pixel-world).
        env: one of ours (docs/worlds.md lists them), or the id of a Gymnasium environment that puts a goal observation into
            info["goal"]; in Python also a function that makes one, and takes `render_mode`.
        planner: random, cem, icem, mppi or gradient; tree where actions are a choice among a few.
        episodes: how many, each with its own start and goal.
        horizon: steps of the model that are imagined.
        replan: steps that are done before planning again.
        cost: "sum" of the squared distances to the goal at all imagined steps, that of the "last", or of the "nearest".
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
    options = {"population": population, "elites": elites, "iterations": iterations, "std": std}
    asked: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    make: Callable[..., Any] = partial(make_environment, env) if isinstance(env, str) else env
    tried = make()
    name = env if isinstance(env, str) else type(tried.unwrapped).__name__
    _check_planner(name, tried.action_space, planner)
    has_oracle = hasattr(tried.unwrapped, "oracle_action")
    tried.close()
    searched = asked
    if planner == "tree":
        searched = {"beam" if name == "population" else name: value for name, value in asked.items()} | {"cost": cost}
    recorder = Recorder(episode_seeds(seed, min(record, episodes)))
    watched = recorder.planner(make_planner(planner, seed=seed, **searched))
    looking = PlanningConfig(
        horizon=horizon, replan=replan, cost=cost, deviations=deviations, observations=observations, risk=risk, futures=futures,
        precision=precision,
    )
    planning = planning_policy(run, watched, looking, where)
    planned = "random shooting" if planner == "random" else planner  # not the policy of that name
    policies: dict[str, Policy] = {planned: planning, "random": RandomPolicy()}
    if behaviour_cloning:
        config = read_config(run)
        policies["behaviour cloning"] = clone(open_data(config).train, planning.inputs, seed=config.training.seed)
    if has_oracle:
        policies["oracle"] = OraclePolicy()
    rows = {}
    if where.type == "cpu":
        keep_freed_memory()
    for kind, policy in policies.items():
        begun, spent = time.perf_counter(), time.process_time()
        outcomes = run_episodes(recorder.environments(kind, make), policy, episodes, seed, together)
        rows[kind] = _row(outcomes, time.perf_counter() - begun, time.process_time() - spent)
    plans = np.array(planning.seconds)
    result = {
        "format": FORMAT,
        "env": name,
        "planner": {
            "name": planned, "horizon": horizon, "replan": replan, "cost": cost, "deviations": deviations,
            "observations": observations, "risk": risk, "futures": futures, "precision": precision, **asked,
        },
        "seed": seed,
        "rows": rows,
        "plan_s": {"mean": float(plans.mean()), "p50": float(np.median(plans)), "p99": float(np.quantile(plans, 0.99))},
    }
    write_json(folder.acting, result)  # before anything is drawn: a renderer may end the process
    result["recorded"] = write_recordings(folder.recordings, recorder, make, planned, planning.frame_skip)
    write_json(folder.acting, result)
    Console(stderr=True).print(_table(result))
    return result


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
        "outcomes": [{"seed": one.seed, "success": one.success, "steps": one.steps} for one in outcomes],
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
