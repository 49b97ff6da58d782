"""`stream`: a state for each frame (observation, word, graph) as it comes, in fixed memory, with its latency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State, map_tree
from jepakit.device import choose_device
from jepakit.errors import UserError, check_range
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.load import load
from jepakit.interop.runs import PretrainedWorld, Run, is_run
from jepakit.nn.tokens import Tokens
from jepakit.streaming.memory import Kind, Memory, device_of, memory_of
from jepakit.streaming.world import World

REMEMBERED = 10_000  # states whose latencies the percentiles are taken of


@dataclass(frozen=True)
class Latency:
    """Milliseconds from a frame's arrival to its state, of the last `states` of them: median, 99th percentile, the longest."""

    states: int
    p50: float
    p99: float
    longest: float

    def __str__(self) -> str:
        return f"p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms, longest {self.longest:.2f} ms (the last {self.states:,} states)"


@dataclass(frozen=True, eq=False)
class StreamStep:
    """The state after a frame.

    embedding: `[dim]`, the mean of its tokens; with `pooled=False` the tokens, `[tokens, dim]` (of a world model whose
        embeddings are one vector, that).
    frame: number of the newest frame, from 0.
    milliseconds: from its arrival to this state.
    state: of a world model what it predicts and plans from, a batch of one; None of encoders.
    """

    embedding: Float[Tensor, "*tokens dim"]
    frame: int
    milliseconds: float
    state: State | None = None


class Stream:
    """Takes frames one by one, `push(frame)`, and answers with states. Made by `jepakit.stream`, see there."""

    def __init__(self, model: torch.nn.Module, memory: Memory, every: int | None, pooled: bool):
        self.model, self.pooled = model, pooled
        self.every = memory.every if every is None else every
        check_range("every", self.every, 1)
        self._memory, self._said, self._device = memory, False, device_of(model)
        self._times = np.zeros(REMEMBERED)
        self.reset()
        self._say()

    @property
    def kind(self) -> Kind:
        """How the newest state was made: "each" frame by itself; "incremental", from what is kept of earlier ones; or "window",
        worked out anew from the last frames."""
        return self._memory.kind

    @property
    def window(self) -> int:
        """The most frames (of a text: words) that a state is made of."""
        return self._memory.window

    @property
    def held(self) -> int:
        """Bytes of tensors that are kept from one frame to the next."""
        return sum(tensor.nbytes for tensor in self._memory.kept())

    @property
    def latency(self) -> Latency:
        """Of the last states. Errors: there was none yet."""
        if not self.states:
            raise UserError("There is no state yet whose latency could be told. Push frames first.")
        times = self._times[: min(self.states, REMEMBERED)]
        middle, late = np.percentile(times, (50, 99)).tolist()
        return Latency(len(times), middle, late, float(times.max()))

    def reset(self) -> None:
        """Begin anew: another film, episode or text. The latencies, too, are forgotten."""
        self.frames, self.states = 0, 0
        self._memory.reset()

    def push(self, frame: Any, action: Any = None) -> StreamStep | None:
        """One more frame, and the state after it; None between the states (`every`), and before the model can have one.

        Args:
            frame: of images and video an array or tensor `[channels, height, width]`, `uint8` or floats in [0, 1]; of
                trajectories an observation as episodes hold it; of texts a word or more; of graphs a `Graph`.
            action: of a world model what was done since the frame before, `frame_skip` actions in a row as episodes hold them;
                of the first frame none.

        Errors: a frame of another shape or kind of numbers, NaN; the stream then stays as it was, and may go on.
        """
        begin = time.perf_counter()
        with torch.inference_mode():
            self._memory.add(frame, action)
            self.frames += 1
            found = self._memory.state() if self.frames % self.every == 0 else None
            embedding = None if found is None else self._embedding(found)
            if embedding is not None and self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            elif embedding is not None and self._device.type == "mps":
                torch.mps.synchronize()
        milliseconds = 1000 * (time.perf_counter() - begin)
        self._say()
        if found is None or embedding is None:
            return None
        self._times[self.states % REMEMBERED] = milliseconds
        self.states += 1
        # Ordinary tensors, which a probe may learn from and a planner find gradients through, and whose memory is theirs.
        state = State(map_tree(Tensor.clone, found.tree)) if isinstance(found, State) else None
        return StreamStep(embedding.clone(), self.frames - 1, milliseconds, state)

    def offline(self, frames: Sequence[Any], actions: Sequence[Any] = ()) -> list[Tensor]:
        """The embeddings that `push` answers with, each worked out from the raw frames of its window as on a data set:
        `model(model.inputs.prepare([...]))`, of a world model `model.observe`. Nothing of it is remembered.

        actions: of a world model those between the frames, one fewer.

        Errors: a frame that `push` would refuse; another number of actions.
        """
        between = max(0, len(frames) - 1) if isinstance(self.model, Dynamics) else 0
        if len(actions) != between:
            raise UserError(f"{len(frames)} frames of this stream have {between} actions between them, got {len(actions)}.")
        found = []
        with torch.no_grad():
            for end in range(self.every, len(frames) + 1, self.every):
                one = self._memory.offline(frames[:end], actions[: end - 1])
                if one is not None:
                    found.append(self._embedding(one))
        return found

    def _embedding(self, found: Tokens | State) -> Float[Tensor, "*tokens dim"]:
        if isinstance(found, State):
            model: Any = self.model
            embedding = model.embedding(found)[0]
            return embedding.mean(0) if self.pooled and embedding.ndim == 2 else embedding
        if self.pooled:
            return found.mean()[0]
        return found.values[0] if found.lengths is None else found.values[0, : int(found.lengths[0])]

    def _say(self) -> None:
        """Once, where the whole window is worked out for each state: that costs as many times as much as a frame."""
        if self.kind == "window" and not self._said:
            self._said = True
            Console(stderr=True).print(f"stream: {self._memory.about}.", soft_wrap=True, highlight=False)

    def __repr__(self) -> str:
        often = "" if self.every == 1 else f", a state every {self.every} frames"
        return f"Stream({self.kind}: {self._memory.about}{often}; {self.frames:,} frames so far)"


