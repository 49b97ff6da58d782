"""What a step will cost on machines that are not at hand: counted on the system's own modules, without memory or arithmetic.

The system runs forward and backward on tensors that have a shape and no numbers (torch's `FakeTensorMode`), with the masks or
views that its collator really draws; matrix products are counted as they pass, and so are the bytes that autograd keeps.
`docs/scaling.md` has the equations and what of them was checked.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from jepakit.core.batch import Batch, batch_size, map_tensors
from jepakit.core.system import System
from jepakit.core.targets import EMATarget
from jepakit.device import to_device
from jepakit.nn.transformer import Block

# torch's counter knows the fused attention of GPUs but not the CPU's (torch 2.13).
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}
BUCKET = 25 * 2**20  # bytes: DistributedDataParallel's default
LINK_SHARE = 0.8  # of a link's peak that NCCL's rings reach (assumed)
LATENCY = 10e-6  # seconds of one hop of a collective (assumed)
OWN_MEMORY = 1.5e9  # bytes: CUDA context, cuBLAS workspaces, NCCL buffers (assumed)
FRAGMENTED = 0.05  # share of the memory that the allocator cannot use (assumed)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One accelerator: peak rates in FLOP/s and bytes/s (links: in one direction), memory in bytes, `per_node` of them."""

    name: str
    bfloat16: float
    float32: float
    memory: float
    memory_rate: float
    link_rate: float
    network_rate: float
    per_node: int = 8
    source: str


