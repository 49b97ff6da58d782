"""The cost model: what it counts equals what a real step does, and its equations are those of docs/scaling.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from jepakit.config import default_config
from jepakit.core.batch import Batch
from jepakit.core.system import System
from jepakit.interop.load import teacher_of
from jepakit.interop.runs import build_system
from jepakit.training import cost_model
from jepakit.training.cost_model import MACHINES, Counted, Layout, count_step, expected, scaled
from jepakit.training.distributed import _Step
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.plan_run import _drawn
from jepakit.verbs.pretrain import decide
from tests.tiny_systems import TINY, open_once, options_of, system_of

H100 = MACHINES["h100"]
COUNTED = Counted(
    samples=32, parameters=10**9, trained=6 * 10**8, averaged=4 * 10**8, flops=10**13, parts={}, activations=10**10,
    largest_unit=2 * 10**7, root_unit=10**7,
)  # fmt: skip


def prepared(name: str, count: int = 10, **options: Any) -> tuple[Any, Batch]:
    """A function that builds the system, and a batch of it."""
    chosen = options_of(name, precision="float32", **options)
    config = default_config(system_of(name), chosen["data"]).override(**chosen)
    data = open_once(config)
    decided = decide(config, data)

    def build() -> System:
        with torch.device("cpu"):
            teacher = teacher_of(decided, RunFolder("."))
        return build_system(decided, teacher)

    return build, build().collator(0)(_drawn(decided, data, count))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_counted_without_numbers_is_what_a_real_step_does(name: str, precision: str) -> None:
    """FLOPs and kept bytes, of every system: equal."""
    build, batch = prepared(name)
    found, real = count_step(build, batch, precision), cost_model._counted(build(), batch, precision)
    assert found == real
    assert found.parameters == sum(p.numel() for p in build().parameters())
    assert found.flops > 0
    assert found.activations > 0


def test_lower_precision_keeps_less_and_computes_the_same() -> None:
    build, batch = prepared("i-jepa")
    full, half = (count_step(build, batch, precision) for precision in ("float32", "bfloat16"))
    assert half.flops == full.flops
    assert 0.4 * full.activations < half.activations < full.activations


def test_vision_transformer_by_hand() -> None:
    """2 FLOPs a weight and token, and 4 N^2 d of attention; a backward pass is about two forward ones."""
    build, batch = prepared("i-jepa")
    system = build()
    config = system.encoder.config
    tokens, dim, hidden = config.grid[0] * config.grid[1], config.dim, round(config.dim * config.mlp_ratio)
    layer = 2 * tokens * dim * (4 * dim + 2 * hidden) + 4 * tokens**2 * dim
    patches = 2 * tokens * dim * config.channels * config.patch_size**2
    counted = count_step(build, batch, "float32")
    assert counted.parts["target"] == len(batch["id"]) * (config.depth * layer + patches)
    kept = batch["context_lengths"].flatten()  # contexts are packed: no padding, and each sees itself alone
    linear, attention = 2 * int(kept.sum()) * dim * (4 * dim + 2 * hidden), 4 * int(kept.square().sum()) * dim
    assert counted.parts["encoder"] == config.depth * (linear + attention) + len(batch["id"]) * patches
    forward = counted.parts["encoder"] + counted.parts["predictor"]
    assert 1.95 * forward < counted.parts["backward"] < 2.1 * forward  # the patches' own gradient is not asked for
    assert counted.flops == sum(counted.parts.values())


def test_ddp_reduces_the_bytes_of_the_gradients(tmp_path: Path) -> None:
    build, batch = prepared("i-jepa")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        system = build()
        module = torch.nn.parallel.DistributedDataParallel(_Step(system), find_unused_parameters=True)
        sizes: list[int] = []

        def remember(state, bucket):  # torch looks at annotations, and ours are words
            sizes.append(bucket.buffer().nbytes)
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        module.register_comm_hook(None, remember)
        module(batch)["loss"].backward()
    finally:
        dist.destroy_process_group()
    trained = count_step(build, batch, "float32").trained
    assert sum(sizes) == 4 * (trained + 1)  # `_Step`'s own parameter
    assert expected(replace(COUNTED, trained=trained), H100, Layout(gpus=4)).sent == 2 * 3 / 4 * 4 * trained


def test_memory_of_each_parallel_choice() -> None:
    layouts = (Layout(gpus=1), Layout(gpus=64), Layout(gpus=64, parallel="fsdp"))
    alone, ddp, fsdp = (expected(COUNTED, H100, layout) for layout in layouts)
    assert (alone.memory["weights"], alone.memory["gradients"], alone.memory["optimiser"]) == (4e9, 2.4e9, 4.8e9)
    assert "buckets" not in alone.memory
    assert ddp.memory["buckets"] == 2.4e9
    assert all(fsdp.memory[name] == alone.memory[name] / 64 for name in ("weights", "gradients", "optimiser"))
    assert fsdp.memory["activations"] == ddp.memory["activations"] == 1e10
    assert fsdp.memory["gathered"] == 4 * (1e7 + 3 * 2e7)


def test_communication_in_closed_form() -> None:
    assert expected(COUNTED, H100, Layout(gpus=1)).sent == expected(COUNTED, H100, Layout(gpus=1)).exposed_s == 0
    pieces = expected(COUNTED, H100, Layout(gpus=8, parallel="fsdp", accumulate=2))
    assert pieces.sent == 7 / 8 * 4 * (2 * (1e9 + 6e8) + 6e8)
    near, far = (expected(COUNTED, replace(H100, network_rate=1e9), Layout(gpus=n)) for n in (8, 16))
    assert far.communication_s > 40 * near.communication_s  # 8 GB/s across nodes, 450 within one


def test_the_step_is_compute_and_what_is_not_hidden_behind_it() -> None:
    found = expected(COUNTED, H100, Layout(gpus=8, attained=0.5))
    assert found.compute_s == pytest.approx(1e13 / (989e12 * 0.5))
    assert found.step_s == found.compute_s + found.update_s + found.exposed_s
    slow = expected(COUNTED, replace(H100, link_rate=1e9), Layout(gpus=8, attained=0.5))
    assert slow.exposed_s == pytest.approx(slow.communication_s - 2 / 3 * slow.compute_s)
    assert expected(COUNTED, H100, Layout(gpus=8, precision="float32")).compute_s > 10 * found.compute_s


def test_accumulation_cuts_activations_and_not_compute() -> None:
    whole, pieces = (
        expected(scaled(COUNTED, 32 // n), H100, Layout(gpus=8, accumulate=n)) for n in (1, 4)
    )
    assert pieces.memory["activations"] == whole.memory["activations"] / 4
    assert pieces.flops == whole.flops
    assert pieces.sent == whole.sent


def test_rates_of_this_machine() -> None:
    here = cost_model.measure_here(torch.device("cpu"), side=256)
    assert 1e8 < here.float32 < 1e14
    assert 1e8 < here.memory_rate < 1e13
    assert here.memory > 1e8
