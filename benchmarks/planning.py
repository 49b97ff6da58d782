"""Planning: CEM at LeWorldModel's size against the multiply-adds it needs, fewer evaluations, and what PLDM spends where.

Run with OMP_NUM_THREADS=1 or --threads N; each ratio is of one process, both sides taking turns.

1. CEM 300 x 30 x 5 (arXiv 2603.19312) with a predictor of 10.8 M parameters, from one observation (as an episode begins) and
   from three; with the paper's windows of three observations, and with windows of eight. The floor is the time of matrix
   products of as many multiply-adds as one pass through every weight of the predictor takes for each imagined step: what it
   costs if each step is one token, with nothing around the products. A window that slides is counted from another observation,
   so that its tokens have other positions and are worked out anew: the multiply-adds that the method itself needs are in the
   note. A window of eight holds three observations and five steps, and never slides.
2. The same model, goals that a known plan reaches (the least cost is 0): what is left of the cost of doing nothing, and
   seconds, by CEM as published and by searches of fewer evaluations, cold and from the last plan.
3. PLDM's step of an environment on Two Rooms, as the recipe plans: what observing, imagining and searching take of it, and what
   it would take with one of the things undone that make it cheap.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import SIDE
from benchmarks.timing import Result, seconds
from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State
from jepakit.device import keep_freed_memory
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.nn.cached_rollout import ROWS
from jepakit.systems.lewm import PAPER, LeWM, LeWMConfig
from jepakit.systems.pldm import PLDM, PLDMConfig
from jepakit.worlds.latent_problem import LatentProblem
from jepakit.worlds.planners import make_planner
from jepakit.worlds.problem import ActionSpace, Planner, shifted

POPULATION, ITERATIONS, HORIZON, ELITES = 300, 30, 5, 30
BLOCK = 10  # numbers of an action block: five actions of two
ROUNDS = 5
GOALS = 2  # problems of known least cost


def run() -> list[Result]:
    keep_freed_memory()
    return [*arithmetic(lewm(3)), *arithmetic(lewm(8)), *fewer_evaluations(lewm(3)), *itemised()]


def lewm(history: int) -> LeWM:
    """The paper's predictor on vectors, its weights moved from where they start, so that actions matter."""
    torch.manual_seed(0)
    ones, zeros = (1.0,) * BLOCK, (0.0,) * BLOCK
    inputs = TrajectoryInputs(
        shape=(4,), mean=(0.0,) * 4, std=(1.0,) * 4, action_mean=zeros, action_std=ones, history=history, horizon=1
    )
    model = LeWM(LeWMConfig(**{**PAPER, "patch_size": None}), inputs)
    with torch.no_grad():
        for block in model.predictor.blocks:
            block.modulation[1].weight.normal_(0, 0.02)
            block.modulation[1].bias.normal_(0, 0.2)
    return model.eval()


def problem(model: Dynamics, observations: int, goal: Tensor | None = None) -> LatentProblem:
    """One environment, some observations seen."""
    generator = torch.Generator().manual_seed(1)
    seen = torch.randn(1, observations, 4, generator=generator)
    done = torch.randn(1, observations - 1, BLOCK, generator=generator)
    with torch.no_grad():
        state = model.observe({"inputs": seen, "actions": done})
    goal = torch.randn(1, model.config.embedding, generator=generator) if goal is None else goal
    return LatentProblem(model, state, goal, ActionSpace(-torch.ones(BLOCK), torch.ones(BLOCK)), HORIZON, cost="last")


def arithmetic(model: LeWM) -> list[Result]:
    """One iteration of CEM's thirty, which are alike, against its floor."""
    predictor = model.predictor
    weights = sum(p.numel() for p in predictor.parameters() if p.ndim == 2)
    blocks = sum(p.numel() for p in predictor.blocks.parameters() if p.ndim == 2)
    floor = POPULATION * HORIZON * weights
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    products = max(1, round(floor / SIDE**3))
    results = []
    for observations in (1, 3):
        task = problem(model, observations)
        actions = torch.rand(1, POPULATION, HORIZON, BLOCK) * 2 - 1
        needed = POPULATION * multiply_adds(model, observations) / floor
        sides = partial(task.cost, actions), lambda: [a @ b for _ in range(products)]
        with torch.inference_mode():
            rounds = [tuple(map(seconds, sides)) for _ in range(ROUNDS)]
        ours, reference = (min(side) for side in zip(*rounds, strict=True))
        reference *= floor / (products * SIDE**3)
        ratio = statistics.median(one / other for one, other in rounds) * products * SIDE**3 / floor
        name = f"planning: LeWM's CEM from {observations} of {model.inputs.history} observations"
        note = (
            f"reference: the floor, {ITERATIONS * floor / 1e12:.2f} T multiply-adds at {floor / reference * 2e-9:.0f} GFLOP/s, "
            f"{weights / 1e6:.2f} M a step ({blocks / 1e6:.2f} M in the blocks); the method needs {needed:.2f} times as many; "
            f"took {ours / reference:.2f} times the floor (median of rounds {ratio:.2f})"
        )
        results.append(Result(name, ITERATIONS * ours, ITERATIONS * reference, note=note))
    return results


