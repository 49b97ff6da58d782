"""Windows as a world model sees them: embeddings, actions, known states, and what it imagines; a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jepakit.core.batch import map_tensors
from jepakit.core.dynamics import Dynamics
from jepakit.errors import UserError
from jepakit.evaluation.surprise import others_of
from jepakit.modalities.modality import Windows
from jepakit.randomness import derive_seed

HORIZON = 16  # steps of the model that are imagined, where recordings are that long
MOST = 256  # windows of each part
NUMBERS = 2**25  # of all embeddings of a part at most: 128 MiB
TOGETHER = 32  # windows whose observations are in memory at once


@dataclass(frozen=True, eq=False)
class EmbeddedWindows:
    """Windows of one part of the data; the first `history` observations are what a rollout stands on.

    embeddings `[window, time, dim]` and actions `[window, time - 1, action]` as the model has them (normalised), states
    `[window, time, variable]` None where there are none, owners: the number of the recording that each window is of;
    windows: where they are from.
    """

    embeddings: Float[Tensor, "window time dim"]
    actions: Float[Tensor, "window steps action"]
    states: Float[np.ndarray, "window time variable"] | None
    owners: Int[np.ndarray, "window"]
    windows: Windows

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def history(self) -> int:
        """Observations that a rollout stands on."""
        return self.windows.history

    @property
    def flat_states(self) -> Float[np.ndarray, "n variable"]:
        """The state of every observation, window after window. Errors: the data knows none."""
        if self.states is None:
            raise UserError("These recordings have no states: a probe has nothing to read.")
        return self.states.reshape(-1, self.states.shape[-1]).astype(np.float64)

    @property
    def start(self) -> Float[Tensor, "window dim"]:
        """The newest embedding that a rollout stands on."""
        return self.embeddings[:, self.history - 1]

    @property
    def after(self) -> Float[Tensor, "window horizon dim"]:
        """The true embeddings of what is imagined."""
        return self.embeddings[:, self.history :]

    @property
    def ahead(self) -> Float[Tensor, "window horizon action"]:
        """The actions that lead there."""
        return self.actions[:, self.history - 1 :]


def embed_windows(system: Dynamics, windows: Windows, device: torch.device) -> EmbeddedWindows:
    """Embed whole windows; of wide embeddings fewer windows.

    Errors: embeddings that are not finite.
    """
    embeddings: list[Tensor] = []
    actions: list[Tensor] = []
    count = 0
    for samples in _batches(windows):
        batch = system.inputs.windows(samples)
        with torch.no_grad():
            inputs = map_tensors(lambda tensor: tensor.to(device), batch["inputs"])
            embeddings.append(system.encode(inputs).values.flatten(2).float().cpu())
        actions.append(batch["actions"])
        count += len(samples)
        if count * embeddings[0][0].numel() >= NUMBERS and count >= 16:
            break
    kept: Any = windows.subset(np.arange(count))
    joined = torch.cat(embeddings)
    if not bool(joined.isfinite().all()):
        raise UserError("The model's embeddings hold NaN or infinite numbers: it diverged in training. Train it again.")
    return EmbeddedWindows(joined, torch.cat(actions), kept.known_states(), kept.owners, kept)


def imagine(
    system: Dynamics, embedded: EmbeddedWindows, actions: Float[Tensor, "window horizon action"], device: torch.device
) -> Float[Tensor, "window horizon dim"]:
    """What the model imagines from each window's first observations, with these actions instead of the window's own."""
    imagined, done = [], 0
    for samples in _batches(embedded.windows):
        batch = system.inputs.windows(samples)
        history = {
            "inputs": map_tensors(lambda tensor: tensor.to(device), system.inputs.first(batch["inputs"], embedded.history)),
            "actions": batch["actions"][:, : embedded.history - 1].to(device),
        }
        with torch.no_grad():
            chosen = actions[done : done + len(samples)].to(device)
            imagined.append(system.imagined(history, chosen).flatten(2).float().cpu())
        done += len(samples)
    return torch.cat(imagined)


def _batches(windows: Windows) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(windows), TOGETHER):
        yield [windows[i] for i in range(start, min(start + TOGETHER, len(windows)))]


def observations_of(embedded: EmbeddedWindows, chosen: Int[np.ndarray, "n"]) -> Iterator[list[dict[str, Any]]]:
    """Single observations as samples, some at a time: number `i` is time `i % time` of window `i // time`."""
    time = embedded.embeddings.shape[1]
    for start in range(0, len(chosen), TOGETHER * 8):
        numbers = chosen[start : start + TOGETHER * 8]
        yield embedded.windows.observations(numbers // time, numbers % time)


def anothers(embedded: EmbeddedWindows, seed: int) -> Int[Tensor, "window"]:
    """For each window one of another recording."""
    return torch.from_numpy(others_of(embedded.owners, derive_seed(seed, "another window") % 2**32))
