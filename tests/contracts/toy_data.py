"""A modality as somebody outside the package would write it: four little worlds, made by formula."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from jepakit.modalities.modality import Companion, Inputs, Modality

SAMPLES = 1200
STEPS = 5  # of the base clock of a ward's windows


def frames(rng: np.random.Generator) -> dict[str, Any]:
    """Two pictures of a soft texture that moved by up to 3 pixels between them: `frames [2, 1, 16, 16]`."""
    texture = rng.normal(size=(22, 22))
    texture = sum(np.roll(texture, shift, axis) for axis in (0, 1) for shift in (-1, 0, 1)) / 3
    down, right = rng.integers(0, 4, 2)
    pair = [texture[3:19, 3:19], texture[3 - down : 19 - down, 3 - right : 19 - right]]
    return {"inputs": np.stack(pair)[:, None].astype(np.float32), "flow": np.array([down, right], dtype=np.float32)}


def coins(rng: np.random.Generator) -> dict[str, Any]:
    """Six tokens of four numbers; the last is the first plus or minus 1, as a coin says that no other token tells."""
    tokens = 0.3 * rng.normal(size=(6, 4))
    tokens[5] = tokens[0] + rng.choice([-1.0, 1.0])
    return {"inputs": tokens.astype(np.float32)}


def drift(rng: np.random.Generator) -> dict[str, Any]:
    """Two observations and the action between: the next is the first plus the action plus or minus 1, as a coin says."""
    first, action = 0.3 * rng.normal(size=(2, 4))
    after = first + action + rng.choice([-1.0, 1.0])
    return {"inputs": np.stack([first, after]).astype(np.float32), "actions": action[None].astype(np.float32)}


def walk(rng: np.random.Generator) -> dict[str, Any]:
    """A point that is pushed around, five observations of place and speed."""
    state, seen, actions = rng.normal(size=4), [], rng.normal(size=(STEPS - 1, 2))
    for t in range(STEPS):
        seen.append(state)
        if t < STEPS - 1:
            state = state + np.concatenate([state[2:], actions[t] - 0.2 * state[2:]]) * 0.5
    return {"inputs": np.stack(seen).astype(np.float32), "actions": actions.astype(np.float32)}


def ward(rng: np.random.Generator) -> dict[str, Any]:
    """The walk, seen by two sensors: its speed twice a step with gaps, its place on some steps; half lack the place."""
    world = walk(rng)
    path, speed_times = world["inputs"], np.arange(2 * STEPS) / 2
    seen = rng.uniform(size=STEPS) < 0.6 if rng.uniform() < 0.5 else np.zeros(STEPS, dtype=bool)
    fast = path[speed_times.astype(int), 2:]
    here = rng.uniform(size=2 * STEPS) < 0.8
    place = np.where(seen[:, None], path[:, :2], np.nan)  # what is missing is garbage on purpose
    speed = {"values": np.where(here[:, None], fast, np.nan), "times": speed_times, "present": here}
    places = {"values": place, "times": np.arange(STEPS), "present": seen}
    return {
        "inputs": {"times": np.arange(STEPS, dtype=np.float32), "speed": _floats(speed), "place": _floats(places)},
        "actions": world["actions"],
    }


def _floats(stream: dict[str, Any]) -> dict[str, Any]:
    return {name: part if name == "present" else part.astype(np.float32) for name, part in stream.items()}


WORLDS = {"frames": frames, "coins": coins, "drift": drift, "walk": walk, "ward": ward}


def stack(trees: Sequence[Any]) -> Any:
    """Arrays, or nested dicts of them, of several samples as tensors."""
    if isinstance(trees[0], dict):
        return {name: stack([tree[name] for tree in trees]) for name in trees[0]}
    return torch.from_numpy(np.stack(trees))


@dataclass(frozen=True, kw_only=True)
class ToyDataConfig:
    """Which world, and how much is held out."""

    data: str
    """frames, coins, drift, walk or ward."""
    test_fraction: float = 0.2
    """Share that is held out."""
    limit: int | None = None
    """Train on that many samples only."""


class ToySamples:
    """Samples by number, each from its own random stream."""

    labels = None
    paths = None

    def __init__(self, world: str, ids: Sequence[int] | np.ndarray):
        self.world, self.ids = world, np.asarray(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        return {"id": number, **WORLDS[self.world](np.random.default_rng([7, number]))}

    def subset(self, indices: Sequence[int] | np.ndarray) -> ToySamples:
        return ToySamples(self.world, self.ids[np.asarray(indices)])


@dataclass
class ToyData:
    """The opened world."""

    train: ToySamples
    test: ToySamples
    config: ToyDataConfig
    name: str
    fingerprint: str
    kind: str = "formula"
    noun: str = "samples"
    classes: list[str] | None = None
    task: str | None = None
    notes: list[str] = field(default_factory=list)
    bad_files: list[Any] = field(default_factory=list)
    companions: dict[str, Companion] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ToyInputs(Inputs):
    """Which world an encoder was trained on."""

    world: str

    plain_name: ClassVar[str] = "numbers"

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Any:
        inputs = stack([sample["inputs"] for sample in samples])
        return inputs[:, 0] if self.world == "frames" else inputs

    def plain(self, samples: Sequence[dict[str, Any]]) -> torch.Tensor:
        return stack([np.ravel(sample["inputs"]) for sample in samples])

    def describe(self) -> str:
        return f"the {self.world}"


def open_toy(config: ToyDataConfig, seed: int, source: Any = None) -> ToyData:
    """The samples of a world, the last of them held out."""
    held = round(config.test_fraction * SAMPLES)
    train = np.arange(SAMPLES - held)[: config.limit]
    test = np.arange(SAMPLES - held, SAMPLES)
    digest = hashlib.sha256(f"{config.data} {len(train)} {held}".encode()).hexdigest()
    return ToyData(ToySamples(config.data, train), ToySamples(config.data, test), config, config.data, digest)


TOY = Modality("toy", ToyDataConfig, ToyInputs, open_toy, lambda data: ToyInputs(world=data.name))