def stream(
    model: Any,
    *,
    window: int | None = None,
    every: int | None = None,
    pooled: bool = True,
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None,
) -> Stream:
    """A stream of states of a model: frames are pushed one by one, and each answers with the state after it.

    The states are those of the model on the last `window` frames, and memory does not grow with their number. How much is
    worked out for each depends on the model, and `stream.kind` says it: encoders of single things (images, graphs,
    observations) encode "each" frame by itself; encoders of clips, whose tokens see each other in both directions of time, work
    out the whole "window" anew; causal models (texts, world models) are "incremental".

    Args:
        model: what `load` gives; or a path that it takes; or a world model, or the path of its run, whose states are of
            observations and actions (for its encoder alone give `load(run)`).
        window: frames (of a text: words) that a state is made of. Default: as many as the model was trained on.
        every: frames from one state to the next. Default: 1, for clips the frames of a token (its tubelet).
        pooled: embeddings are the mean of their tokens; False: all tokens.
        device: where it runs. Default: where the model is; of a path, "auto".

    Errors: a model that cannot be streamed; a window that it cannot have.
    """
    opened = _opened(model, device)
    if isinstance(opened, Dynamics):
        return Stream(opened, World(opened, window), every, pooled)
    if opened.training:
        raise UserError("This encoder is in training mode. Call eval() on it before streaming.")
    return Stream(opened, memory_of(opened, window), every, pooled)


def _opened(model: Any, device: str | None) -> PretrainedEncoder | Dynamics:
    """The model, on its device, ready to use."""
    if isinstance(model, str | Path):
        where, path = choose_device(device or "auto"), Path(model)
        if not is_run(path):
            return load(path).to(where)
        run = Run(path, where)
        return run.system.requires_grad_(False) if isinstance(run.system, Dynamics) else run.encoder().to(where)
    found = model.model if isinstance(model, PretrainedWorld) else model
    if not isinstance(found, PretrainedEncoder | Dynamics):
        raise UserError(
            f"stream takes a run folder, a folder that export wrote, what jepakit.load gives, or a world model; got "
            f"{type(model).__name__}. A system in training is saved as a run first: stream('runs/...'). An encoder of your own "
            "is wrapped: jepakit.interop.encoder.PretrainedEncoder(encoder, inputs)."
        )
    return found if device is None else found.to(choose_device(device))
