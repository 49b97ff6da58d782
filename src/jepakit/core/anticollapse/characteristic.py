"""Sums of exp(i t s) over a batch, at equally spaced t: what the empirical characteristic functions of SIGReg are made of.

`plain_sums` is the formula. `characteristic_sums` gives the same sums, and their gradient, without a number for every
sample, slice and knot: exp(i k h s) is a power of exp(i h s), so each number needs one cosine and one sine, and backward
is a polynomial in it (Horner) that needs nothing kept but the projections. Three forms of it, chosen by where the
projections lie: with torch's operations (below), in C (`characteristic.c`), as Triton kernels (`characteristic_triton.py`).
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.native import compiled, in_threads

MOST_KNOTS = 64  # of the C form
FAR = 8192.0  # radians, from where on the C form loses digits
SHARED = 2**18  # numbers for which a thread is worth starting
BLOCK = 2**17  # numbers that the torch form works on together


def plain_sums(projections: Float[Tensor, "batch slices"], knots: int, spacing: float) -> Float[Tensor, "2 knots slices"]:
    """Sums over the batch of cos(k h s) and of sin(k h s), k = 0 ... knots - 1, h the spacing: as the formula says it."""
    angles = torch.arange(knots).to(projections)[:, None, None] * spacing * projections
    return torch.stack((angles.cos().sum(1), angles.sin().sum(1)))


@torch.compiler.disable  # already one kernel
def characteristic_sums(
    projections: Float[Tensor, "batch slices"], knots: int, spacing: float
) -> Float[Tensor, "2 knots slices"]:
    """`plain_sums`, in one pass over the projections and without its memory (float32 or float64)."""
    return _CharacteristicSums.apply(projections, knots, spacing)


class _CharacteristicSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projections: Tensor, knots: int, spacing: float) -> Tensor:
        projections = projections.contiguous()
        ctx.save_for_backward(projections)
        ctx.spacing, ctx.form = spacing, _form(projections, knots, spacing)
        return ctx.form.sums(projections, knots, spacing)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (projections,) = ctx.saved_tensors
        # d/ds of g cos(k h s) + g' sin(k h s) is the real part of k h (g' + i g) exp(i k h s).
        k = ctx.spacing * torch.arange(grad.shape[1]).to(grad)[:, None]
        return ctx.form.gradient(projections, k * grad[1], k * grad[0], ctx.spacing), None, None


class WithTorch:
    """On any device, with torch's operations, a block of rows after the other: it then stays in the processor's cache."""

    @staticmethod
    def sums(projections: Tensor, knots: int, spacing: float) -> Tensor:
        totals = projections.new_zeros(2, knots, projections.shape[1])
        for block in _blocks(projections):
            unit = torch.cos(spacing * block), torch.sin(spacing * block)
            power = torch.ones_like(block), torch.zeros_like(block)
            for k in range(knots):
                for total, part in zip(totals[:, k], power, strict=True):
                    total += part.sum(0)
                power = _times(power, unit)
        return totals

    @staticmethod
    def gradient(projections: Tensor, real: Tensor, imaginary: Tensor, spacing: float) -> Tensor:
        """Real part of the sum over k of `(real + i imaginary)[k] exp(i k h s)`, `[batch, slices]`."""
        grad = torch.zeros_like(projections)
        for block, out in zip(_blocks(projections), _blocks(grad), strict=True):
            unit = torch.cos(spacing * block), torch.sin(spacing * block)
            power = torch.zeros_like(block), torch.zeros_like(block)
            for k in reversed(range(len(real))):
                power = _times(power, unit)
                power[0].add_(real[k]), power[1].add_(imaginary[k])
            out += power[0]
        return grad


class InC:
    """On the CPU in float32, where there is a C compiler."""

    @staticmethod
    def sums(projections: Tensor, knots: int, spacing: float) -> Tensor:
        batch, slices = projections.shape
        sums = projections.new_zeros(2, knots, slices, dtype=torch.float64)

        def some(first: int, last: int) -> None:
            _library().characteristic_sums(
                projections.data_ptr(), sums.data_ptr(), batch, slices, first, last, knots, spacing
            )

        in_threads(some, slices, _threads(projections))
        return sums.to(projections.dtype)

    @staticmethod
    def gradient(projections: Tensor, real: Tensor, imaginary: Tensor, spacing: float) -> Tensor:
        batch, slices = projections.shape
        grad, real, imaginary = torch.empty_like(projections), real.contiguous(), imaginary.contiguous()

        def some(first: int, last: int) -> None:
            _library().characteristic_gradient(
                projections.data_ptr(), real.data_ptr(), imaginary.data_ptr(), grad.data_ptr(),
                batch, slices, first, last, len(real), spacing,
            )  # fmt: skip

        in_threads(some, slices, _threads(projections))
        return grad


def _form(projections: Tensor, knots: int, spacing: float) -> Any:
    """The fastest form for these projections."""
    if projections.is_cuda and projections.dtype == torch.float32:
        from jepakit.core.anticollapse import characteristic_triton

        return characteristic_triton if characteristic_triton.AVAILABLE else WithTorch
    if projections.device.type != "cpu" or projections.dtype != torch.float32 or knots > MOST_KNOTS or _library() is None:
        return WithTorch
    low, high = projections.aminmax()
    return InC if max(-float(low), float(high)) * spacing < FAR else WithTorch  # no number is not below it either


@functools.cache
def _library() -> Any:
    library = compiled(Path(__file__).with_suffix(".c"))
    if library is not None:
        shape: list[Any] = [ctypes.c_long] * 4 + [ctypes.c_int, ctypes.c_float]
        library.characteristic_sums.argtypes = [ctypes.c_void_p] * 2 + shape
        library.characteristic_gradient.argtypes = [ctypes.c_void_p] * 4 + shape
        library.characteristic_sums.restype = library.characteristic_gradient.restype = None
    return library


def _threads(projections: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), projections.numel() // SHARED))


def _blocks(numbers: Tensor) -> tuple[Tensor, ...]:
    return numbers.split(max(1, BLOCK // numbers.shape[1]) if numbers.device.type == "cpu" else len(numbers))


def _times(power: tuple[Tensor, Tensor], unit: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(a + i b)(c + i d), real part and imaginary part."""
    (a, b), (c, d) = power, unit
    return (a * c).addcmul_(b, d, value=-1), (a * d).addcmul_(b, c)
