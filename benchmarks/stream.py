"""Streams of 10,000 frames against encoding each frame's window as it would be of a data set: latency and resident memory.

Ours is the median latency (p50) of `jepakit.stream`, the reference the median of what one writes without it: the raw frames
(words, observations) of the window kept in a list, prepared and encoded together each time. The note has the 99th percentiles,
and by how much the process grew from the 1,000th frame to the last.

(a) an image encoder: each frame by itself; (b) a video encoder, a window of 8 frames, a state a tubelet of 2; (c) causal ones:
a language model on texts of 128 words, and world models of 3 observations and (V-JEPA 2-AC) of 16, in episodes of as many.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.timing import _LIBC, Result, resident, seconds
from jepakit.core.dynamics import Dynamics
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.texts.inputs import SPECIAL, TEXTS, TextInputs
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from jepakit.nn.language_model import LanguageModelConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.streaming.stream import Stream, stream
from jepakit.systems.lewm import LeWM, LeWMConfig
from jepakit.systems.llm_jepa import LLMJEPAConfig, TextEncoder
from jepakit.systems.v_jepa_2_ac import VJEPA2AC, VJEPA2ACConfig

FRAMES, SIDE, WINDOW = 10_000, 64, 8
REFERENCE = 31  # states of ours to one of the reference; no divisor of a text's or an episode's length
WORDS, TEXT = 1_000, 128  # of the vocabulary; of a text
EPISODE = 16


def run() -> list[Result]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    photo, clip, text = images().to(device), video().to(device), texts().to(device)
    lewm, v_jepa = world(3).to(device), token_world(photo).to(device)
    return [
        measured("images, ViT nano, 64 px", stream(photo), pictures, 1, partial(encoded, photo, "image")),
        measured(f"video, ViT nano, window of {WINDOW}", stream(clip), pictures, WINDOW, partial(encoded, clip, "clip")),
        measured(f"words, nano, texts of {TEXT}", stream(text), words, TEXT, partial(read, text), episode=TEXT),
        measured("LeWM nano, 3 observations", stream(lewm), pictures, 3, partial(observed, lewm)),
        measured(f"V-JEPA 2-AC nano, {EPISODE}", stream(v_jepa), pictures, EPISODE, partial(observed, v_jepa), episode=EPISODE),
    ]


def measured(
    name: str, opened: Stream, frames: Callable[[int], Iterator[Any]], window: int, plain: Callable[[list], object],
    episode: int | None = None,
) -> Result:
    """Ours over all frames, the reference at some of the states in between, so that what else the machine does falls on both;
    a new text or episode begins every `episode` frames."""
    acts = isinstance(opened.model, Dynamics)
    milliseconds, reference = np.full(FRAMES, np.nan), np.full(FRAMES, np.nan)  # made now: no list is to grow
    memory, held, seen = [], 0, deque(maxlen=window)
    # As far into a text as at the end: keys and values grow with it.
    early = FRAMES // 10 // TEXT * TEXT + (FRAMES - 1) % TEXT
    for number, frame in enumerate(frames(FRAMES)):
        if begins := number % (episode or FRAMES) == 0:
            opened.reset()
            seen.clear()
        seen.append(frame)
        step = opened.push(frame, *([np.ones(4, np.float32)] if acts and not begins else []))
        held = max(held, opened.held)
        if step is not None:
            milliseconds[number] = step.milliseconds
            if number // opened.every % REFERENCE == 0:
                reference[number] = 1000 * seconds(partial(plain, list(seen)))
        if number in (early, FRAMES - 1):
            gc.collect()
            if _LIBC is not None:
                _LIBC.malloc_trim(0)
            memory.append(resident())
    ours, theirs = (np.nanpercentile(side, (50, 99)) for side in (milliseconds, reference))
    note = (
        f"{opened.kind}; p99 {ours[1]:.2f} ms (reference {theirs[1]:.2f}); keeps {held / 1e6:.3f} MB; resident "
        f"{memory[-1] / 1e6:.0f} MB, {(memory[-1] - memory[0]) / 1e6:+.2f} MB from frame {early:,} to {FRAMES:,}"
    )
    return Result(f"stream: {name}", ours[0] / 1000, theirs[0] / 1000, note=note)


def pictures(count: int) -> Iterator[np.ndarray]:
    """Frames of a few different ones, made before they are timed."""
    drawn = np.random.default_rng(0).integers(0, 256, (32, 3, SIDE, SIDE), dtype=np.uint8)
    return (drawn[number % len(drawn)] for number in range(count))


def words(count: int) -> Iterator[str]:
    return (f"word{number}" for number in np.random.default_rng(0).integers(0, WORDS, count))


def images() -> PretrainedEncoder:
    encoder = VisionTransformer(ViTConfig.of_size("nano", (SIDE, SIDE), 3, 8))
    return PretrainedEncoder(encoder, ImageInputs(image_size=(SIDE, SIDE), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3))


def video() -> PretrainedEncoder:
    config = VideoTransformerConfig.of_size("nano", WINDOW, (SIDE, SIDE), 3, 8)
    inputs = VideoInputs(frames=WINDOW, image_size=(SIDE, SIDE), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    return PretrainedEncoder(VideoTransformer(config), inputs, modality=VIDEO)


def texts() -> PretrainedEncoder:
    inputs = TextInputs(vocabulary=(*SPECIAL, *(f"word{number}" for number in range(WORDS))), max_length=TEXT)
    language: LanguageModelConfig = LLMJEPAConfig().language_model(len(inputs.vocabulary) + 1)
    return PretrainedEncoder(TextEncoder(language, 1), inputs, modality=TEXTS)


def world_inputs(history: int) -> TrajectoryInputs:
    return TrajectoryInputs(
        shape=(3, SIDE, SIDE), mean=(0.5,) * 3, std=(0.25,) * 3, action_mean=(0.0,) * 4, action_std=(1.0,) * 4,
        history=history, horizon=1,
    )  # fmt: skip


def world(history: int) -> LeWM:
    return LeWM(LeWMConfig(), world_inputs(history)).eval()


def token_world(encoder: PretrainedEncoder) -> VJEPA2AC:
    return VJEPA2AC(VJEPA2ACConfig(rollout=0.0), world_inputs(EPISODE), encoder=encoder).eval()


@torch.inference_mode()
def encoded(model: PretrainedEncoder, key: str, seen: list[np.ndarray]) -> object:
    raw = torch.from_numpy(np.stack(seen)) if key == "clip" else torch.from_numpy(seen[-1])
    return model.embed(model.inputs.prepare([{key: raw}]).to(next(model.parameters()).device))


@torch.inference_mode()
def read(model: PretrainedEncoder, seen: list[str]) -> object:
    device = next(model.parameters()).device
    return model.embed({name: part.to(device) for name, part in model.inputs.prepare([{"text": " ".join(seen)}]).items()})


@torch.inference_mode()
def observed(model: Any, seen: list[np.ndarray]) -> object:
    actions = torch.ones(len(seen) - 1, 4)
    history = model.inputs.windows([{"observations": torch.from_numpy(np.stack(seen)), "actions": actions}])
    device = next(model.parameters()).device
    return model.embedding(model.observe({name: part.to(device) for name, part in history.items()}))
