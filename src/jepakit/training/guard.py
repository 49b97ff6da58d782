"""The outlier guard: a step whose gradient is far larger than those before it, or is no number, changes no weight."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

REMEMBERED = 128  # steps whose gradient norms are the history
FEWEST = 32  # of them, before the first judgement
IN_A_ROW = 16  # updates left out one after another: no odd batch, the run diverged


class OutlierGuard:
    """Judges each step by its gradient norm (before clipping) beside the median of the last `REMEMBERED` that were applied.

    After OLMo-core's `SkipStepOptimizer` (its 128 steps, its way of skipping on the device), but by a multiple of the median,
    which a spike does not move, instead of deviations from the mean. The gradient of an odd batch is not applied at all:
    clipped, it would still turn Adam's moments. Only `in_a_row` and `median` wait for the device.

    Args:
        factor: the multiple of the median above which an update is left out; None: only what is no number is.
    """

    def __init__(self, factor: float | None, device: torch.device):
        self.factor = factor
        self.norms = torch.full((REMEMBERED,), torch.nan, device=device)
        self.row = torch.zeros((), device=device)

    def judge(self, step: int, loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """1 if the update of optimiser step `step` (0-based) is to be left out, else 0. Call it once a step."""
        sound = torch.isfinite(loss) & torch.isfinite(norm)
        if self.factor is not None and step >= FEWEST:
            sound &= norm <= self.factor * self._median()
        place = step % REMEMBERED
        self.norms[place] = torch.where(sound, norm, self.norms[place])
        self.row = torch.where(sound, 0.0, self.row + 1)
        return 1.0 - sound.float()

    def apply(self, optimizer: torch.optim.Optimizer, left_out: Float[Tensor, ""]) -> None:
        """The optimiser's step, or nothing."""
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = left_out  # type: ignore[attr-defined]  # how GradScaler tells it, on the device
        elif left_out:
            return
        optimizer.step()

    @property
    def in_a_row(self) -> int:
        """Updates left out since the last one that was applied."""
        return int(self.row)

    @property
    def median(self) -> float:
        """Of the gradient norms that are remembered."""
        return float(self._median())

    def _median(self) -> Tensor:
        return self.norms.nanmedian(dim=0).values  # without `dim` CUDA's waits for the device

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms, "row": self.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.norms.copy_(state["norms"])
        self.row = state["row"].to(self.row.device)
