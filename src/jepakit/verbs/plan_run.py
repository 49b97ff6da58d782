"""`plan-run`: what a run will need on machines that are not at hand, and what to turn on."""

from __future__ import annotations

import dataclasses
import json as json_format
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from jepakit.config import OBJECT, RunConfig, default_config, read_config
from jepakit.device import choose_device
from jepakit.errors import UserError, check_choice, check_range
from jepakit.interop.load import teacher_of
from jepakit.interop.runs import build_system
from jepakit.modalities.modality import Data
from jepakit.registry import load_system
from jepakit.training.cost import format_bytes, format_seconds
from jepakit.training.cost_model import (
    MACHINES,
    Counted,
    Expected,
    Layout,
    Machine,
    count_step,
    expected,
    measure_here,
    scaled,
)
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.pretrain import decide, open_data

NO_DATA = "none"
MOST_COUNTED = 256  # samples of a micro-batch; larger ones are in proportion
ATTAINED = 0.4  # of the peak matrix rate (assumed): torchtitan has 0.52 to 0.58 for Llama 3 on 64 A100s, in larger products
COMPILED = 1.15  # times as fast with torch.compile (assumed)


@dataclass(frozen=True)
class Plan:
    """What `plan_run` returns: the run, what was counted, what is expected of a step, and what to turn on."""

    config: RunConfig
    machine: Machine
    layout: Layout
    counted: Counted
    expected: Expected
    steps: int
    advice: list[str]

    @property
    def fits(self) -> bool:
        """Whether a GPU's memory is enough."""
        return self.expected.memory_bytes <= self.machine.memory

    @property
    def samples_per_s(self) -> float:
        return self.config.training.batch_size / self.expected.step_s

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, bytes and seconds."""
        return {
            "system": self.config.system,
            "machine": asdict(self.machine),
            "layout": asdict(self.layout),
            "counted": asdict(self.counted),
            "expected": {**asdict(self.expected), "memory_bytes": self.expected.memory_bytes, "step_s": self.expected.step_s},
            "fits": self.fits,
            "samples_per_s": self.samples_per_s,
            "steps": self.steps,
            "run_s": self.steps * self.expected.step_s,
            "gpu_hours": self.steps * self.expected.step_s * self.layout.gpus / 3600,
            "advice": self.advice,
        }


def plan_run(
    system: str | None = None,
    *,
    data: Any = None,
    gpus: int = 8,
    gpu: str = "h100",
    attained: float | None = None,
    samples: int = 1_281_167,
    json: bool = False,
    config: str | Path | None = None,
    **options: Any,
) -> Plan:
    """Say what a run will cost on `gpus` GPUs: memory of each, time of a step, GPU-hours, and what to turn on.

    Args:
        system: as for `pretrain`. May be left out with `config`.
        data: as for `pretrain`; image systems need none, and plan for 224 x 224 pixels in colour.
        gpus: processes, one a GPU.
        gpu: "a100", "h100", "h200", "b200", "l40s", or "here": rates measured on this machine.
        attained: share of the peak matrix rate that is reached. Default: 0.4, with compile 0.46.
        samples: in the data set, where no data is given. Default: those of ImageNet-1k.
        json: print JSON instead of text.
        config: a run's config.yaml.
        options: any option of `pretrain`.

    Errors: `UserError` for options that do not fit together.
    """
    source = None if data is None or isinstance(data, str | os.PathLike) else data
    named = NO_DATA if data is None else OBJECT if source is not None else os.fspath(data)
    if config is not None:
        chosen = read_config(config)
        options |= {} if data is None else {"data": named}
    elif system is None:
        raise UserError("plan-run needs a system: jepakit plan-run i-jepa --size huge --gpus 64")
    else:
        chosen = default_config(system, named)
    return plan_config(
        chosen.override(**options), gpus=gpus, gpu=gpu, attained=attained, samples=samples, json=json, source=source
    )


def plan_config(
    chosen: RunConfig, *, gpus: int, gpu: str, attained: float | None, samples: int, json: bool, source: Any = None
) -> Plan:
    """Plan what a config describes, and print it."""
    check_range("gpus", gpus, 1)
    check_range("samples", samples, 1)
    check_choice("gpu", gpu, (*MACHINES, "here"))
    if attained is not None:
        check_range("attained", attained, 0.001, 1)
    decided, stored = _decided(chosen, samples, source)
    training = decided.training
    micro = training.batch_size // (gpus * training.accumulate)
    if micro * gpus * training.accumulate != training.batch_size:
        raise UserError(
            f"batch_size {training.batch_size} is no multiple of {gpus} GPUs times accumulate {training.accumulate}. "
            f"Use --batch-size {max(1, round(training.batch_size / gpus / training.accumulate)) * gpus * training.accumulate}."
        )
    machine = MACHINES[gpu] if gpu in MACHINES else measure_here(choose_device(training.device))
    layout = Layout(
        gpus=gpus,
        parallel=training.parallel,
        accumulate=training.accumulate,
        precision="float32" if training.precision in ("float32", "float64") else "bfloat16",
        attained=attained or ATTAINED * (COMPILED if training.compile else 1),
        moments=training.optimizer.moments,
    )
    teacher = teacher_of(decided, RunFolder("."))
    with torch.device("meta"):
        system = build_system(decided, teacher)
    if training.accumulate > 1 and system.joins_batch:
        raise UserError(f"accumulate {training.accumulate}: this system's loss looks across the batch. Leave it at 1.")
    batch = system.collator(training.seed)(_drawn(decided, stored, min(micro, MOST_COUNTED)))
    counted = count_step(lambda: build_system(decided, teacher), batch, layout.precision)
    if micro > MOST_COUNTED:
        counted = scaled(counted, counted.samples * micro // MOST_COUNTED)
    plan = Plan(
        decided, machine, layout, counted, expected(counted, machine, layout), training.steps or 0,
        advise(counted, machine, layout, decided, micro, system.joins_batch),
    )  # fmt: skip
    print(json_format.dumps(plan.to_dict(), indent=1) if json else describe(plan))
    return plan


def _decided(chosen: RunConfig, samples: int, source: Any) -> tuple[RunConfig, Data | None]:
    """The config as `pretrain` would decide it, and its data where there is some."""
    modality, training = load_system(chosen.system).modality, chosen.training
    if chosen.dataset.data != NO_DATA:
        data = open_data(chosen, source)
        return decide(chosen, data), data
    if modality.blank is None:
        raise UserError(f"plan-run needs --data for {chosen.system}, which reads {modality.name}: shapes come from the data.")
    inputs, _ = modality.blank(chosen.dataset)
    steps = training.steps or math.ceil((training.epochs or 100) * samples / training.batch_size)
    return dataclasses.replace(chosen, training=replace(training, steps=steps, epochs=None), inputs=inputs), None


def _drawn(config: RunConfig, data: Data | None, count: int) -> list[dict[str, Any]]:
    """Samples of a micro-batch as the loader gives them, each another id; those of the data come again where it is small."""
    facts = {"epoch": 0, "step": 0, "progress": 0.0}
    if data is None:
        _, blank = load_system(config.system).modality.blank(config.dataset)
        return [{"id": number, **blank, **facts} for number in range(count)]
    drawn = [{**data.train[n % len(data.train)], "id": n, **facts} for n in range(count)]
    for name, companion in data.companions.items():
        number = max(1, round(companion.ratio * count))
        drawn += [{**companion.dataset[n % len(companion.dataset)], "id": n, **facts, "stream": name} for n in range(number)]
    return drawn


def advise(
    counted: Counted, machine: Machine, layout: Layout, config: RunConfig, micro: int, joins_batch: bool
) -> list[str]:
    """What to turn on, most urgent first."""

    def of(parallel: Literal["ddp", "fsdp"], pieces: int) -> Expected:
        part = scaled(counted, max(1, counted.samples // pieces))
        return expected(part, machine, replace(layout, parallel=parallel, accumulate=layout.accumulate * pieces))

    found, advice = of(layout.parallel, 1), []
    if found.memory_bytes > machine.memory:
        pieces = [p for p in (1, 2, 4, 8, 16, 32, 64) if p == 1 or (not joins_batch and micro % p == 0)]
        kinds: list[Literal["ddp", "fsdp"]] = ["ddp", "fsdp"] if layout.gpus > 1 else ["ddp"]
        ways = [(way, p) for p in pieces for way in kinds]
        enough = [(way, p) for way, p in ways if of(way, p).memory_bytes <= machine.memory]
        over = f"does not fit: {format_bytes(found.memory_bytes)} of {format_bytes(machine.memory)}"
        if enough:
            way, p = min(enough, key=lambda choice: of(*choice).step_s)
            turned = [f"--parallel {way}"] * (way != layout.parallel) + [f"--accumulate {layout.accumulate * p}"] * (p > 1)
            advice.append(f"{over}. Use {' '.join(turned)}: {format_bytes(of(way, p).memory_bytes)}.")
        else:
            advice.append(f"{over}. Lower --batch-size, use more GPUs, or a smaller --size.")
    if found.exposed_s > 0.1 * found.step_s:
        share = found.exposed_s / found.step_s
        other = of("ddp", 1)
        remedy = "raise --batch-size"
        if layout.parallel == "fsdp" and other.memory_bytes <= machine.memory and other.step_s < found.step_s:
            remedy = "use --parallel ddp, which fits and sends less"
        advice.append(f"{share:.0%} of the step waits for the network: {remedy}.")
    if layout.precision == "float32" and machine.bfloat16 > 1.5 * machine.float32:
        advice.append("--precision bfloat16 multiplies faster and keeps half.")
    if not config.training.compile:
        advice.append("--compile fuses what is not a matrix product (assumed: 1.15 times as fast); try it on a few steps.")
    modality = load_system(config.system).modality
    if modality.decoding is not None:
        decoded, files = modality.decoding
        rate = config.training.batch_size / found.step_s
        node = rate * min(1.0, machine.per_node / layout.gpus)
        advice.append(
            f"input: {rate:,.0f} {modality.name}/s, {node:,.0f} a node, need about {math.ceil(node / decoded):,} cores a node "
            f"to decode {files} ({decoded} {modality.name}/s a core); fewer from packed arrays."
        )
    return advice


def describe(plan: Plan) -> str:
    """The plan as aligned text."""
    training, counted, found, layout, machine = plan.config.training, plan.counted, plan.expected, plan.layout, plan.machine
    size = getattr(plan.config.model, "size", "")
    peak = machine.bfloat16 if layout.precision == "bfloat16" else machine.float32
    seconds = plan.steps * found.step_s
    rows: list[tuple[str, str, str]] = [
        ("counted on the system's own modules, its collator's masks and views", "", ""),
        ("parameters", f"{counted.parameters / 1e6:,.1f} M", f"{counted.trained / 1e6:,.1f} M trained"),
        ("compute a step", f"{found.flops / 1e12:,.2f} TFLOP", _parts(counted)),
        (f"memory of each GPU, of {format_bytes(machine.memory)}", "", ""),
        *((name, format_bytes(size), _why(name)) for name, size in found.memory.items()),
        ("sum", format_bytes(found.memory_bytes), "fits" if plan.fits else "DOES NOT FIT"),
        ("time of a step", "", ""),
        ("compute", _ms(found.compute_s), f"assumed: {layout.attained:.0%} of {peak / 1e12:,.1f} TFLOP/s"),
        ("optimiser, average", _ms(found.update_s), f"at {machine.memory_rate / 1e12:.2g} TB/s"),
        ("communication", _ms(found.communication_s), f"each GPU sends {format_bytes(found.sent)}"),
        ("not hidden by compute", _ms(found.exposed_s), "what can overlap is assumed to"),
        ("sum", _ms(found.step_s), f"{plan.samples_per_s:,.0f} samples/s"),
        ("the whole run", "", ""),
        ("steps", f"{plan.steps:,}", f"of {training.batch_size:,}"),
        ("time", format_seconds(seconds), f"{seconds * layout.gpus / 3600:,.0f} GPU-hours, without input, health, evaluation"),
    ]
    head = (
        f"{plan.config.system} {size} on {layout.gpus:,} x {machine.name}: {layout.parallel}, {layout.precision}, batch "
        f"{training.batch_size:,} = {layout.gpus:,} x {training.batch_size // layout.gpus // layout.accumulate} x accumulate "
        f"{layout.accumulate}"
    )
    lines = [f"  {name:<24}{value:>12}  {note}".rstrip() if value else f"\n{name}" for name, value, note in rows]
    lines += ["\nwhat to turn on", *(f"  - {line}" for line in plan.advice)] if plan.advice else []
    return "\n".join([head, *lines, f"\nrates: {machine.source}. The equations and what of them was checked: docs/scaling.md"])


def _parts(counted: Counted) -> str:
    return ", ".join(f"{name} {flops / counted.flops:.0%}" for name, flops in counted.parts.items())


def _why(name: str) -> str:
    return {
        "optimiser": "its moments",
        "activations": "what autograd keeps of a micro-batch",
        "gathered": "blocks that fsdp holds whole for a moment",
        "buckets": "ddp's copy of the gradients",
        "reserve": "context, libraries, fragmentation (assumed)",
    }.get(name, "float32")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms"