# Dense rates without sparsity; a node's network is shared evenly by its GPUs. float32: without TF32, as torch multiplies.
MACHINES = {
    "a100": Machine(
        name="A100 SXM 80 GB", bfloat16=312e12, float32=19.5e12, memory=80e9, memory_rate=2.039e12, link_rate=300e9,
        network_rate=25e9, source="NVIDIA A100 data sheet; DGX A100: 8 x 200 Gb/s",
    ),
    "h100": Machine(
        name="H100 SXM 80 GB", bfloat16=989e12, float32=67e12, memory=80e9, memory_rate=3.35e12, link_rate=450e9,
        network_rate=50e9, source="NVIDIA H100 data sheet; DGX H100: 8 x 400 Gb/s",
    ),
    "h200": Machine(
        name="H200 SXM 141 GB", bfloat16=989e12, float32=67e12, memory=141e9, memory_rate=4.8e12, link_rate=450e9,
        network_rate=50e9, source="NVIDIA H200 data sheet; DGX H200: 8 x 400 Gb/s",
    ),
    "b200": Machine(
        name="B200 SXM 180 GB", bfloat16=2250e12, float32=75e12, memory=180e9, memory_rate=8e12, link_rate=900e9,
        network_rate=50e9, source="NVIDIA DGX B200 data sheet; 8 x 400 Gb/s",
    ),
    "l40s": Machine(
        name="L40S 48 GB", bfloat16=362e12, float32=91.6e12, memory=48e9, memory_rate=0.864e12, link_rate=32e9,
        network_rate=12.5e9, source="NVIDIA L40S data sheet; PCIe 4 x16; 100 Gb/s a GPU assumed",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One micro-batch of one process, counted. FLOPs: forward and backward, a multiply-add is two. Bytes as kept in memory."""

    samples: int
    parameters: int
    trained: int
    averaged: int  # of an EMA target: read and written after each step
    flops: int
    parts: dict[str, int]  # FLOPs of each part's forward pass, where they share no module, and of the backward pass
    activations: int  # bytes that autograd keeps, parameters not included
    largest_unit: int  # parameters of the largest part that fsdp gathers at once
    root_unit: int  # parameters that lie in no transformer block


def count_step(build: Callable[[], System], batch: Batch, precision: str) -> Counted:
    """Count a forward and backward pass of the system that `build` makes, on a batch of its collator.

    A system whose step needs to see numbers (graphs, packed texts) is run for real on the CPU instead: give it a small batch.
    """
    with torch.device("meta"):
        system = build()
    moved = to_device(batch, torch.device("meta"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        system.to_empty(device="cpu")
        shapes = map_tensors(lambda x: torch.empty_like(x, device="cpu") if x.is_meta else x, moved)
    # Outside of the mode: what a GPU's step leaves on the host keeps its numbers here, too.
    with contextlib.suppress(DataDependentOutputException, DynamicOutputShapeException):
        return _counted(system, shapes, precision)
    return _counted(build(), batch, precision)


def _counted(system: System, batch: Batch, precision: str) -> Counted:
    own = {_memory(tensor) for tensor in (*system.parameters(), *system.buffers())}
    kept = {}

    def remember(tensor: Tensor) -> Tensor:
        if _memory(tensor) not in own:
            kept[_memory(tensor)] = tensor.untyped_storage()  # held, so that its number stays its own
        return tensor

    # float16 for bfloat16: in it the CPU's attention keeps what a GPU's keeps, and not the scores.
    forward, backward = (FlopCounterMode(display=False, custom_mapping=ATTENTION) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            forward,
            torch.autograd.graph.saved_tensors_hooks(remember, lambda t: t),
            torch.autocast("cpu", torch.float16) if precision == "bfloat16" else contextlib.nullcontext(),
        ):
            loss = system(batch)["loss"]
        with backward:
            loss.backward()
    blocks = [sum(p.numel() for p in module.parameters()) for module in system.modules() if isinstance(module, Block)]
    total = sum(p.numel() for p in system.parameters())
    targets = [module.average for module in system.modules() if isinstance(module, EMATarget)]
    return Counted(
        samples=batch_size(batch),
        parameters=total,
        trained=sum(p.numel() for p in system.parameters() if p.requires_grad),
        averaged=sum(p.numel() for target in targets for p in target.parameters()),
        flops=forward.get_total_flops() + backward.get_total_flops(),
        parts={**_by_part(forward.get_flop_counts(), type(system).__name__), "backward": backward.get_total_flops()},
        activations=sum(storage.nbytes() for storage in kept.values()),
        largest_unit=max(blocks, default=0),
        root_unit=total - sum(blocks),
    )


def _memory(tensor: Tensor) -> int:
    """Which memory a tensor lies in: the same number for two views of one, with or without numbers in it."""
    return tensor.untyped_storage()._cdata


def _by_part(counts: dict[str, dict[Any, int]], root: str) -> dict[str, int]:
    """FLOPs of the system's direct parts, "else" for what lies in none; of all where a module is reached through two."""
    sums = {name: sum(by_operation.values()) for name, by_operation in counts.items()}
    parts = {name.split(".")[1]: value for name, value in sums.items() if name.count(".") == 1 and name.startswith(f"{root}.")}
    rest = sums["Global"] - sum(parts.values())
    if rest < 0:
        return {"forward": sums["Global"]}
    return parts | ({"else": rest} if rest else {})


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a step is spread: `gpus` processes with `accumulate` micro-batches each; `attained`: the share of the machine's
    peak matrix rate that a micro-batch reaches."""

    gpus: int
    parallel: Literal["ddp", "fsdp"] = "ddp"
    accumulate: int = 1
    precision: str = "bfloat16"
    attained: float = 0.4
    moments: int = 2  # of the optimiser, for each trained number


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Of one step on one GPU: bytes, FLOPs and seconds."""

    memory: dict[str, float]
    flops: float
    compute_s: float
    update_s: float
    sent: float
    communication_s: float
    exposed_s: float

    @property
    def memory_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def step_s(self) -> float:
        return self.compute_s + self.update_s + self.exposed_s


def expected(counted: Counted, machine: Machine, layout: Layout) -> Expected:
    """The equations of `docs/scaling.md`."""
    n, sharded = layout.gpus, layout.parallel == "fsdp" and layout.gpus > 1
    share = 1 / n if sharded else 1.0
    memory = {
        "weights": 4.0 * counted.parameters * share,
        "gradients": 4.0 * counted.trained * share,
        "optimiser": 4.0 * layout.moments * counted.trained * share,
        "activations": float(counted.activations),
    }
    if sharded:  # the next block is gathered while one is computed; and one block's whole gradient
        memory["gathered"] = 4.0 * (counted.root_unit + 3 * counted.largest_unit)
    elif n > 1:
        memory["buckets"] = 4.0 * counted.trained  # DDP's copy of the gradients
    memory["reserve"] = OWN_MEMORY + FRAGMENTED * sum(memory.values()) if machine.memory else 0.0
    flops = float(counted.flops) * layout.accumulate
    peak = machine.bfloat16 if layout.precision == "bfloat16" else machine.float32
    compute = flops / (peak * layout.attained)
    # Clipping reads and writes the gradients; AdamW reads 4 and writes 3 arrays (its moments twice), the average reads 2 and
    # writes 1.
    update = 4.0 * share * ((3 + 3 + 2 * layout.moments) * counted.trained + 3 * counted.averaged) / machine.memory_rate
    sent, communication = communicate(counted, machine, layout)
    # DDP reduces under the last backward pass, but for its last bucket; FSDP gathers and scatters under everything.
    hidden = compute if sharded else compute / layout.accumulate * 2 / 3
    last = communication * min(1.0, BUCKET / (4.0 * counted.trained)) if n > 1 and not sharded else 0.0
    exposed = max(communication - hidden, last)
    return Expected(
        memory=memory, flops=flops, compute_s=compute, update_s=update, sent=sent, communication_s=communication,
        exposed_s=exposed,
    )  # fmt: skip


def communicate(counted: Counted, machine: Machine, layout: Layout) -> tuple[float, float]:
    """Bytes that a GPU sends in a step, and the seconds of it.

    DDP: one all-reduce of the gradients, a ring: 2 (n - 1) / n times their size. FSDP: each micro-batch gathers all weights
    forward and the trained ones again backward, (n - 1) / n each; the last one scatters the gradients' sum.
    """
    n = layout.gpus
    if n == 1:
        return 0.0, 0.0
    ring = (n - 1) / n
    if layout.parallel == "ddp":
        sent = 2 * ring * 4.0 * counted.trained
        calls = 2.0 * math.ceil(4.0 * counted.trained / BUCKET)
    else:
        gathered = layout.accumulate * (counted.parameters + counted.trained)
        sent = ring * 4.0 * (gathered + counted.trained)
        blocks = (counted.parameters - counted.root_unit) / max(counted.largest_unit, 1)
        calls = (2 * layout.accumulate + 1) * (blocks + 1)
    # Across nodes every GPU starts a ring over its own adapter: a node's adapters together carry what crosses its border.
    rate = machine.link_rate if n <= machine.per_node else min(machine.link_rate, machine.per_node * machine.network_rate)
    return sent, sent / (LINK_SHARE * rate) + calls * LATENCY * math.log2(n)


def scaled(counted: Counted, samples: int) -> Counted:
    """The same with more or fewer samples in a micro-batch: what belongs to samples is proportional to their number."""
    ratio = samples / counted.samples
    return replace(
        counted,
        samples=samples,
        flops=round(counted.flops * ratio),
        parts={name: round(flops * ratio) for name, flops in counted.parts.items()},
        activations=round(counted.activations * ratio),
    )


def measure_here(device: torch.device, side: int = 1024) -> Machine:
    """This machine's rates, measured within seconds: matrix products of `side`, and copies of 64 MB."""
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        rates[dtype] = 2 * side**3 / _fastest(partial(torch.matmul, a, b), device)
    source, copy = torch.zeros(2**24, device=device), torch.empty(2**24, device=device)
    copied = 2 * source.nbytes / _fastest(partial(copy.copy_, source), device)
    cuda = device.type == "cuda"
    memory = torch.cuda.mem_get_info(device)[1] if cuda else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        name=torch.cuda.get_device_name(device) if cuda else f"this machine's CPU, {torch.get_num_threads()} threads",
        bfloat16=rates[torch.bfloat16], float32=rates[torch.float32], memory=float(memory), memory_rate=copied,
        link_rate=copied / 4, network_rate=1.25e9, source="measured here; links assumed: a quarter of the copy rate, 10 Gb/s",
    )  # fmt: skip


def _fastest(run: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
