"""Episodes kept for looking at: what was done and where it led, each plan with what the model imagined of it, and frames.

Nothing here costs time while an agent acts: actions and states are noted as they pass, a plan keeps the state it started
from, and what is imagined or drawn is worked out afterwards. Frames come from doing the same actions again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from jepakit.errors import UserError, check_range
from jepakit.worlds.latent_problem import LatentProblem, LatentTreeProblem
from jepakit.worlds.problem import Plan, Planner

PLANS = 12  # of an episode that are kept, evenly spaced
FRAMES, SIDE, COLOURS = 60, 128, 32  # of an animation at most
BYTES = 200_000  # of an animation about at most: longer ones lose frames
LENGTH = 6.0  # seconds that an animation lasts


@dataclass
class Recording:
    """One episode: actions `[step, action]`, states `[step + 1, variable]` where the environment tells them, and its end."""

    seed: int
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    states: list[NDArray] = field(default_factory=list)
    goal: NDArray | None = None
    success: bool = False


@dataclass(frozen=True, eq=False)
class RecordedPlan:
    """A plan of one episode, made at `step`; its problem can be asked what the model thinks of any other plan."""

    seed: int
    step: int
    problem: LatentProblem | LatentTreeProblem
    actions: Float[Tensor, "horizon action"] | Int[Tensor, "horizon 1"]

    def imagined(self) -> Float[np.ndarray, "horizon dim"]:
        """Embeddings that the plan was expected to lead through."""
        with torch.no_grad():
            return self.problem.imagine(self.actions[None])[0].flatten(1).float().cpu().numpy()

    def landscape(self, points: int = 21) -> dict[str, Any] | None:
        """What plans cost that do one action all the time, over a grid of the first two numbers of an environment's action.

        The others stay as the plan has them on average. With a single number the grid has one row. None where actions are a
        choice among a few, which have no axes.
        """
        check_range("points", points, 2)
        if isinstance(self.problem, LatentTreeProblem):
            return None
        space, horizon = self.problem.space, self.problem.horizon
        width = space.size // space.parts
        mean = self.actions.unflatten(1, (space.parts, width)).mean((0, 1))
        ends = [(float(space.low[k]), float(space.high[k])) for k in range(min(width, 2))]
        axes = [torch.linspace(low, high, points, device=mean.device) for low, high in ends]
        grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        repeated = mean.expand(len(grid), width).clone()
        repeated[:, : len(axes)] = grid.to(mean)
        plans = repeated.repeat(1, space.parts)[:, None].expand(-1, horizon, -1)
        with torch.no_grad():
            cost = self.problem.cost(plans[None])[0]
            chosen = float(self.problem.cost(self.actions[None, None])[0, 0])
        return {
            "axes": [axis.tolist() for axis in axes],
            "cost": cost.reshape(-1, points).cpu().tolist() if len(axes) == 2 else [cost.cpu().tolist()],
            "chosen": self.actions.unflatten(1, (space.parts, width))[0, 0, : len(axes)].cpu().tolist(),
            "mean": mean[: len(axes)].cpu().tolist(),
            "plan_cost": chosen,
            "step": self.step,
            "horizon": horizon,
        }


class _Watched:
    """An environment that notes the episodes of some seeds; in all else it is the environment."""

    def __init__(self, environment: Any, episodes: dict[int, Recording]):
        self._environment, self._episodes = environment, episodes
        self._now: Recording | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self._environment.reset(seed=seed, options=options)
        self._now = None
        if seed is not None and seed in self._episodes:
            self._now = self._episodes[seed] = Recording(seed, goal=info.get("goal_state"))
            self._note(info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._environment.step(action)
        if self._now is not None:
            self._now.actions.append(np.array(action, copy=True))
            self._note(info)
            self._now.success = bool(info.get("success", terminated))
        return observation, reward, terminated, truncated, info

    def _note(self, info: dict[str, Any]) -> None:
        if self._now is not None and info.get("state") is not None:
            self._now.states.append(np.array(info["state"], dtype=np.float32).reshape(-1))


class Recorder:
    """Notes the episodes of some seeds under each policy, and the plans made in them.

    seeds: of the episodes, as `run_episodes` resets environments with.
    """

    def __init__(self, seeds: Sequence[int]):
        self.seeds = list(seeds)
        self.episodes: dict[str, dict[int, Recording]] = {}
        self.plans: dict[int, list[RecordedPlan]] = {seed: [] for seed in self.seeds}

    def environments(self, policy: str, make: Callable[[], Any]) -> Callable[[], Any]:
        """`make`, whose environments note what this policy does in them."""
        noted = self.episodes.setdefault(policy, {seed: Recording(seed) for seed in self.seeds})
        return lambda: _Watched(make(), noted)

    def planner(self, planner: Planner) -> Planner:
        """The planner, whose plans are noted. It answers as before."""

        def noting(problem: Any, warm: Tensor | None = None, step: int | Sequence[int] = 0) -> Plan:
            plan = planner(problem, warm, step=step)
            ours = isinstance(problem, LatentProblem | LatentTreeProblem)
            if ours and problem.ids is not None and isinstance(step, int):
                for row, seed in enumerate(problem.ids):
                    if seed in self.plans:
                        self.plans[seed].append(RecordedPlan(seed, step, problem.only(row), plan.actions[row].detach()))
            return plan

        return noting

    def chosen_plans(self, policy: str, seed: int) -> list[RecordedPlan]:
        """Some of the plans of an episode, evenly spaced, none from after its end."""
        steps = len(self.episodes[policy][seed].actions)
        made = [plan for plan in self.plans[seed] if plan.step < steps]
        if len(made) <= PLANS:
            return made
        return [made[int(i)] for i in np.linspace(0, len(made) - 1, PLANS).round()]


def render_again(make: Callable[[], Any], episode: Recording) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Frames of a recorded episode, by doing its actions again from its seed.

    make: makes the environment with `render_mode="rgb_array"`.

    Errors: the environment draws nothing.
    """
    environment = make()
    try:
        environment.reset(seed=episode.seed)
        frames = [environment.render()]
        for action in episode.actions:
            environment.step(action)
            frames.append(environment.render())
    finally:
        environment.close()
    if any(not isinstance(frame, np.ndarray) or frame.ndim != 3 for frame in frames):
        raise UserError("render() gave no picture [height, width, 3]: this environment does not draw itself.")
    return frames


