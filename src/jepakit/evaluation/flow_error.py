"""End-point error: how far a flow takes the pixels of a frame from where they really went, beside what needs no learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jepakit.errors import UserError, check_range
from jepakit.modalities.moving_photographs import MovingPhotographs

BATCH = 64


@dataclass(frozen=True)
class FlowErrors:
    """Mean end-point errors over clips, in pixels; each clip counts alike, its pixels that leave the frame do not count.

    flow: of the model. zero: of saying that nothing moves. shift: of the one whole-pixel shift of each pair of frames that
    makes them most alike. best_shift: of the mean of the known flow of each pair, which no method can know.
    """

    flow: float
    zero: float
    shift: float
    best_shift: float


def flow_errors(
    flow: Callable[[Tensor, Tensor], Tensor], inputs: Any, dataset: Any, clips: int | None = None, search: int = 6
) -> FlowErrors:
    """Errors on the first frames of clips whose flow is known.

    Args:
        flow: `flow(first, second) -> [batch, 2, h, w]`, right and down in pixels, of prepared frames.
        inputs: prepares them (`VideoInputs`).
        dataset: `ClipDataset` of moving photographs, all frames of a clip at their own size.
        clips: how many, evenly spaced; None: all.
        search: how far `shift` looks, in pixels each way.

    Errors: clips whose flow is not known.
    """
    if not isinstance(dataset.clips, MovingPhotographs):
        raise UserError("The flow of these clips is not known. Take moving-photographs.")
    check_range("clips", len(dataset) if clips is None else clips, 1, len(dataset))
    chosen = torch.linspace(0, len(dataset) - 1, len(dataset) if clips is None else clips).round().long().tolist()
    total: dict[str, float] = dict.fromkeys(("flow", "zero", "shift", "best_shift"), 0.0)
    for start in range(0, len(chosen), BATCH):
        samples = [dataset[index] for index in chosen[start : start + BATCH]]
        first, second = inputs.prepare(samples)[:, :, :2].unbind(2)
        known = torch.stack([torch.from_numpy(dataset.clips.flow(sample["id"])) for sample in samples])
        valid = stays_inside(known)
        with torch.no_grad():
            found = flow(first, second)
        guesses = {
            "flow": found,
            "zero": torch.zeros_like(known),
            "shift": alike_shift(first, second, search)[:, :, None, None].expand_as(known),
            "best_shift": (mean_inside(known, valid))[:, :, None, None].expand_as(known),
        }
        for name, guess in guesses.items():
            total[name] += float(mean_inside(end_point_error(guess, known)[:, None], valid).sum())
    return FlowErrors(**{name: value / len(chosen) for name, value in total.items()})


def end_point_error(flow: Float[Tensor, "batch 2 h w"], known: Float[Tensor, "batch 2 h w"]) -> Float[Tensor, "batch h w"]:
    """Distance in pixels between where a flow takes each pixel and where it went."""
    return (flow.to(known) - known).square().sum(1).sqrt()


def stays_inside(flow: Float[Tensor, "batch 2 h w"]) -> Bool[Tensor, "batch h w"]:
    """Which pixels are still in the frame after this flow (right, down)."""
    height, width = flow.shape[2:]
    across = torch.arange(width, device=flow.device) + flow[:, 0]
    down = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    return (across >= 0) & (across <= width - 1) & (down >= 0) & (down <= height - 1)


def mean_inside(
    values: Float[Tensor, "batch channels h w"], valid: Bool[Tensor, "batch h w"]
) -> Float[Tensor, "batch channels"]:
    """Mean over the valid pixels of each picture; 0 where there is none."""
    return torch.where(valid[:, None], values, 0).sum((2, 3)) / valid.sum((1, 2))[:, None].clamp_min(1)


def alike_shift(
    first: Float[Tensor, "batch channels h w"], second: Float[Tensor, "batch channels h w"], search: int
) -> Float[Tensor, "batch 2"]:
    """The whole-pixel shift (right, down), each at most `search`, at which the second frame is most like the first, where they
    overlap (mean absolute difference)."""
    height, width = first.shape[2:]
    shifts, apart = [], []
    for down in range(-search, search + 1):
        for right in range(-search, search + 1):
            rows, columns = (slice(max(0, -by), side - max(0, by)) for by, side in ((down, height), (right, width)))
            rows_there, columns_there = (slice(max(0, by), side - max(0, -by)) for by, side in ((down, height), (right, width)))
            difference = first[:, :, rows, columns] - second[:, :, rows_there, columns_there]
            apart.append(difference.abs().mean((1, 2, 3)))
            shifts.append([float(right), float(down)])
    return torch.tensor(shifts, device=first.device)[torch.stack(apart).argmin(0)]
