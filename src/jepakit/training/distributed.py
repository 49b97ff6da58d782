"""Several processes that are one run: torchrun's environment, the engine around the system, decisions that ranks share.

Start: `torchrun --nproc-per-node 4 -m jepakit pretrain ...`. Everything that moves between ranks is torch's own: DDP or
FSDP2 the gradients, `jepakit.collectives` the losses, `torch.distributed.checkpoint` the checkpoints.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import time
import uuid
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from jepakit.collectives import rank, world_size
from jepakit.core.batch import Batch
from jepakit.core.latent import ContinuousLatent, FreeEnergy
from jepakit.core.system import System
from jepakit.device import choose_device
from jepakit.errors import UserError
from jepakit.nn.transformer import Block

Value = TypeVar("Value")
LEFT: list[Any] = []  # process groups that have ended
TIMEOUT = timedelta(minutes=30)  # ranks may wait this long for one: a cold disk at the start, a slow save
COLLECTIVE_METHODS = ("encode", "views", "energy", "scores")  # ways into a sharded system besides `forward`


def torchrun_ranks() -> tuple[int, int, int]:
    """RANK, LOCAL_RANK and WORLD_SIZE of the environment; (0, 0, 1) outside of torchrun."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    if any(name not in os.environ for name in names):
        return 0, 0, 1
    own, local, size = (int(os.environ[name]) for name in names)
    return own, local, size


def is_main() -> bool:
    """Whether this is the process that speaks and writes files: rank 0, also after the process group has ended."""
    return rank() == 0 and (world_size() > 1 or torchrun_ranks()[0] == 0)


def restarted() -> bool:
    """Whether torchrun started the processes again after one died (`--max-restarts`); every rank asks, all hear the same."""
    return largest_over_ranks(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))) > 0


@contextlib.contextmanager
def launched(device: str) -> Iterator[torch.device]:
    """Join the other processes of a `torchrun`, for as long as it is entered; the device of this one.

    Args:
        device: "auto", "cpu", "cuda", "mps". With several processes on a machine each takes the GPU of its LOCAL_RANK.

    Processes on GPUs speak nccl, on CPUs gloo. Outside of torchrun, and with one process, nothing is joined.
    Errors: more processes than GPUs, or several processes on MPS.
    """
    own, local, size = torchrun_ranks()
    chosen = choose_device(device) if size == 1 else _device_of(device, local)
    if size == 1 or dist.is_initialized():
        yield chosen
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    store = _meet()
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=own, world_size=size, timeout=TIMEOUT)
    try:
        yield chosen
    except BaseException:
        leave()  # its threads may wait for ranks that are gone: they are not waited for
        raise
    leave()
    atexit.register(_end)


def _meet() -> dist.Store:
    """torchrun's store, under a name that only this start of the processes uses.

    After a restart the store still holds the addresses of the processes that died (torch 2.13, TCPStore shared with the
    rendezvous), and TORCHELASTIC_RESTART_COUNT is each node's own. So every process says hello under a word that it has
    just made up, and rank 0 answers whoever is alive with one of its own.
    """
    store, own, size = next(rendezvous("env://", timeout=TIMEOUT))
    word, deadline = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    if own > 0:
        store.set(f"jepakit/hello/{own}", word)
        name = store.get(f"jepakit/welcome/{word}").decode()  # waits for it
        store.add(f"jepakit/here/{name}", 1)
        return dist.PrefixStore(f"jepakit/{name}", store)
    while store.add(f"jepakit/here/{word}", 0) < size - 1:
        for other in range(1, size):
            if store.check([f"jepakit/hello/{other}"]):
                store.set(f"jepakit/welcome/{store.get(f'jepakit/hello/{other}').decode()}", word)
        if time.monotonic() > deadline:
            raise UserError(f"Of the {size} processes not all have come within {TIMEOUT}. Look at the other nodes' output.")
        time.sleep(0.02)
    return dist.PrefixStore(f"jepakit/{word}", store)


def leave() -> None:
    """Go on alone: what follows is no longer one run of many processes (rank 0 evaluates while the others end)."""
    if dist.is_available() and dist.is_initialized():
        # Kept: were DDP the last to let go of it, its end would wait for a thread that waits for Python's lock (torch 2.13).
        LEFT.append(dist.group.WORLD)
        dist.destroy_process_group()


