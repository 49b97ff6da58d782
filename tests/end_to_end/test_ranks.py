"""Every system on 2 and 4 processes (gloo) and on one: the same losses, gradients, health and weights, in float64.

The processes are spawned once for each number of them and run everything; the tests compare what they left behind.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from jepakit.collectives import world_size
from jepakit.errors import UserError
from jepakit.training.distributed import full, wait_for_all
from jepakit.training.run_folder import RunFolder
from tests.tiny_systems import TINY, tiny_trainer, untimed

pytestmark = pytest.mark.distributed

SHARDED = ["i-jepa", "i-jepa and sigreg"]  # attention blocks; BatchNorm and a loss across the batch
RESUMED = ["i-jepa", "i-jepa and sigreg, fsdp"]  # by the engine that wrote them and by the other one
SAVED = 2  # the step of the checkpoint that other numbers of ranks go on from

# Sums over ranks are taken in another order. Losses, gradients: float64's rounding; weights: what AdamW makes of it, which
# divides a gradient by its own size; health: measured in float32.
LOSS = {"rtol": 1e-8, "atol": 1e-10}
GRADIENT = {"rtol": 1e-6, "atol": 1e-10}
WEIGHT = {"rtol": 1e-5, "atol": 1e-6}
HEALTH = {"rel_tol": 1e-3, "abs_tol": 1e-4}


def run(name: str, path: Path, watched: bool = True, **options: Any) -> dict[str, Any]:
    """Train; what one rank holds then: the first step's gradients and the weights, in full, by name."""
    trainer = tiny_trainer(name, path, **options)
    if not watched:
        trainer.watch = lambda: None
    gradients: dict[str, torch.Tensor] = {}
    step = trainer.optimizer.step

    def remember() -> None:
        if not gradients:
            named = trainer.system.named_parameters()
            gradients.update({n: full(p.grad).clone() for n, p in named if p.grad is not None})
        step()

    trainer.optimizer.step = remember
    trainer.train()
    return {"gradients": gradients, "weights": weights_of(trainer)}


def weights_of(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: full(t.detach()).clone() for name, t in trainer.system.state_dict().items()}


def go_on(name: str, source: Path, path: Path, **options: Any) -> dict[str, Any]:
    """Resume a copy of a run at its checkpoint of step SAVED, whoever wrote that."""
    folder = RunFolder(path)
    if not dist.is_initialized() or dist.get_rank() == 0:
        shutil.copytree(source, path)
        for checkpoint in folder.list_checkpoints():
            if checkpoint != folder.checkpoint(SAVED):
                shutil.rmtree(checkpoint)
    wait_for_all()
    trainer = tiny_trainer(name, path, **options)
    trainer.restore()
    assert trainer.step == SAVED
    trainer.train()
    return {"weights": weights_of(trainer)}


def everything(place: Path) -> dict[str, Any]:
    """All runs of one number of ranks; their folders lie in `place/RANKS/...`."""
    here = place / str(world_size())
    found: dict[str, Any] = {}
    for name in TINY:
        found[name] = run(name, here / name)
    for name in SHARDED if world_size() > 1 else ():
        found[f"{name}, fsdp"] = run(name, here / f"{name}, fsdp", parallel="fsdp")
    for name in TINY:
        try:
            found[f"{name}, pieces"] = run(name, here / f"{name}, pieces", watched=False, accumulate=2, checkpoint_every=99)
        except UserError as error:
            found[f"{name}, pieces"] = str(error)
    for name in RESUMED:
        parallel = "fsdp" if world_size() == 4 or (world_size() == 2 and "fsdp" in name) else "ddp"
        source, path = place / "2" / name, here / f"{name}, resumed"
        found[f"{name}, resumed"] = go_on(alone(name), source, path, parallel=parallel)
    return found


def alone(name: str) -> str:
    """The run of one process that a run must equal."""
    return name.removesuffix(", fsdp")


def worker(index: int, ranks: int, place: str) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        address = f"file://{place}/rendezvous{ranks}"
        dist.init_process_group("gloo", init_method=address, rank=index, world_size=ranks, timeout=timedelta(minutes=3))
    torch.save(everything(Path(place)), f"{place}/{ranks}-{index}.pt")
    if ranks > 1:
        dist.destroy_process_group()


