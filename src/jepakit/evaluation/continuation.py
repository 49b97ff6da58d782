"""Continuations: whether a masked system of clips expects what came next, and is surprised by what cannot.

The energy of a continuation is that of the clip's last tokens, predicted from its first: no label, no training. A clip whose
end is another's, or in which a thing vanishes, should have more of it than the clip as it was. After Garrido et al. 2025 (arXiv
2502.11831), who read "intuitive physics" off V-JEPA in this way. Predictors that were never asked for a whole future answer out
of habit with tubes; `masks.future` teaches it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.core.batch import map_tensors
from jepakit.core.masked import Masked
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.evaluation.intervals import wilson
from jepakit.evaluation.metrics import Metric
from jepakit.evaluation.rows import Row
from jepakit.modalities.modality import ClipSamples

CONTINUATION = "continuation"  # the evaluator's name
TOLD_APART = Metric(
    "pairs told apart", lambda below, _, weights: weights @ below / weights.sum(axis=1), "Pairs told apart"
)


@torch.no_grad()
def continuation_energy(
    system: System, samples: Sequence[dict[str, Any]], seen: int, device: torch.device | None = None, batch: int = 100
) -> Float[np.ndarray, "samples"]:
    """Mean energy of each clip's tokens from time step `seen` on, predicted from all those before.

    Asked by the mask token of futures where the system was trained with them (`masks.future`), else by each of the others.

    Args:
        system: of clips, in eval mode: v-jepa, v-jepa-2, v-jepa-2.1.
        samples: as their data set yields them, all of the frames that the system sees.
        seen: time steps of tokens (tubelets) that the predictor is given; at least one, and not all.
        device: where the system is; None: the CPU.
        batch: clips at once.

    Errors: a system of another kind, or a `seen` that leaves nothing to see or to predict.
    """
    masked, grid = _of_clips(system)
    if not 0 < seen < grid[0]:
        raise UserError(f"seen {seen}: clips have {grid[0]} time steps of tokens; give 1 to {grid[0] - 1}.")
    collator = masked.collator(0, views=1)  # type: ignore[operator]
    steps = [
        _energies(masked, map_tensors(lambda x: x.to(device or "cpu"), collator(samples[start : start + batch])), grid, seen)
        for start in range(0, len(samples), batch)
    ]
    return torch.cat(steps).double().cpu().numpy()


def grid_of_clips(system: System) -> tuple[int, int, int] | None:
    """The grid of a clip's tokens (times, rows, columns); None of systems that cannot be asked for continuations."""
    grid: tuple[int, ...] = getattr(getattr(getattr(system, "encoder", None), "config", None), "grid", ())
    return (grid[0], grid[1], grid[2]) if isinstance(system, Masked) and len(grid) == 3 and grid[0] > 1 else None


def _of_clips(system: System) -> tuple[Masked, tuple[int, int, int]]:
    """The system, and the grid of a clip's tokens."""
    grid = grid_of_clips(system)
    if grid is None or not isinstance(system, Masked):
        tokens: tuple[int, ...] = getattr(getattr(getattr(system, "encoder", None), "config", None), "grid", ())
        raise UserError(
            "continuations are of masked systems of clips (v-jepa, v-jepa-2, v-jepa-2.1), of two time steps or more; "
            f"{type(system).__name__} with tokens of {' x '.join(map(str, tokens)) or 'another kind'} is none."
        )
    return system, grid


def _energies(system: Masked, batch: dict[str, Any], grid: tuple[int, int, int], seen: int) -> Tensor:
    places, n = grid[1] * grid[2], len(batch["id"])
    kinds, ids = system.mask_tokens, torch.arange(grid[0] * places, device=batch["id"].device)
    context, targets = ids[: seen * places], ids[seen * places :]
    asked = torch.full((n, kinds, 1), len(targets), device=ids.device)
    if system.config.masks.future is not None:  # type: ignore[union-attr]
        asked[:, :-1] = 0
    whole = {
        **batch,
        "context": context.expand(n, kinds, -1),
        "context_lengths": torch.full((n, kinds), len(context), device=ids.device),
        "targets": targets.expand(n, kinds, 1, -1),
        "target_lengths": asked,
    }
    return system.energy(whole, torch.arange(n, device=ids.device))


def continuation_rows(
    system: System, clips: ClipSamples, features: str = "encoder", device: torch.device | None = None
) -> list[Row]:
    """How often a system's energy of a clip's second half is below that of a wrong one: the half of another clip, the first
    half's last frame held; of bouncing digits also of those that vanish and that leap to another place.

    clips: held-out ones; `features` names the system in the table.
    """
    _, grid = _of_clips(system)
    seen = grid[0] // 2
    samples = [clips[i] for i in range(len(clips))]
    at = seen * (len(clips.frames) // grid[0])
    pixels = torch.stack([clips.pixels(index) for index in range(len(clips))])
    wrong = {
        "another clip's": torch.cat([pixels[:, :at], pixels.roll(1, 0)[:, at:]], dim=1),
        "nothing moves": torch.cat([pixels[:, :at], pixels[:, at - 1 : at].expand_as(pixels[:, at:])], dim=1),
    }
    events = [clips.impossible(index, at) for index in range(len(clips))]
    wrong |= {event: torch.stack([clip[event] for clip in events]) for event in events[0]}
    true = continuation_energy(system, samples, seen, device)
    rows = []
    for name, changed in wrong.items():
        shown = [clips.show(index, clip) for index, clip in enumerate(changed)]
        rows.append(continuation_row(name, true, continuation_energy(system, shown, seen, device), features))
    return rows


def continuation_row(
    name: str, true: Float[np.ndarray, "n"], wrong: Float[np.ndarray, "n"], features: str = "encoder"
) -> Row:
    """Share of the clips whose own continuation has less energy than a wrong one, equal counting half, and in the detail the
    area under the ROC curve, which compares clips with one another.

    name: what is wrong with it.

    Errors: not one number each, none, or numbers that are not finite.
    """
    if not len(true) or true.shape != wrong.shape or not np.isfinite([true, wrong]).all():
        raise UserError(f"continuation: needs a finite energy of each clip, true and wrong; got {len(true)} and {len(wrong)}.")
    below = np.sign(wrong - true) / 2 + 0.5
    area = float((np.sign(wrong[:, None] - true[None]) / 2 + 0.5).mean())
    detail = {"auc": area, "clips": len(below), "energy": float(true.mean()), "energy_wrong": float(wrong.mean())}
    interval = dataclasses.replace(wilson(int(np.floor(below.sum())), len(below)), value=float(below.mean()))
    return Row.of(features, f"{CONTINUATION}: {name}", TOLD_APART, interval, detail)