def animation(frames: Sequence[UInt8[np.ndarray, "height width 3"]]) -> bytes:
    """An animated GIF of at most 60 frames of at most 128 pixels a side, in 32 colours; of about 200 kB at most."""
    count = min(len(frames), FRAMES)
    while True:
        chosen = [frames[int(i)] for i in np.linspace(0, len(frames) - 1, count).round()]
        written = _gif(chosen)
        if len(written) <= BYTES or count <= 8:
            return written
        count = max(8, count * 2 // 3)


def _gif(frames: Sequence[NDArray[np.uint8]]) -> bytes:
    pictures = [Image.fromarray(np.ascontiguousarray(frame[..., :3])) for frame in frames]
    for picture in pictures:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    ends = [pictures[0], pictures[len(pictures) // 2], pictures[-1]]  # what all of them need colours for
    together = Image.fromarray(np.concatenate([np.asarray(picture) for picture in ends]))
    palette = together.quantize(COLOURS, dither=Image.Dither.NONE)
    flat = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    pause = int(max(20, 1000 * LENGTH / len(flat)))
    pauses = [pause] * (len(flat) - 1) + [1500]  # ms
    flat[0].save(buffer, "GIF", save_all=True, append_images=flat[1:], loop=0, duration=pauses, optimize=False)
    return buffer.getvalue()
