"""What a run will cost, measured on a copy of the system before it starts: parameters, memory, time."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from jepakit.collectives import world_size
from jepakit.core.batch import Batch, split_batch
from jepakit.core.system import System
from jepakit.device import autocast, to_device
from jepakit.errors import UserError
from jepakit.training.config import TrainingConfig


@dataclass(frozen=True)
class Cost:
    """trained, total: parameters. memory: bytes, in each process, of weights, gradients, optimiser state and activations of
    one step. step_seconds: one optimiser step, its data not included."""

    trained: int
    total: int
    memory: int
    step_seconds: float


def measure_cost(
    system: System, batch: Batch, config: TrainingConfig, device: torch.device, dtype: torch.dtype
) -> Cost:
    """Run a micro-batch forward and backward on a copy, counting the bytes autograd keeps. It stays untouched."""
    trained = sum(p.numel() for p in system.parameters() if p.requires_grad)
    total = sum(p.numel() for p in system.parameters())
    probe = copy.deepcopy(system)
    rng = torch.random.get_rng_state()
    micro = split_batch(to_device(batch, device, dtype), config.accumulate)[0]
    seconds, activations = 0.0, 0
    for _ in range(2):  # the first pass warms up
        kept: dict[int, int] = {}

        def remember(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        start = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(remember, lambda t: t), autocast(device, dtype):
            loss = probe.step(micro)["loss"]
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds, activations = time.perf_counter() - start, sum(kept.values())
    torch.random.set_rng_state(rng)
    numbers = total + (1 + config.optimizer.moments) * trained  # weights; gradients and moments of what is trained
    weights = numbers * next(system.parameters()).element_size() // (world_size() if config.parallel == "fsdp" else 1)
    return Cost(trained, total, weights + activations, seconds * config.accumulate)


def format_bytes(count: float) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def format_seconds(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def memory_advice(config: TrainingConfig, joins_batch: bool) -> Iterator[None]:
    """Turn an out-of-memory error into advice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(out_of_memory_advice(config, joins_batch)) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # how torch's CPU allocator says it
            raise UserError(out_of_memory_advice(config, joins_batch)) from error
        raise


def out_of_memory_advice(config: TrainingConfig, joins_batch: bool) -> str:
    """What to lower when memory runs out."""
    advice = f"Memory ran out at batch_size {config.batch_size}"
    advice += f" in {config.accumulate} pieces. " if config.accumulate > 1 else ". "
    if joins_batch:
        return advice + (
            f"Lower --batch-size (try {max(2, config.batch_size // 2)}), the image size, or the model's --size; "
            "this system's loss looks across the batch, so it cannot be cut by --accumulate."
        )
    return advice + (
        f"Cut the step into pieces with --accumulate {config.accumulate * 2} (same result), or lower --batch-size, "
        "the image size, or the model's --size."
    )