class Ranks:
    """What the processes left behind, by their number. Two come first: the others resume what they saved."""

    def __init__(self, place: Path):
        self.place, self.left = place, {}
        for size in (2, 1):
            self[size]

    def __getitem__(self, size: int) -> list[dict[str, Any]]:
        if size not in self.left:
            # A server that has imported everything forks the processes: they start in no time, and untouched by pytest.
            multiprocessing.set_forkserver_preload(["jepakit.verbs.pretrain", "torch.distributed.checkpoint"])
            arguments = (worker, (size, str(self.place)))
            torch.multiprocessing.start_processes(*arguments, nprocs=size, start_method="forkserver")
            self.left[size] = [torch.load(self.place / f"{size}-{index}.pt") for index in range(size)]
        return self.left[size]

    def lines(self, size: int, name: str, kind: str) -> list[dict[str, Any]]:
        assert self[size]
        return [line for line in untimed(RunFolder(self.place / str(size) / name)) if line["kind"] == kind]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("ranks"))


def same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def same_lines(found: list[dict[str, Any]], expected: list[dict[str, Any]], **tolerance: float) -> None:
    assert len(found) == len(expected) > 0
    for line, other in zip(found, expected, strict=True):
        assert line.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float):
                assert math.isclose(line[name], value, **tolerance), f"step {line['step']}, {name}: {line[name]}, {value}"
            elif name != "health/message":
                assert line[name] == value, name


RUNS = [*TINY, *(f"{name}, fsdp" for name in SHARDED)]
FOUR = pytest.param(4, marks=pytest.mark.slow)


@pytest.mark.parametrize("size", [2, FOUR])
@pytest.mark.parametrize("name", RUNS)
def test_loss_curve_and_every_term(ranks: Ranks, name: str, size: int) -> None:
    expected = ranks.lines(1, alone(name), "train")
    same_lines(ranks.lines(size, name, "train"), expected, rel_tol=LOSS["rtol"], abs_tol=LOSS["atol"])
    assert len({line["loss"] for line in expected}) == len(expected)


@pytest.mark.parametrize("size", [2, FOUR])
@pytest.mark.parametrize("name", RUNS)
def test_gradients_of_the_first_step(ranks: Ranks, name: str, size: int) -> None:
    expected = ranks[1][0][alone(name)]["gradients"]
    # The head of v-jepa-2-ac begins at 0: in the first step nothing behind it has a gradient.
    least = 1 if name.startswith("v-jepa-2-ac") else len(expected) / 2
    assert sum(g.abs().max() > 1e-8 for g in expected.values()) > least
    for left in ranks[size]:
        same_tensors(left[name]["gradients"], expected, **GRADIENT)


@pytest.mark.parametrize("size", [2, FOUR])
@pytest.mark.parametrize("name", RUNS)
def test_weights_after_the_run_on_every_rank(ranks: Ranks, name: str, size: int) -> None:
    for left in ranks[size]:
        same_tensors(left[name]["weights"], ranks[1][0][alone(name)]["weights"], **WEIGHT)


@pytest.mark.parametrize("size", [2, FOUR])
@pytest.mark.parametrize("name", RUNS)
def test_health(ranks: Ranks, name: str, size: int) -> None:
    same_lines(ranks.lines(size, name, "health"), ranks.lines(1, alone(name), "health"), **HEALTH)


@pytest.mark.parametrize("size", [1, 2, FOUR])
@pytest.mark.parametrize("name", TINY)
def test_accumulation_equals_the_joined_batch_or_is_refused(ranks: Ranks, name: str, size: int) -> None:
    for left in ranks[size]:
        pieces = left[f"{name}, pieces"]
        if isinstance(pieces, str):
            assert "looks across the whole batch" in pieces
        else:
            same_tensors(pieces["gradients"], ranks[1][0][name]["gradients"], **GRADIENT)
            same_tensors(pieces["weights"], ranks[1][0][name]["weights"], **WEIGHT)


@pytest.mark.parametrize("size", [1, 2, FOUR])
@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_of_two_ranks_goes_on_on_one_two_and_four(ranks: Ranks, name: str, size: int) -> None:
    resumed, whole = f"{name}, resumed", ranks[2][0][name]["weights"]
    for left in ranks[size]:
        same_tensors(left[resumed]["weights"], whole, **({"rtol": 0, "atol": 0} if size == 2 else WEIGHT))
    found, expected = (
        [*ranks.lines(n, run, "train"), *ranks.lines(n, run, "health")] for n, run in ((size, resumed), (2, name))
    )
    if size == 2:
        assert found == expected
    same_lines(found, expected, **HEALTH)