def _end() -> None:
    """End gloo's threads while Python still runs: one that lets go of a tensor later aborts the process (torch 2.13)."""
    gc.collect()  # DDP's reducers
    LEFT.clear()


def _device_of(name: str, local: int) -> torch.device:
    if name == "mps":
        raise UserError("device 'mps' serves one process. Start without torchrun, or use --device cpu.")
    chosen = choose_device("cpu" if name == "auto" and not torch.cuda.is_available() else name)
    if chosen.type != "cuda":
        return chosen
    if local >= torch.cuda.device_count():
        raise UserError(
            f"This machine has {torch.cuda.device_count()} GPUs, and torchrun started a process for GPU {local}. "
            f"Lower --nproc-per-node to {torch.cuda.device_count()}, or use --device cpu."
        )
    return torch.device("cuda", local)


def wrap(system: System, parallel: str) -> nn.Module:
    """The system's `step` on all ranks together, called as a module is; `parallel` is "ddp" or "fsdp".

    "ddp": every rank keeps the whole system and gradients are averaged. "fsdp": parameters, gradients and the optimiser's
    state lie in shards (FSDP2), gathered block by block where they are used; `system` itself is changed, so build its
    optimiser after this. One process: the system as it is.
    """
    if world_size() == 1:
        return system
    if parallel == "fsdp":
        return _shard(system)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)  # since torch 2.13
        # Buffers need no copying: `nn.batch_norm` keeps them equal on all ranks.
        return nn.parallel.DistributedDataParallel(_Step(system), find_unused_parameters=True, broadcast_buffers=False)


class _Step(nn.Module):
    """What DDP wraps: the system beside a parameter that no step uses.

    Which parameters a step uses may be drawn at random, so DDP looks for unused ones; where it finds none, every rank
    prints a warning that it need not have looked.
    """

    def __init__(self, system: System):
        super().__init__()
        self.system = system
        self.unused = nn.Parameter(torch.zeros(1, device=next(system.parameters()).device))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.system(batch)


def _shard(system: System) -> nn.Module:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    scalars = [name for name, parameter in system.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise UserError(f"parallel fsdp cannot cut {scalars[0]}, a single number, into shards. Use --parallel ddp.")
    measure = getattr(system, "measure", None)
    if isinstance(measure, FreeEnergy) and isinstance(measure.latent, ContinuousLatent):
        raise UserError(
            "parallel fsdp cannot search a continuous latent z, which differentiates the predictor inside a step. Use "
            "--parallel ddp, or a discrete latent."
        )
    for module in list(system.modules()):
        if isinstance(module, Block):
            fully_shard(module)
    # The root holds what lies in no block. It too gives its gathered parameters back: health measures between steps.
    fully_shard(system, reshard_after_forward=True)
    for name in COLLECTIVE_METHODS:
        if hasattr(system, name):
            register_fsdp_forward_method(system, name)
    return system


@contextlib.contextmanager
def gradient_sync(module: Any, now: bool) -> Iterator[None]:
    """Backward inside averages gradients over ranks (`now`), or only adds them up, for an accumulated piece."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not now:
        with module.no_sync():
            yield
    else:
        if hasattr(module, "set_requires_gradient_sync"):  # FSDP2's
            module.set_requires_gradient_sync(now)
        yield


def full(tensor: Tensor) -> Tensor:
    """A tensor of a sharded system in one piece, on every rank; others as they are."""
    # Asked by name: importing DTensor to ask by type takes a second.
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def largest_over_ranks(number: int) -> int:
    """The largest of all ranks' numbers, on every rank: how one that only a single rank knows reaches the others."""
    if world_size() == 1:
        return number
    together = torch.tensor(number, device=_meeting_place())
    dist.all_reduce(together, op=dist.ReduceOp.MAX)
    return int(together)


def of_main(value: Value) -> Value:
    """Rank 0's value, on every rank; anything that pickles."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=_meeting_place())
    return box[0]


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if world_size() > 1:
        largest_over_ranks(0)


def _meeting_place() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
