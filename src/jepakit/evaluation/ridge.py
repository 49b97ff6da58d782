"""Ridge regression with several outputs: linear dynamics, and states read off embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError
from jepakit.evaluation.linear import RIDGE_STRENGTHS, Linear


def fit_ridges(
    x: Float[Tensor, "n dim"],
    y: Float[Tensor, "n outputs"],
    strengths: Sequence[float] = RIDGE_STRENGTHS,
    *,
    slack: float = 0.0,
) -> Linear:
    """For each output the ridge regression whose strength has the least exact leave-one-out error; in closed form.

    slack: share of an output's variance that its error may be above the least one, for the strongest penalty that keeps to it.
        What leans on directions of hardly any variance is exact where they are, and wild a little beside.

    Inputs are put to zero mean and unit deviation first (those that never change are left out), and that is folded back into
    the weights: the result takes inputs as they are. In float64; memory for `dim x dim`, or `n x n` where there are fewer
    samples than dimensions. The strength it names is the largest of those chosen.

    Errors: no samples, or another number of outputs.
    """
    if not len(x) or len(x) != len(y):
        raise UserError(f"ridge: {len(x)} inputs for {len(y)} outputs; give one for each, at least one.")
    x, y = x.double(), y.double()
    mean, target_mean = x.mean(0), y.mean(0)
    std = (x - mean).square().mean(0).sqrt()
    alive = std > 1e-6 * (std.amax() + mean.abs())
    scale = torch.where(alive, 1 / torch.where(alive, std, 1.0), 0.0)
    rows, wanted, n = (x - mean) * scale, y - target_mean, len(x)
    if n < rows.shape[1]:
        values, left = torch.linalg.eigh(rows @ rows.T)
        values = values.clamp_min(0)
        root = values.sqrt()
        axes = rows.T @ left * torch.where(root > 1e-9 * root.amax(), 1 / root.clamp_min(1e-300), 0.0)
        turned = left * root
    else:
        values, axes = torch.linalg.eigh(rows.T @ rows)
        values = values.clamp_min(0)
        turned = rows @ axes
    along = turned.T @ wanted
    errors, weights = [], []
    for strength in strengths:
        shrunk = 1 / (values + n * strength)
        leverage = 1 / n + turned.square() @ shrunk
        weight = shrunk[:, None] * along
        left_out = (wanted - turned @ weight) / (1 - leverage).clamp_min(1e-9)[:, None]
        errors.append(left_out.square().sum(0))
        weights.append(weight)
    allowed = torch.stack(errors)
    allowed = allowed <= allowed.amin(0) + slack * wanted.square().sum(0)
    order = sorted(range(len(strengths)), key=lambda number: -strengths[number])
    best = torch.tensor(order, device=y.device)[allowed[order].int().argmax(0)]
    chosen = torch.stack(weights)[best, :, torch.arange(y.shape[1], device=y.device)].T
    weight = scale[:, None] * (axes @ chosen)
    return Linear(weight.float(), (target_mean - mean @ weight).float(), max(strengths[int(number)] for number in best))
