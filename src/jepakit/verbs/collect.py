"""`collect`: episodes of an environment into an episode store, from which world models are trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from jepakit.errors import UserError, check_range, shown
from jepakit.randomness import derive_seed
from jepakit.registry import EPISODE_WRITER, load_named
from jepakit.verbs.planning import planning_policy
from jepakit.worlds.acting import PlanningPolicy
from jepakit.worlds.choices import is_choice
from jepakit.worlds.environments import make_environment
from jepakit.worlds.planners import make_planner

POLICIES = ("random", "heuristic")
_Policy = Callable[[np.random.Generator], Any]


def collect(
    *,
    env: str | Callable[[], Any],
    episodes: int,
    out: str | Path,
    policy: str = "random",
    seed: int = 0,
    steps: int | None = None,
    environments: int = 1,
) -> Path:
    """Collect episodes of a Gymnasium environment into a store. Started again, it goes on after the last whole episode.

    Episode i is a function of seed and i, whatever the number of environments. A store holds observations (from the first
    after the reset to the last one), actions, rewards, terminated, truncated, and states where the environment gives
    info["state"], with what its `state_names` calls them; numbers are of the types that the environment's spaces declare.

    Args:
        env: one of ours (docs/worlds.md lists them), or a registered environment, as gymnasium.make takes it (module:Name-v0
            imports the module first); in Python also a function that makes one.
        episodes: how many the store shall hold in the end.
        out: the folder of the store.
        policy: "random" draws from the action space, "heuristic" asks the environment's own heuristic_action(rng); the folder
            of a run with dynamics plans towards info["goal"] with its world model, as `act` does by default.
        seed: of environments and policy.
        steps: most actions of an episode; one that is stopped so counts as truncated.
        environments: how many are stepped side by side.

    Raises:
        UserError: spaces that cannot be stored, a policy that is not there, a store of other episodes; with the remedy.
    """
    for name, value in (("episodes", episodes), ("environments", environments), ("steps", 1 if steps is None else steps)):
        check_range(name, value, 1)
    _check_policy(policy)
    name = env if isinstance(env, str) else f"{getattr(env, '__module__', '?')}:{getattr(env, '__qualname__', '?')}"
    about = {"environment": name, "policy": policy, "seed": seed, "steps": steps}
    out, console = Path(out).expanduser(), Console(stderr=True)

    @cache
    def planning(planner: str) -> PlanningPolicy:
        return planning_policy(Path(policy).expanduser(), make_planner(planner, seed=seed))

    with ExitStack() as stack:

        def world() -> _World:
            made = _make(env)
            stack.callback(made.close)
            if policy in POLICIES:
                return _World(made, policy, seed, steps)
            return _World(made, copy.copy(planning("tree" if is_choice(made.action_space) else "mppi")), seed, steps)

        worlds = [world()]  # before anything is written
        named = getattr(worlds[0].env.unwrapped, "state_names", None)
        names = {} if named is None else {"state_names": list(named)}
        writer = stack.enter_context(load_named(EPISODE_WRITER)(out, {**about, **names}))
        _agree(writer, about, out)
        numbers = range(len(writer), max(episodes, len(writer)))
        worlds += [world() for _ in range(1, min(environments, len(numbers)))]
        done = track(_run(worlds, numbers, writer), "Collecting episodes", len(numbers), console=console, transient=True)
        returns = list(done)
        found = f"{len(writer):,} episodes, {writer.steps:,} observations"
    size = sum(file.stat().st_size for file in out.glob("*.bin")) / 1e6
    new = f", {len(returns):,} of them new with a mean return of {np.mean(returns):.4g}" if returns else ""
    console.print(f"{found}, {size:,.1f} MB{new}: --data {out}", soft_wrap=True)
    return out


@dataclass
class _Episode:
    """What has happened so far: one observation more than actions."""

    number: int
    observations: list[NDArray] = field(default_factory=list)
    actions: list[NDArray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    states: list[NDArray] = field(default_factory=list)
    ends: tuple[bool, bool] = (False, False)

    def arrays(self) -> dict[str, NDArray]:
        """As they are stored: a row for each observation, zeros where no action follows."""
        steps = len(self.observations)
        made = {
            "observations": np.stack(self.observations),
            "actions": np.stack([*self.actions, np.zeros_like(self.actions[0])]),
            "rewards": np.array([*self.rewards, 0.0]),
            "terminated": np.zeros(steps, dtype=bool),
            "truncated": np.zeros(steps, dtype=bool),
        }
        made["terminated"][-2], made["truncated"][-2] = self.ends
        if self.states:
            made["states"] = np.stack(self.states)
        return made


class _World:
    """An environment and the episode it is in. Nothing resets it but `begin`: no frame is lost or mixed."""

    def __init__(self, env: Any, policy: str | PlanningPolicy, seed: int, most: int | None):
        self.env, self.seed, self.most = env, seed, most
        self.store_action = _action_codec(env)
        _check_observations(env)
        limit = env.spec.max_episode_steps if env.spec is not None else None
        if most is None and limit is None:
            raise UserError(f"{_called(env)} has no limit of steps of its own. Give one with --steps, for example --steps 200.")
        self.actions = copy.deepcopy(env.action_space)  # environments may share one space, and each draws for itself
        self.planning = None if isinstance(policy, str) else policy
        if self.planning is not None:
            self.policy: _Policy = lambda rng: self._planned()
        else:
            self.policy = (lambda rng: self.actions.sample()) if policy == "random" else _heuristic(env)
        self.episode: _Episode | None = None

    def begin(self, number: int) -> None:
        """Start an episode: everything random in it comes from (seed, number)."""
        self.episode = _Episode(number)
        self.rng = np.random.default_rng(derive_seed(self.seed, "policy", number))
        self.actions.seed(derive_seed(self.seed, "actions", number) % 2**31)
        self._see(*self.env.reset(seed=derive_seed(self.seed, "collect", number) % 2**31))
        if self.planning is not None:
            self.planning.begin([self.env], [derive_seed(self.seed, "plans", number) % 2**31])

    def step(self) -> _Episode | None:
        """Take an action; the episode, once it has ended."""
        episode = self.episode
        assert episode is not None
        action = self.policy(self.rng)
        episode.actions.append(self.store_action(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._see(observation, info)
        episode.rewards.append(float(reward))
        stopped = self.most is not None and len(episode.actions) >= self.most
        if not (terminated or truncated or stopped):
            return None
        episode.ends = bool(terminated), bool(truncated) or (stopped and not terminated)
        self.episode = None
        return episode

    def _planned(self) -> NDArray:
        assert self.planning is not None
        assert self.episode is not None
        action = self.planning.act([self.episode.observations[-1]], [self.info])[0]
        return action if is_choice(self.actions) else np.clip(action, self.actions.low, self.actions.high)

    def _see(self, observation: Any, info: dict[str, Any]) -> None:
        assert self.episode is not None
        self.info = info
        space = self.env.observation_space
        seen = np.array(observation, dtype=space.dtype)  # a copy: many environments write into the same array again
        if seen.shape != space.shape:
            raise UserError(
                f"{_called(self.env)} gives observations of shape {list(seen.shape)}, its space says {list(space.shape)}. "
                "Mend the environment's observation_space."
            )
        if not np.isfinite(seen).all():
            raise UserError(
                f"{_called(self.env)} gave an observation with NaN or infinite numbers, which nothing can be learned from. "
                "Mend the environment, or end its episodes before it breaks down. The episodes before this one are kept."
            )
        self.episode.observations.append(seen)
        if "state" in info:
            self.episode.states.append(np.array(info["state"]))


def _run(worlds: Sequence[_World], numbers: range, writer: Any) -> Iterator[float]:
    """Step all worlds in turn until the episodes are written, in order; gives the return of each that was."""
    waiting = iter(numbers)
    finished: dict[int, _Episode] = {}
    for world in worlds[: len(numbers)]:
        world.begin(next(waiting))
    while len(writer) < numbers.stop:
        for world in worlds:
            if world.episode is None:
                continue
            if (episode := world.step()) is not None:
                finished[episode.number] = episode
                if (number := next(waiting, None)) is not None:
                    world.begin(number)
        ready: list[_Episode] = []
        while (number := len(writer) + len(ready)) in finished:
            ready.append(finished.pop(number))
        writer.extend([episode.arrays() for episode in ready])
        yield from (sum(episode.rewards) for episode in ready)


def _make(env: str | Callable[[], Any]) -> Any:
    return make_environment(env, disable_env_checker=True) if isinstance(env, str) else env()


def _called(env: Any) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _check_policy(policy: str) -> None:
    if policy not in POLICIES and not Path(policy).expanduser().is_dir():
        raise UserError(f"policy: {shown(policy)} is not known. Valid: {', '.join(POLICIES)}, or the folder of a run.")


def _check_observations(env: Any) -> None:
    from gymnasium.spaces import Box

    if not isinstance(env.observation_space, Box):
        raise UserError(
            f"{_called(env)} observes {shown(env.observation_space)}, and a store holds arrays of one shape (a Box). From "
            "Python, give env=lambda: gymnasium.wrappers.FlattenObservation(gymnasium.make(...)), or choose one of its parts "
            "with gymnasium.wrappers.FilterObservation first."
        )


def _action_codec(env: Any) -> Callable[[Any], NDArray]:
    """How an action is stored: of a Box as it is, of a Discrete space one-hot, as uint8."""
    from gymnasium.spaces import Box, Discrete

    space = env.action_space
    if isinstance(space, Box):
        return lambda action: np.array(action, dtype=space.dtype)
    if isinstance(space, Discrete):
        return lambda action: (np.arange(int(space.n)) == int(action) - int(space.start)).astype(np.uint8)
    raise UserError(
        f"{_called(env)} takes actions of {shown(space)}, and a store holds those of a Box or a Discrete space. Wrap the "
        "environment (gymnasium.wrappers.TransformAction) and give collect a function that makes it."
    )


def _heuristic(env: Any) -> _Policy:
    act = getattr(env.unwrapped, "heuristic_action", None)
    if act is None:
        raise UserError(
            f"policy: {_called(env)} has no heuristic of its own, a method heuristic_action(rng). Use --policy random."
        )

    def checked(rng: np.random.Generator) -> Any:
        action = act(rng)
        if not env.action_space.contains(action):
            action = np.asarray(action, dtype=env.action_space.dtype)  # of another type of number, perhaps, but of the space
            if not env.action_space.contains(action):
                raise UserError(
                    f"{_called(env)}: its heuristic_action gives {shown(action)}, outside its space {shown(env.action_space)}."
                )
        return action

    return checked


def _agree(writer: Any, about: dict[str, Any], out: Path) -> None:
    """A store goes on with what made it, or not at all."""
    differing = [name for name, value in about.items() if writer.about.get(name) != value]
    if differing:
        found = ", ".join(f"{name} {writer.about.get(name)!r}" for name in differing)
        raise UserError(f"out: {out} was collected with {found}. Give the same options to go on, or another folder.")
