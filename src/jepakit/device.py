"""Which device and which precision: chosen by what the hardware can do."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from typing import Any

import torch

from jepakit.errors import UserError, check_choice


def choose_device(name: str) -> torch.device:
    """The device asked for; "auto" is CUDA, then MPS, then the CPU."""
    check_choice("device", name, ("auto", "cpu", "cuda", "mps"))
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise UserError(f"device {name!r} is not available here (torch {torch.__version__}). Use --device auto or cpu.")
    return torch.device(name)


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Let the process keep the memory of freed tensors for the next ones; whether that could be arranged.

    For tensors above a few tens of MB glibc asks the system for new pages at every allocation and gives them back at every
    free: a step of `pretrain pldm --data two-rooms` (1,152 pictures) took 1.9 s so and 1.15 s without, on two cores. The price
    is that the process stays as large as it once was. Where the C library is another, nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(trim_threshold, 2**31 - 1)) and bool(mallopt(mmap_threshold, 2**30))


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast dtype: "auto" is bfloat16 where it is native, else float32 (no autocast)."""
    if name == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast to `dtype`, nothing for float32 and float64."""
    if dtype in (torch.float32, torch.float64):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def to_device(batch: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """A batch, or an encoder's input, on the device; its real numbers as float64 where `dtype` is that.

    Single numbers, and the lengths of masks, stay on the host, where reading them waits for nothing.
    """
    if isinstance(batch, dict):
        return {
            name: part if name in ("context_lengths", "target_lengths") else to_device(part, device, dtype)
            for name, part in batch.items()
        }
    if dtype == torch.float64 and batch.is_floating_point():
        batch = batch.double()
    return batch if batch.ndim == 0 else batch.to(device, non_blocking=True)
