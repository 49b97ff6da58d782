"""The cost model's step against a measured one: I-JEPA, ViT-Ti/16 at 224 px, on 1, 2 and 4 gloo processes of this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.machine import product_rate
from benchmarks.step import INPUTS, PAPER, batch_of
from benchmarks.timing import Result, seconds
from jepakit.masks.blocks import MultiBlockConfig
from jepakit.systems.i_jepa import IJEPA, IJEPAConfig
from jepakit.training.cost_model import LINK_SHARE, Counted, Expected, Layout, Machine, count_step, expected
from jepakit.training.distributed import wrap
from jepakit.training.optimizer import OptimizerConfig, build_optimizer

SAMPLES, STEPS = 8, 5  # of a process and step


def system() -> IJEPA:
    torch.manual_seed(0)
    return IJEPA(IJEPAConfig(size="tiny", patch_size=16, masks=MultiBlockConfig(**PAPER)), INPUTS)


def measured(own: int, processes: int, folder: str) -> None:
    """In one of the processes: the fastest step, and the rates of products, copies and links while all are at work."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=own, world_size=processes)
    model, cpu = system(), torch.device("cpu")
    batch, optimizer = batch_of(model, cpu, SAMPLES), build_optimizer(model, OptimizerConfig(), cpu)
    engine = wrap(model, "ddp")

    def step() -> None:
        engine(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.after_step(0.5)

    def together(work) -> float:
        dist.barrier()
        return seconds(work)

    source, copy = torch.zeros(2**24), torch.empty(2**24)
    reduced = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad))
    step()
    found = torch.tensor(
        [
            min(together(step) for _ in range(STEPS)),
            1 / product_rate(),
            min(together(lambda: copy.copy_(source)) for _ in range(5)) / (2 * source.nbytes),
            min(together(lambda: dist.all_reduce(reduced)) for _ in range(5)) / reduced.nbytes,
        ],
        dtype=torch.float64,
    )
    dist.all_reduce(found, dist.ReduceOp.MAX)
    if own == 0:
        torch.save(found, Path(folder) / "found.pt")
    dist.destroy_process_group()


def on(processes: int) -> list[float]:
    """Seconds of a step, of a floating-point operation, of a byte copied, and of a byte of gradient reduced."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measured, (processes, folder), nprocs=processes)
        return torch.load(Path(folder) / "found.pt").tolist()


def predicted(counted: Counted, found: list[float], processes: int, attained: float) -> Expected:
    """The model's step on a machine of these rates."""
    _, operation, copied, reduced = found
    ring = 2 * (processes - 1) / processes
    link = ring / reduced / LINK_SHARE if processes > 1 else 1.0
    here = Machine(
        name="here", bfloat16=1 / operation, float32=1 / operation, memory=0.0, memory_rate=1 / copied, link_rate=link,
        network_rate=link, source="measured beside the step",
    )  # fmt: skip
    return expected(counted, here, Layout(gpus=processes, precision="float32", attained=attained))


def run() -> list[Result]:
    counted = count_step(system, batch_of(system(), torch.device("cpu"), SAMPLES), "float32")
    alone = on(1)
    at_peak = predicted(counted, alone, 1, 1.0)
    attained = at_peak.compute_s / (alone[0] - at_peak.update_s)
    results = []
    for processes in (1, 2, 4):
        found = alone if processes == 1 else on(processes)
        step = predicted(counted, found, processes, attained)
        note = f"compute {step.compute_s:.2f} s, update {step.update_s:.3f}, "
        note += f"sending {step.communication_s:.3f}, not hidden {step.exposed_s:.3f}"
        note += f"; its {attained:.2f} of the product rate is taken for all" if processes == 1 else ""
        results.append(Result(f"processes: a step on {processes}, predicted", step.step_s, found[0], note=note))
    return results
