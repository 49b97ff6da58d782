"""Against torch's BatchNorm1d, and two processes with uneven batches against one with the joined batch."""

import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn

from jepakit.errors import UserError
from jepakit.nn.batch_norm import BatchNorm

SIZES, DIM = {"uneven": (5, 9), "one": (13, 1), "empty": (0, 14)}, 4
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def moved(norm):
    """Away from the start, where scale and shift could be forgotten."""
    torch.manual_seed(2)
    with torch.no_grad():
        norm.weight.add_(torch.randn(DIM))
        norm.bias.add_(torch.randn(DIM))
    return norm.double()


def inputs(rows=14):
    return 3 + 2 * torch.randn(rows, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def results(norm, x, function=None):
    """Value, gradients and state after two steps in training and one in eval mode, of a loss that mixes all samples."""
    outputs = []
    for step in range(2):
        leaf = (x + step * x.square()).requires_grad_()
        out = (function or norm)(leaf)
        (out.sin() * torch.linspace(0, 1, out.numel(), dtype=x.dtype).reshape(out.shape)).sum().backward()
        outputs += [out.detach(), leaf.grad, norm.weight.grad.clone(), norm.bias.grad.clone()]
    return [*outputs, norm.eval()(x).detach(), *norm.state_dict().values()]


@pytest.mark.parametrize("joined", [False, True], ids=["torch's kernel", "our formula"])
def test_the_same_as_torch(joined):
    ours, theirs = moved(BatchNorm(DIM)), moved(nn.BatchNorm1d(DIM))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    function = ours._joined if joined else None
    for got, expected in zip(results(ours, inputs(), function), results(theirs, inputs()), strict=True):
        torch.testing.assert_close(got, expected, **EXACT)
    theirs.load_state_dict(ours.state_dict())


def test_every_leading_axis_is_samples():
    x = inputs(12)
    flat, folded = moved(BatchNorm(DIM)), moved(BatchNorm(DIM))
    torch.testing.assert_close(folded(x.reshape(2, 3, 2, DIM)).reshape(12, DIM), flat(x))
    torch.testing.assert_close(folded.running_var, flat.running_var)


def test_gradcheck():
    norm = moved(BatchNorm(DIM))
    for function in (norm, norm._joined):
        assert torch.autograd.gradcheck(function, inputs(5).requires_grad_(), atol=1e-6)


def test_statistics_are_float32_under_autocast():
    """A column far from 0 whose variance bfloat16 cannot hold."""
    x = torch.randn(64, DIM, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.0, 0.0, 0.0, 100.0])
    for joined in (False, True):
        norm = BatchNorm(DIM)
        with torch.autocast("cpu", torch.bfloat16):
            out = (norm._joined if joined else norm)(x.bfloat16())
        expected = (x.bfloat16().float() - x.bfloat16().float().mean(0)) / x.bfloat16().float().std(0, correction=0)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.02)
        torch.testing.assert_close(norm.running_mean, 0.1 * x.bfloat16().float().mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples(samples):
    norm = BatchNorm(DIM)
    for function in (norm, norm._joined):
        with pytest.raises(UserError, match=f"at least 2 samples .* it got {samples}"):
            function(torch.zeros(samples, DIM))
    assert norm.num_batches_tracked == 0
    assert norm.eval()(torch.zeros(samples, DIM)).shape == (samples, DIM)
    with pytest.raises(UserError, match="width 4"):
        norm(torch.zeros(3, 5))


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(DIM, 6), BatchNorm(6), nn.Tanh(), nn.Linear(6, 5), BatchNorm(5)).double()


def outcome(model, x, place, rows):
    """Outputs at these rows, mean gradients of two steps, and running statistics.

    The loss is a local sum, whose DDP mean is the joined one's divided by the number of ranks.
    """
    for step in range(2):
        leaf = (x + step * x.square()).requires_grad_()
        out = model(leaf)
        weights = torch.linspace(-1, 2, 5 * rows, dtype=x.dtype).reshape(rows, 5)[place]
        (out.sin() * weights).sum().backward()
    state = [value for name, value in model.state_dict().items() if "running" in name or "tracked" in name]
    return out.detach(), leaf.grad, [p.grad.clone() for p in model.parameters()], state


@functools.cache
def in_one_process():
    return outcome(network(), inputs(), slice(0, 14), 14)


def worker(index, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=2)
    found = {}
    for name, sizes in SIZES.items():
        place = slice(sum(sizes[:index]), sum(sizes[: index + 1]))
        model = nn.parallel.DistributedDataParallel(network())
        found[name] = (place, *outcome(model, inputs()[place], place, 14))
    try:
        BatchNorm(DIM)(torch.zeros(index, DIM))
    except UserError as error:
        found["error"] = str(error)
    torch.save(found, f"{folder}/rank{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{index}.pt", weights_only=False) for index in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize("name", SIZES)
def test_two_ranks_are_one_with_the_joined_batch(ranks, name):
    out, gradient, parameters, state = in_one_process()
    for result in ranks:
        place, *got = result[name]
        torch.testing.assert_close(got[0], out[place], **EXACT)
        torch.testing.assert_close(got[1], gradient[place], **EXACT)
        for one, other in zip(got[2], parameters, strict=True):
            torch.testing.assert_close(2 * one, other, **EXACT)
        for one, other in zip(got[3], state, strict=True):
            torch.testing.assert_close(one, other, **EXACT)
    assert all(part.abs().max() > 1e-4 for part in (gradient, parameters[-1], parameters[2]))


@pytest.mark.distributed
def test_one_sample_on_all_ranks_is_an_error_on_each(ranks):
    assert all("it got 1" in result["error"] for result in ranks)
