"""Stacks windows of trajectories into batches, for every system that learns dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jepakit.modalities.modality import sample_draws, sample_facts
from jepakit.modalities.trajectories.inputs import TrajectoryInputs

NOISE = 0.1  # deviations of an observation's numbers


@dataclass(frozen=True)
class WindowCollator:
    """Stacks windows; for LiDAR also views of each last observation, the same with other sensor noise.

    Frames that follow each other are no views of one state: that they differ is what the predictor lives on, and an
    encoder that sees it would score worse. Noise of the sensor is what an embedding of any modality should not hold.
    """

    inputs: TrajectoryInputs
    seed: int
    views: int | None = None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {**self.inputs.windows(samples), **sample_facts(samples)}
        if self.views is not None:
            last = batch["inputs"][:, None, -1:]
            noise = sample_draws(samples, self.seed, "views").normal(self.views, 1, *self.inputs.shape)
            batch["views"] = last + NOISE * torch.from_numpy(noise).to(last)
        return batch
