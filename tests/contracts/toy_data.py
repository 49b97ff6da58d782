"""A modality as somebody outside the package would write it: little worlds, made by formula."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from jepakit.modalities.modality import Companion, Inputs, Modality

SAMPLES = 1200
SENSORS = ("speed", "place")  # of a ward
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


def cloud(rng: np.random.Generator) -> dict[str, Any]:
    """Twelve points anywhere in a square and the height of a wave there, long or short: `[12, (x, y, height)]`."""
    kind, phase, places = int(rng.integers(2)), rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1, (12, 2))
    heights = np.sin((2 + 4 * kind) * places[:, :1] + phase)
    return {"inputs": np.concatenate([places, heights], axis=1).astype(np.float32), "kind": kind}


WORLDS = {"frames": frames, "coins": coins, "drift": drift, "walk": walk, "ward": ward, "cloud": cloud}


def stack(trees: Sequence[Any]) -> Any:
    """Arrays, or nested dicts of them, of several samples as tensors."""
    if isinstance(trees[0], dict):
        return {name: stack([tree[name] for tree in trees]) for name in trees[0]}
    return torch.from_numpy(np.stack(trees))


@dataclass(frozen=True, kw_only=True)
class ToyDataConfig:
    """Which world, and how much is held out."""

    data: str
    """frames, coins, drift, walk, ward or cloud."""
    test_fraction: float = 0.2
    """Share that is held out."""
    limit: int | None = None
    """Train on that many samples only."""


class ToySamples:
    """Samples by number, each from its own random stream."""

    paths = None

    def __init__(self, world: str, ids: Sequence[int] | np.ndarray):
        self.world, self.ids = world, np.asarray(ids)

    @property
    def labels(self) -> np.ndarray | None:
        """Whether the wave of a cloud is short."""
        return np.array([self[index]["label"] for index in range(len(self))]) if self.world == "cloud" else None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        sample = {"id": number, **WORLDS[self.world](np.random.default_rng([7, number]))}
        if "kind" in sample:
            sample["label"] = sample.pop("kind")
        return sample

    def subset(self, indices: Sequence[int] | np.ndarray) -> ToySamples:
        return ToySamples(self.world, self.ids[np.asarray(indices)])


class ToyWindows(ToySamples):
    """Samples of the walk or the ward as windows for a world model: every one is a recording of its own, its path known."""

    history, frame_skip, state_names = 2, 1, ("x", "y", "speed x", "speed y")

    @property
    def owners(self) -> np.ndarray:
        return self.ids

    def subset(self, indices: Sequence[int] | np.ndarray) -> ToyWindows:
        return ToyWindows(self.world, self.ids[np.asarray(indices)])

    def known_states(self) -> np.ndarray:
        return np.stack([walk(np.random.default_rng([7, int(number)]))["inputs"] for number in self.ids])

    def observations(self, windows: np.ndarray, times: np.ndarray) -> list[dict[str, Any]]:
        return [self._until(self[int(window)], int(time)) for window, time in zip(windows, times, strict=True)]

    def _until(self, sample: dict[str, Any], time: int) -> dict[str, Any]:
        inputs = sample["inputs"]
        if self.world == "walk":
            return {"id": sample["id"], "inputs": inputs[time : time + 1]}
        said = {name: inputs[name]["present"] & (inputs[name]["times"] <= time) for name in SENSORS}
        streams = {name: {**inputs[name], "present": said[name]} for name in SENSORS}
        return {"id": sample["id"], "inputs": {"times": inputs["times"][time : time + 1], **streams}}


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


class ToyWorld(ToyData):
    """An opened world whose samples are windows of time."""

    def windows(self, horizon: int, most: int, seed: int) -> tuple[ToyWindows, ToyWindows]:
        """All windows have five observations, whatever the horizon."""
        train, test = (ToyWindows(self.name, part.ids[:most]) for part in (self.train, self.test))
        return train, test


@dataclass(frozen=True, kw_only=True)
class ToyInputs(Inputs):
    """Which world an encoder was trained on."""

    world: str

    modality: ClassVar[str] = "toy"
    plain_name: ClassVar[str] = "numbers"

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Any:
        inputs = stack([sample["inputs"] for sample in samples])
        return inputs[:, 0] if self.world == "frames" else inputs

    def plain(self, samples: Sequence[dict[str, Any]]) -> torch.Tensor:
        return stack([self._numbers(sample["inputs"]) for sample in samples])

    def _numbers(self, inputs: Any) -> np.ndarray:
        if self.world != "ward":
            return np.ravel(inputs)
        seen = [np.where(inputs[name]["present"][:, None], inputs[name]["values"], 0).ravel() for name in SENSORS]
        return np.concatenate(seen).astype(np.float32)

    def windows(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {name: stack([sample[name] for sample in samples]) for name in ("inputs", "actions")}

    def first(self, inputs: Any, steps: int) -> Any:
        """Of a ward the base clock is cut: what a sensor says later is not seen before."""
        return {**inputs, "times": inputs["times"][:, :steps]} if self.world == "ward" else super().first(inputs, steps)

    def describe(self) -> str:
        return f"the {self.world}"


def open_toy(config: ToyDataConfig, seed: int, source: Any = None) -> ToyData:
    """The samples of a world, the last of them held out."""
    held = round(config.test_fraction * SAMPLES)
    train = np.arange(SAMPLES - held)[: config.limit]
    test = np.arange(SAMPLES - held, SAMPLES)
    digest = hashlib.sha256(f"{config.data} {len(train)} {held}".encode()).hexdigest()
    kind = ToyWorld if config.data in ("walk", "ward") else ToyData
    labels = {"classes": ["long", "short"], "task": "classification"} if config.data == "cloud" else {}
    return kind(ToySamples(config.data, train), ToySamples(config.data, test), config, config.data, digest, **labels)


TOY = Modality("toy", ToyDataConfig, ToyInputs, open_toy, lambda data: ToyInputs(world=data.name))
