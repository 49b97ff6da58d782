"""V-JEPA 2-AC in Two Rooms, small: a frozen I-JEPA of single frames, its predictor with and without the loss on rollouts.

    python recipes/v_jepa_2_ac.py --threads 1 --seeds 0

1. An I-JEPA on 5,000 frames, dot and walls as red and green. 2. `v-jepa-2-ac` on its frozen tokens, with `--change "teacher
forcing"` on single steps alone. 3. On episodes of another seed the L1 of imagined to true tokens after 1, 2, 4 and 8 steps of
four actions, beside those of another episode's actions and of standing still. 4. Planning by CEM to pictures of places 6 to 14
pixels away in the same room, beside random actions: success is to be within 4.5 pixels at the end. 5. To places as near on the
other side of the door, with the goal's picture alone, and with that of the dot in the doorway first.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from seeds import arguments, successes

import jepakit
from jepakit.files import read_json, write_json
from jepakit.interop.runs import Run
from jepakit.modalities.trajectories.built_in.two_rooms import HIGH, LOW, TwoRoomsConfig, picture, two_rooms_episodes
from jepakit.worlds.goals import InSequence
from jepakit.worlds.two_rooms_environment import TwoRooms

FRAMES, ENCODER_STEPS, STEPS, EPISODES = 5_000, 100, 4_000, 50
HORIZONS = (1, 2, 4, 8)
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {}, "teacher forcing": {"rollout": 0.0}, "not residual": {"residual": False},
}  # fmt: skip
PLANNED: dict[str, Any] = {
    "planner": "cem", "cost": "last", "horizon": 4, "replan": 2, "population": 64, "iterations": 3, "deviations": 1.3,
    "std": 2.0,
}  # fmt: skip


class Reach(gymnasium.Wrapper):
    """Two Rooms with a goal 6 to 14 pixels away in the same room, for 40 steps."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        start = np.array(self.env.reset(seed=seed)[1]["state"][:2], dtype=np.float64)
        rng, wall = np.random.default_rng(seed), self.unwrapped.rooms.wall[0]
        while True:
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(6, 14)
            goal = start + distance * np.array([np.cos(angle), np.sin(angle)])
            same_room = (start[0] < wall) == (goal[0] < wall) and abs(goal[0] - wall) > 3
            if same_room and (goal >= LOW).all() and (goal <= HIGH).all():
                return self.env.reset(seed=seed, options={"goal": goal})


def reach(render_mode: str | None = None) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(Reach(TwoRooms(render_mode, fixed=True)), 40)


class Across(gymnasium.Wrapper):
    """Two Rooms with start and goal 6 to 12 pixels from the door, on both sides of it, for 60 steps."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.env.reset(seed=seed)
        rng, rooms = np.random.default_rng(seed), self.unwrapped.rooms
        side, angles, distances = rng.choice([-1, 1]), rng.uniform(-0.6, 0.6, 2), rng.uniform(6, 12, 2)
        ends = [
            (rooms.wall[0] + sign * distance * np.cos(angle), rooms.door[0] + distance * np.sin(angle))
            for sign, angle, distance in zip((side, -side), angles, distances, strict=True)
        ]
        return self.env.reset(seed=seed, options={"start": ends[0], "goal": ends[1]})


def across(render_mode: str | None = None, first: bool = True) -> gymnasium.Env:
    """first: for half of the time the goal is the picture of the dot in the doorway."""

    def doorway(world: Any, rng: np.random.Generator) -> list[Any]:
        return [picture(world.rooms, np.stack([world.rooms.wall, world.rooms.door], 1), world.config)[0]]

    made = gymnasium.wrappers.TimeLimit(Across(TwoRooms(render_mode, fixed=True)), 60)
    return InSequence(made, doorway, [30]) if first else made


TASKS = {"reach": reach, "across": partial(across, first=False), "across, the doorway first": across}


def encoder(out: Path, threads: int | None) -> Path:
    """An I-JEPA of single frames; what is there is not done again."""
    folder, frames = out / "v-jepa-2-ac-encoder", out / "two-rooms-frames.npy"
    if not (folder / "model.safetensors").exists():
        episodes = two_rooms_episodes(TwoRoomsConfig(fixed=True))
        chosen = np.sort(np.random.default_rng(0).choice(len(episodes.observations), FRAMES, replace=False))
        seen = np.concatenate([episodes.observed(slice(row, row + 1)) for row in chosen.tolist()])
        out.mkdir(parents=True, exist_ok=True)
        np.save(frames, np.pad(seen, ((0, 0), (0, 1), (0, 0), (0, 0))))  # no blue
        jepakit.pretrain(
            "i-jepa", data=str(frames), out=folder, image_size=(65, 65), patch_size=13, ema=0.99, batch_size=64,
            steps=ENCODER_STEPS, threads=threads,
        )  # fmt: skip
    return folder


def trained(change: str, seed: int, out: Path, threads: int | None) -> Path:
    """The world model, trained on all episodes: what measures it has others."""
    folder = out / f"v-jepa-2-ac-{change.replace(' ', '-')}-seed{seed}"
    if not (folder / "model.safetensors").exists():
        jepakit.pretrain(
            "v-jepa-2-ac", data="two-rooms-fixed", out=folder, encoder=str(encoder(out, threads)), steps=STEPS, batch_size=16,
            horizon=3, test_fraction=0.0, seed=seed, threads=threads, **CHANGES[change],
        )  # fmt: skip
    return folder


@torch.no_grad()
def errors(folder: Path) -> dict[str, list[float]]:
    """L1 to the true tokens by horizon, on 64 episodes that nothing was trained on."""
    run = Run(folder)
    system, config = run.system, run.config
    skip, most = config.dataset.frame_skip, HORIZONS[-1]
    episodes = two_rooms_episodes(TwoRoomsConfig(fixed=True), seed=1, episodes=64)
    samples = [
        {
            "observations": torch.from_numpy(episodes.observed(slice(begin, begin + most * skip + 1, skip))),
            "actions": torch.from_numpy(episodes.actions[begin : begin + most * skip].reshape(most, -1)),
        }
        for begin in episodes.starts[:-1].tolist()
    ]
    windows = system.inputs.windows(samples)
    true = system.encode(windows["inputs"]).values
    first = {"inputs": windows["inputs"][:, :1], "actions": windows["actions"][:, :0]}
    found = {
        "own actions": system.imagined(first, windows["actions"]),
        "another's actions": system.imagined(first, windows["actions"].roll(1, 0)),
        "nothing moves": true[:, :1].expand(-1, most, -1),
    }
    return {
        name: [float((z[:, h - 1] - true[:, h]).abs().mean()) for h in HORIZONS] for name, z in found.items()
    }


def main() -> None:
    asked = arguments(__doc__ or "", list(CHANGES))
    folders = [trained(asked.change, seed, asked.out, asked.threads) for seed in asked.seeds]
    lines = [f"| seed | L1 after | {' | '.join(map(str, HORIZONS))} |", "|---" * (2 + len(HORIZONS)) + "|"]
    for seed, folder in zip(asked.seeds, folders, strict=True):
        for name, values in errors(folder).items():
            lines.append(f"| {seed} | {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
        for name, env in TASKS.items():
            if not (folder / f"{name}.json").exists():
                done = jepakit.act(folder, env=env, episodes=EPISODES, seed=100 + seed, record=0, **PLANNED)
                write_json(folder / f"{name}.json", done)
    print("\n".join(lines))
    for name in TASKS:
        print(successes(f"{name}, changed: {asked.change}", [read_json(folder / f"{name}.json")["rows"] for folder in folders]))


if __name__ == "__main__":
    main()