def multiply_adds(model: LeWM, observations: int) -> int:
    """Of a row's rollout: those of linear layers, counted while it runs."""
    task, counted = problem(model, observations), 0
    original = torch.nn.functional.linear

    def counting(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        nonlocal counted
        counted += x.numel() // x.shape[-1] * weight.numel()
        return original(x, weight, bias)

    torch.nn.functional.linear = counting
    try:
        with torch.inference_mode():
            few, many = 1, 1 + ROWS // 2
            task.cost(torch.zeros(1, few, HORIZON, BLOCK))
            single, counted = counted, 0
            task.cost(torch.zeros(1, many, HORIZON, BLOCK))
    finally:
        torch.nn.functional.linear = original
    return (counted - single) // (many - few)


def fewer_evaluations(model: LeWM) -> list[Result]:
    """Searches on goals that a plan is known to reach, the first the published one."""
    tasks = []
    for number in range(GOALS):
        generator = torch.Generator().manual_seed(10 + number)
        start = problem(model, 1)
        known = torch.rand(1, HORIZON, BLOCK, generator=generator) * 2 - 1
        with torch.no_grad():
            goal = model.rollout(start.start, known).embeddings[:, -1]
        tasks.append((problem(model, 1, goal), known))
    with torch.no_grad():
        still = [float(task.cost(torch.zeros(1, 1, HORIZON, BLOCK))) for task, _ in tasks]
    searches: dict[str, tuple[Planner, bool]] = {
        "CEM 300 x 30": (make_planner("cem", population=300, iterations=30, elites=30, std=1.0), False),
        "iCEM 64 x 8": (make_planner("icem", population=64, iterations=8, elites=8, exponent=0.0), False),
        "gradient 1 x 40": (make_planner("gradient", starts=1, iterations=40, learning_rate=0.3), False),
        "gradient 1 x 16": (make_planner("gradient", starts=1, iterations=16, learning_rate=0.5), False),
        "gradient 1 x 8, from the last plan": (make_planner("gradient", starts=1, iterations=8, learning_rate=0.2), True),
    }
    results, reference = [], 0.0
    for name, (planner, warm) in searches.items():
        left, spent, evaluations = [], [], 0
        for (task, known), before in zip(tasks, still, strict=True):
            # A plan made a step ago: the known one but for its end, which was not planned yet, and a little off.
            last = shifted(known.roll(1, 1), 1) + 0.1 * torch.randn(known.shape, generator=torch.Generator().manual_seed(5))
            begun = time.perf_counter()
            plan = planner(task, task.space.clip(last) if warm else None)
            spent.append(time.perf_counter() - begun)
            left.append(float(plan.cost) / before)
            evaluations = plan.evaluations
        reference = reference or statistics.mean(spent)
        note = f"cost left: {statistics.mean(left):.3f} of doing nothing's (worst: {max(left):.3f}); {evaluations:,} plans"
        results.append(Result(f"planning: {name}", statistics.mean(spent), reference, note=note))
    return results


def itemised() -> list[Result]:
    """PLDM on Two Rooms as the recipe plans: 25 environments at once, iCEM 64 x 3, 20 steps ahead, anew at each step of the
    model, which is four of the environment. In seconds of one step of one environment. What seeing again and more rounds
    would take is computed from the parts, the rest is measured."""
    together, population, iterations, skip = 25, 64, 3, 4
    model = rooms_model(skip)
    whole, observe, imagine = planning_seconds(model, together, population, iterations, 20, skip)
    parts = {"observe": observe, "imagine": imagine, "search": max(whole - observe - imagine, 0.0)}
    results = [Result(f"planning: PLDM, {name}", value, whole) for name, value in parts.items()]
    alone = planning_seconds(model, 1, population, iterations, 20, skip)[0]
    single = planning_seconds(rooms_model(1), together, population, iterations, 80, 1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        halved = planning_seconds(model, together, population, iterations, 20, skip)[0]
    undone = {
        "each environment by itself": alone,
        "a model of single actions, 80 ahead": single,
        "seen again in each round": whole + (iterations - 1) * observe,
        "seen again by each candidate": whole + (population - 1) * iterations * observe,
        "ten rounds instead of three": whole + (10 - iterations) * (imagine + parts["search"]) / iterations,
        "bfloat16": halved,
    }
    return results + [Result(f"planning: PLDM, {name}", value, whole) for name, value in undone.items()]


def rooms_model(skip: int) -> PLDM:
    """The default model of Two Rooms for blocks of `skip` actions, at random weights."""
    zeros, ones = (0.0,) * 2 * skip, (1.0,) * 2 * skip
    inputs = TrajectoryInputs(
        shape=(2, 65, 65), mean=(0.0,) * 2, std=(1.0,) * 2, action_mean=zeros, action_std=ones, history=1, horizon=4
    )
    return PLDM(PLDMConfig(), inputs).eval()


def planning_seconds(
    model: PLDM, together: int, population: int, iterations: int, horizon: int, skip: int
) -> tuple[float, float, float]:
    """Of a step of one environment: the whole, to observe, and to imagine what the search evaluates."""
    pictures, none = torch.randn(together, 1, 2, 65, 65), torch.zeros(together, 0, 2 * skip)
    space = ActionSpace(-2.45 * torch.ones(2), 2.45 * torch.ones(2), most=2.45)
    planner = make_planner("icem", population=population, elites=8, iterations=iterations, std=2.0)

    def observed() -> State:
        with torch.inference_mode():
            return model.observe({"inputs": pictures, "actions": none})

    state = observed()
    goal = torch.randn_like(model.embedding(state))
    task = LatentProblem(model, state, goal, space, horizon, skip=skip, cost="nearest")
    evaluated: list[Tensor] = []

    class Watched:
        """The problem, which keeps what it was asked."""

        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

        def cost(self, actions: Tensor) -> Tensor:
            evaluated.append(actions)
            return task.cost(actions)

    planner(Watched())

    def imagined() -> None:
        with torch.inference_mode():
            for actions in evaluated:
                task.cost(actions)

    sides: tuple[Callable[[], object], ...] = (observed, imagined, lambda: planner(task))
    rounds = [[seconds(side) for side in sides] for _ in range(ROUNDS)]
    observe, imagine, plan = (min(side) / (together * skip) for side in zip(*rounds, strict=True))
    return observe + plan, observe, imagine
