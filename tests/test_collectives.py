"""Two processes with uneven batches, under torch's own DDP, against one process with the joined batch."""

import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn

from jepakit.collectives import (
    gather_over_ranks,
    global_count,
    rank,
    sum_over_ranks,
    world_size,
)
from jepakit.core.anticollapse import CONFIGS, SIGRegConfig, make_anticollapse
from jepakit.core.energies import Energy, mean_over_tokens

VIEWS, SIZES, DIM = 3, (5, 9), 4
LOSSES = [*CONFIGS, "sigreg of the paper", "tokens"]


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, sum(SIZES), DIM, generator=generator, dtype=dtype)
    return common + 0.3 * torch.randn(VIEWS, sum(SIZES), DIM, generator=generator, dtype=dtype)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(DIM, 6), nn.Tanh(), nn.Linear(6, 5)).double()


def loss_of(name, embedded, samples):
    """`samples`: the numbers of the samples in the joined batch; sample i has i % VIEWS + 1 valid tokens (views)."""
    if name == "tokens":
        valid = torch.arange(VIEWS)[:, None] < torch.tensor([i % VIEWS + 1 for i in samples])
        return mean_over_tokens(Energy(name="smooth_l1")(embedded, 0 * embedded + 0.3), valid)
    method = SIGRegConfig(convention="paper") if name == "sigreg of the paper" else name
    return make_anticollapse(method, seed=3)(embedded, 11)["loss"]


def value_and_gradients(name, model, views, samples):
    model.zero_grad()
    loss = loss_of(name, model(views), samples)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@functools.cache
def in_one_process():
    return {name: value_and_gradients(name, network(), inputs(), range(sum(SIZES))) for name in LOSSES}


def worker(index, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=2)
    start = sum(SIZES[:index])
    samples = range(start, start + SIZES[index])
    views = inputs()[:, start : start + SIZES[index]]
    results = {
        name: value_and_gradients(name, nn.parallel.DistributedDataParallel(network()), views, samples)
        for name in LOSSES
    }
    x = torch.arange(2.0 + index, requires_grad=True)
    gathered = gather_over_ranks(x)
    (gathered * torch.arange(5.0) * (index + 1)).sum().backward()
    y = torch.tensor(float(index), requires_grad=True)
    total = sum_over_ranks(y)
    (total**2 * (index + 1)).backward()
    results["collectives"] = {
        "rank": (rank(), world_size()),
        "gather": (gathered.detach(), x.grad),
        "sum": (total.detach(), y.grad),
        "count": (global_count(index + 3), global_count(torch.tensor(index + 3))),
    }
    torch.save(results, f"{folder}/rank{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{index}.pt") for index in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_give_the_value_and_gradient_of_one(ranks, name):
    value, gradients = in_one_process()[name]
    assert all(g.abs().max() > 1e-4 for g in gradients[:3])
    for result in ranks:
        torch.testing.assert_close(result[name][0], value, rtol=1e-9, atol=1e-12)
        for got, expected in zip(result[name][1], gradients, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.distributed
def test_what_each_collective_returns_and_sends_back(ranks):
    for index, result in enumerate(r["collectives"] for r in ranks):
        assert result["rank"] == (index, 2)
        gathered, gradient = result["gather"]
        torch.testing.assert_close(gathered, torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0]))
        rows = torch.arange(5.0) * 3  # rank 0 sends back 1 times the row number, rank 1 twice
        torch.testing.assert_close(gradient, rows[:2] if index == 0 else rows[2:])
        total, gradient = result["sum"]
        assert total == 1
        assert gradient == 2 * 1 * (1 + 2)
        assert result["count"] == (7, torch.tensor(7))
        assert isinstance(result["count"][0], int)


def test_one_process_is_the_identity():
    x = torch.randn(3, 2)
    assert (rank(), world_size()) == (0, 1)
    for collective in (sum_over_ranks, gather_over_ranks):
        assert torch.equal(collective(x), x)
    assert global_count(5) == 5
