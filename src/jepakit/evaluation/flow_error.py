"""End-point error: how far a flow takes the pixels of a frame from where they really went, beside what needs no learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jepakit.errors import UserError, check_range
from jepakit.evaluation.intervals import bootstrap, paired_difference
from jepakit.evaluation.metrics import METRICS
from jepakit.evaluation.rows import Row, difference_detail
from jepakit.modalities.modality import ClipSamples

BATCH = 64


FLOW = "flow"  # the evaluator's name
CLIPS = 500  # that it takes at most
Flow = Callable[[Tensor, Tensor], Tensor]


def flow_errors(
    flows: Mapping[str, Flow], inputs: Any, dataset: Any, clips: int | None = None, search: int = 6
) -> dict[str, Float[np.ndarray, "clips"]]:
    """Mean end-point error of each clip's first two frames, in pixels, of the pixels that do not leave the frame.

    Of each of `flows`, and of what needs no learning: "no motion"; "one shift", the whole-pixel shift of the pair that makes
    its frames most alike; "best shift", the mean of the known flow of the pair, which no method can know.

    Args:
        flows: by name, `flow(first, second) -> [batch, 2, h, w]`, right and down in pixels, of prepared frames.
        inputs: prepares them (`VideoInputs`).
        dataset: `ClipDataset` of moving photographs, all frames of a clip at their own size.
        clips: how many, evenly spaced; None: all.
        search: how far "one shift" looks, in pixels each way.

    Errors: clips whose flow is not known.
    """
    if not knows_flow(dataset):
        raise UserError("The flow of these clips is not known. Take moving-photographs.")
    check_range("clips", len(dataset) if clips is None else clips, 1, len(dataset))
    chosen = torch.linspace(0, len(dataset) - 1, len(dataset) if clips is None else clips).round().long().tolist()
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(chosen), BATCH):
        samples = [dataset[index] for index in chosen[start : start + BATCH]]
        first, second = inputs.prepare(samples)[:, :, :2].unbind(2)
        known = torch.stack([torch.from_numpy(dataset.flow(index)) for index in chosen[start : start + BATCH]])
        valid = stays_inside(known)
        with torch.no_grad():
            guesses = {name: flow(first, second).to(known) for name, flow in flows.items()}
        guesses |= {
            "no motion": torch.zeros_like(known),
            "one shift": alike_shift(first, second, search)[:, :, None, None].expand_as(known),
            "best shift": (mean_inside(known, valid))[:, :, None, None].expand_as(known),
        }
        for name, guess in guesses.items():
            found.setdefault(name, []).append(mean_inside(end_point_error(guess, known)[:, None], valid)[:, 0])
    return {name: torch.cat(errors).double().numpy() for name, errors in found.items()}


def knows_flow(dataset: Any) -> bool:
    """Return whether the motion in these samples is known."""
    return isinstance(dataset, ClipSamples) and len(dataset) > 0 and dataset.flow(0) is not None


def flow_rows(flows: Mapping[str, Flow], inputs: Any, dataset: Any, seed: int = 0) -> list[Row]:
    """Mean end-point errors over held-out clips, at most 500, with bootstrap intervals; each later row holds in
    `detail["difference"]` the paired difference of the first flow minus this one."""
    errors = flow_errors(flows, inputs, dataset, min(CLIPS, len(dataset)))
    del errors["best shift"]
    metric, ours = METRICS["end_point_error"], next(iter(errors))
    target, rows = np.zeros(len(errors[ours])), []
    for name, found in errors.items():
        interval = bootstrap(metric, found, target, seed=seed)
        detail: dict[str, Any] = {"clips": len(found)}
        if name != ours:
            apart = paired_difference(metric, errors[ours], found, target, seed=seed)
            detail["difference"] = difference_detail(ours, name, apart)
        rows.append(Row.of(name, FLOW, metric, interval, detail))
    return rows


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
