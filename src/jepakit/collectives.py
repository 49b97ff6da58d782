"""Reductions over ranks that autograd sees: the one place where a loss meets the other processes.

The rule that every loss here follows: *each rank computes the same global number* through these functions. Backward
then gives a rank the derivative of the sum of all ranks' losses with respect to its own part of the batch, and the mean
over ranks that DDP takes of the parameter gradients is exactly the gradient of that number: one process with the joined
batch. A loss that stays local to its rank (no function of this module between it and the data) is averaged by DDP as
usual.

Without `torch.distributed` initialised, or with one rank, everything is the identity.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Count = TypeVar("Count", int, Tensor)


def world_size() -> int:
    """Number of ranks; 1 when `torch.distributed` is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 when `torch.distributed` is not initialised."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum of every rank's `tensor` (same shape everywhere), on every rank.

    Gradient: the sum of the gradients that reached every rank's result. Where all ranks go on to the same loss `L`,
    that is `world_size` times dL/dtensor, which DDP's mean over ranks turns into the gradient of `L`.
    """
    return tensor if world_size() == 1 else _Sum.apply(tensor)


def gather_over_ranks(tensor: Tensor) -> Tensor:
    """Every rank's `[batch, ...]` in order of rank, `[sum of batches, ...]`, on every rank; batches may differ in size.

    Gradient: this rank's rows of the sum over ranks of the gradients that reached the gathered tensor, so that the rule
    of `sum_over_ranks` holds here too.
    """
    return tensor if world_size() == 1 else _Gather.apply(tensor)


def global_count(count: Count) -> Count:
    """Sum of a count over ranks, of the type that was given (a tensor stays on its device, without waiting for it)."""
    if world_size() == 1:
        return count
    if isinstance(count, Tensor):
        return _all_reduce(count.detach())
    return int(_all_reduce(torch.tensor(count, device=_backend_device())))


def global_length(tensor: Tensor, axis: int) -> int | Tensor:
    """Length of an axis summed over ranks: of several ranks a tensor on the tensor's device, without waiting for it."""
    length = tensor.shape[axis]
    return length if world_size() == 1 else _all_reduce(torch.tensor(length, device=tensor.device))


def _backend_device() -> torch.device:
    """The device on which the default process group can reduce."""
    return torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend() else torch.device("cpu")


def _all_reduce(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all_reduce(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)  # through the function itself, so that second derivatives exist too


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        size = torch.tensor([len(tensor)], device=tensor.device)
        sizes = [torch.empty_like(size) for _ in range(world_size())]
        dist.all_gather(sizes, size)
        counts = [int(n) for n in sizes]
        ctx.start, ctx.length = sum(counts[: rank()]), len(tensor)
        # Collectives move equal shapes only: the shorter batches travel padded.
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad).narrow(0, ctx.start, ctx.length)
