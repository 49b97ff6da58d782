"""Stacks clips and still pictures into batches and hides tubes of them, for every system that learns from video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from jepakit.errors import UserError, check_range
from jepakit.masks.tubes import TubeConfig, Tubes
from jepakit.modalities.images.crops import crop_resize
from jepakit.modalities.images.views import random_resized_boxes
from jepakit.modalities.modality import sample_draws, training_facts
from jepakit.modalities.pixels import unit
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.modalities.video.samples import pixels_of

STREAMS = ("video", "image")  # the main one first


@dataclass(frozen=True, kw_only=True)
class ClipAugmentation:
    """What is drawn of a clip while it is learned from, the same for all of its frames."""

    crop: tuple[float, float] | None = None
    """Share of a frame's area in a random crop of 3/4 to 4/3 of its proportions (the released 0.3 1.0). Default: the centre."""
    flip: float = 0.0
    """Probability of the mirror image (the released 0.5). Default: never, as motion mirrored may be another motion."""

    def __post_init__(self) -> None:
        check_range("augment.flip", self.flip, 0, 1)
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            low, high = self.crop
            raise UserError(f"augment.crop must be two numbers with 0 < low <= high <= 1, got {low} {high}.")


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
        augment: which crop of a clip, and whether mirrored.
    """

    inputs: VideoInputs
    masks: TubeConfig
    grids: dict[str, tuple[int, int, int]]
    seed: int
    views: int | None = None
    still_frames: int = 1
    tell: bool = False
    augment: ClipAugmentation = ClipAugmentation()

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
        prepared = self.inputs.prepare(samples) if self.augment.crop is None else self._cropped(name, samples)
        if self.augment.flip > 0:
            mirrored = torch.from_numpy(sample_draws(samples, self.seed, f"flip of {name}").uniform() < self.augment.flip)
            prepared = torch.where(mirrored[:, None, None, None, None], prepared.flip(-1), prepared)
        return prepared.expand(-1, -1, frames, -1, -1).contiguous() if name == "image" else prepared

    def _cropped(self, name: str, samples: Sequence[dict[str, Any]]) -> Tensor:
        area, size = self.augment.crop or (1.0, 1.0), self.inputs.image_size
        cropped = []
        for sample in samples:
            clip = unit(pixels_of(sample))
            draws, sizes = sample_draws([sample], self.seed, f"crop of {name}"), torch.tensor([clip.shape[2:]])
            boxes = random_resized_boxes(sizes, area, draws, 1, size).expand(len(clip), -1, -1)
            cropped.append(crop_resize(clip, sizes.expand(len(clip), 2), boxes[:, 0], size))
        return self.inputs.normalise(torch.stack(cropped)).transpose(1, 2)
