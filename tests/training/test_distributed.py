"""What a process knows of the others, without any others; `tests/end_to_end/test_ranks.py` has them."""

from __future__ import annotations

import pytest
import torch

from jepakit.collectives import world_size
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.training import distributed
from jepakit.training.config import TrainingConfig, check_pieces
from jepakit.training.distributed import (
    full,
    is_main,
    largest_over_ranks,
    launched,
    of_main,
    restarted,
    torchrun_ranks,
    wait_for_all,
    wrap,
)
from jepakit.training.progress import Progress


def torchrun(monkeypatch, rank=0, local=0, size=1):
    for name, value in {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": size}.items():
        monkeypatch.setenv(name, str(value))


def test_alone_nothing_is_joined_and_everything_is_the_identity():
    with launched("cpu") as device:
        assert device == torch.device("cpu")
        assert not torch.distributed.is_initialized()
    system = System()
    system.weight = torch.nn.Parameter(torch.ones(2))
    assert wrap(system, "fsdp") is system
    assert (torchrun_ranks(), world_size(), is_main(), restarted()) == ((0, 0, 1), 1, True, False)
    assert (largest_over_ranks(7), of_main("verdict")) == (7, "verdict")
    wait_for_all()
    assert full(system.weight) is system.weight


def test_a_cluster_that_sets_a_rank_for_purposes_of_its_own_is_no_torchrun(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert torchrun_ranks() == (0, 0, 1)
    assert is_main()


def test_only_rank_0_speaks_also_before_and_after_the_process_group(monkeypatch, capsys):
    torchrun(monkeypatch, rank=1, local=1, size=2)
    assert not is_main()
    Progress(3).say("hello")
    torchrun(monkeypatch, rank=0, local=0, size=2)
    assert is_main()
    Progress(3).say("good day")
    said = capsys.readouterr().err
    assert "good day" in said
    assert "hello" not in said


def test_torchrun_says_when_it_has_restarted(monkeypatch):
    for count, expected in (("0", False), ("1", True), ("12", True)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        assert restarted() is expected


def test_one_process_of_torchrun_joins_nothing(monkeypatch):
    torchrun(monkeypatch)
    with launched("cpu"):
        assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_and_several_on_mps_are_refused(monkeypatch):
    torchrun(monkeypatch, rank=2, local=2, size=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda"):
        with pytest.raises(UserError, match=r"has 2 GPUs.*GPU 2. Lower --nproc-per-node to 2, or use --device cpu"):
            launched(name).__enter__()
    with pytest.raises(UserError, match=r"'mps' serves one process"):
        launched("mps").__enter__()
    assert distributed._device_of("cpu", 2) == torch.device("cpu")
    assert distributed._device_of("auto", 1) == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("ranks", "accumulate", "streams", "told"),
    [
        (4, 1, {"": 3}, r"batch_size 3 cannot be cut into 4 pieces \(4 processes, accumulate 1\)"),
        (2, 4, {"": 4}, r"batch_size 4 cannot be cut into 8 pieces"),
        (4, 1, {"": 16, "stills": 2}, r"the 2 samples that a step draws from stills cannot be cut into 4"),
        (4, 2, {"": 9, "stills": 8}, None),
    ],
)
def test_no_rank_and_no_piece_may_be_empty(monkeypatch, ranks, accumulate, streams, told):
    monkeypatch.setattr("jepakit.training.config.world_size", lambda: ranks)
    config = TrainingConfig(batch_size=4 * accumulate, accumulate=accumulate)
    if told is None:
        check_pieces(config, False, streams)
    else:
        with pytest.raises(UserError, match=told):
            check_pieces(config, False, streams)
