"""Stacks clips and still pictures into batches and hides tubes of them, for every system that learns from video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from jepakit.masks.tubes import TubeConfig, Tubes
from jepakit.modalities.modality import sample_draws, training_facts
from jepakit.modalities.video import VideoInputs

STREAMS = ("video", "image")  # the main one first


@dataclass(frozen=True)
class ClipCollator:
    """`collator(samples) -> batch` of the masked shape: of clips alone, or with stills a batch of each named stream.

    Args:
        inputs: what the encoder expects.
        masks: how tubes are drawn.
        grids: (time, rows, columns) of the tokens of each stream.
        seed: of the masks.
        views: clips alone, with that many masks each.
        still_frames: how often a still picture is repeated (V-JEPA 2 reads it as a clip in which nothing moves).
        tell: whether batches say as a one-hot condition which stream they are of.
    """

    inputs: VideoInputs
    masks: TubeConfig
    grids: dict[str, tuple[int, int, int]]
    seed: int
    views: int | None = None
    still_frames: int = 1
    tell: bool = False

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        facts = training_facts(samples)
        clips = [sample for sample in samples if "stream" not in sample]
        if self.views is not None or not self.inputs.stills:
            return {**self._stream("video", clips), **facts}
        stills = [sample for sample in samples if sample.get("stream") == "image"]
        return {"video": self._stream("video", clips), "image": self._stream("image", stills), **facts}

    def _stream(self, name: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        tubes = Tubes(self.masks, self.grids[name], self.views)
        drawn = tubes(sample_draws(samples, self.seed, f"masks of {name}"))
        batch: dict[str, Any] = {
            "inputs": self._prepare(name, samples),
            **drawn.batch(),
            "id": torch.tensor([sample["id"] for sample in samples], dtype=torch.int64),
        }
        if self.tell:
            kind = torch.full((len(samples),), STREAMS.index(name))
            batch["condition"] = one_hot(kind, len(STREAMS)).to(batch["inputs"].dtype)
        if samples and "label" in samples[0]:
            batch["label"] = torch.as_tensor(np.stack([sample["label"] for sample in samples]))
        return batch

    def _prepare(self, name: str, samples: Sequence[dict[str, Any]]) -> Tensor:
        frames = self.still_frames if name == "image" else self.inputs.frames
        if not samples:  # a process may have no sample of a stream
            return torch.zeros(0, self.inputs.channels, frames, *self.inputs.image_size)
        prepared = self.inputs.prepare(samples)
        return prepared.expand(-1, -1, frames, -1, -1).contiguous() if name == "image" else prepared
