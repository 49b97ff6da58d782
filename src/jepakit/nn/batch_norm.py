"""Batch normalisation over the joined batch of all ranks, on any device, seen by autograd."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.collectives import sum_over_ranks, world_size
from jepakit.errors import UserError


class BatchNorm(nn.Module):
    """`nn.BatchNorm1d` on `[..., dim]`, every leading axis being samples (Ioffe and Szegedy 2015, arXiv 1502.03167).

    On one rank it is torch's own. On many, mean and variance are those of the joined batch (`nn.SyncBatchNorm` is that for
    GPUs alone), however unevenly it is spread; then every rank must call it in the same order, if only with an empty
    part. Statistics are in float32 at least. State-dict names and meanings are torch's: the running variance is the
    unbiased one.

    Errors: a single sample in training, which has no variance.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.dim, self.eps, self.momentum = dim, eps, momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Float[Tensor, "*samples dim"]) -> Float[Tensor, "*samples dim"]:
        if x.shape[-1] != self.dim:
            raise UserError(f"BatchNorm of width {self.dim} got {list(x.shape)}.")
        rows = x.reshape(-1, self.dim)
        if self.training and world_size() > 1:
            return self._joined(rows).reshape(x.shape)
        if self.training:
            self._check(len(rows))
            self.num_batches_tracked += 1
        normalised = F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return normalised.reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}, momentum={self.momentum}"

    def _joined(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """Normalised by the statistics of all ranks' rows."""
        x = rows if rows.dtype == torch.float64 else rows.float()
        with torch.autocast(x.device.type, enabled=False):
            # The count travels with the sum: one collective less. Deviations come second, as a difference of squares
            # would lose what is small beside the mean.
            totals = sum_over_ranks(torch.cat([x.sum(0), x.new_full((1,), len(x))]))
            count = totals[-1].detach()
            if len(x) < 2:  # the count is on the device, and waiting for it is only worth it here
                self._check(int(count))
            mean = totals[:-1] / count
            variance = sum_over_ranks((x - mean).square().sum(0)) / count
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
            normalised = (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return normalised.to(rows.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

    def _check(self, samples: int) -> None:
        if samples < 2:
            raise UserError(f"BatchNorm needs at least 2 samples in a training batch, of all ranks together; it got {samples}.")
