"""The same systems on two ranks with uneven parts: the loss and gradient of one process with the joined batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist

from jepakit.core.batch import Batch
from jepakit.core.system import System
from jepakit.device import to_device
from jepakit.training.distributed import full, wrap
from tests.contracts.toy_data import ToyInputs, ToySamples
from tests.contracts.toy_systems import SYSTEMS, ToyConfig

COUNTS = (4, 6)
LATENTS = {"toy-latent-masked": ("discrete", "continuous"), "toy-latent-dynamics": ("discrete", "continuous")}
CASES = [
    (name, latent, parallel)
    for name in SYSTEMS
    for latent in LATENTS.get(name, ("none",))
    for parallel in ("ddp", "fsdp")
    if (latent, parallel) != ("continuous", "fsdp")  # a backward pass inside the step: see `ContinuousLatent`
]


def build(name: str, latent: str) -> System:
    kind, world = SYSTEMS[name]
    torch.manual_seed(0)
    system = kind(ToyConfig(latent=latent), ToyInputs(world=world)).double()
    with torch.no_grad():
        for parameter in system.parameters():  # away from zeros, behind which a condition would be without effect
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def batch_of(name: str, start: int, count: int) -> Batch:
    """Samples of the joined batch; nobody on the second rank has a place."""
    kind, world = SYSTEMS[name]
    samples = ToySamples(world, np.arange(start, start + count))
    batch = kind.collator(build(name, "none"), 0)([samples[i] for i in range(count)])
    if world == "ward":
        batch["inputs"]["place"]["present"] &= (batch["id"] < COUNTS[0])[:, None]
    return to_device(batch, torch.device("cpu"), torch.float64)


def value_and_gradients(system: System, batch: Batch, parallel: str) -> tuple[float, dict[str, torch.Tensor]]:
    module = wrap(system, parallel)
    loss = module(batch)["loss"]
    loss.backward()
    return loss.item(), {name: full(p.grad).clone() for name, p in system.named_parameters() if p.requires_grad}


def worker(index: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=2)
    results = {}
    for name, latent, parallel in CASES:
        batch = batch_of(name, sum(COUNTS[:index]), COUNTS[index])
        results[name, latent, parallel] = value_and_gradients(build(name, latent), batch, parallel)
    torch.save(results, f"{folder}/{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{index}.pt") for index in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "latent", "parallel"), CASES)
def test_two_ranks_are_one_process(on_two_ranks, name, latent, parallel):
    loss, gradients = value_and_gradients(build(name, latent), batch_of(name, 0, sum(COUNTS)), "ddp")
    for results in on_two_ranks:
        value, parts = results[name, latent, parallel]
        assert value == pytest.approx(loss, abs=1e-9)
        assert parts.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(parts[key], gradient, atol=1e-8, rtol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
