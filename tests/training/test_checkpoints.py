"""Checkpoints: whole or not at all, the same state back, and read without trust."""

from __future__ import annotations

import io
import os
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from jepakit.errors import UserError
from jepakit.training.checkpoints import (
    _MetadataUnpickler,
    read_checkpoint,
    remove_checkpoint,
    restore_checkpoint,
    write_checkpoint,
)

CPU = torch.device("cpu")


def system_and_optimizer(seed=0, width=3):
    torch.manual_seed(seed)
    system = nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    system.never_used = nn.Parameter(torch.ones(2))
    return system, torch.optim.AdamW(system.parameters(), lr=0.1, fused=True)


def train(system, optimizer, steps):
    for _ in range(steps):
        system(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def save(path, system, optimizer, **state):
    write_checkpoint(path, system, optimizer, {"fingerprint": "data", **state})


@pytest.fixture
def place(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / "step-00000005"


def test_what_is_restored_goes_on_as_if_nothing_had_happened(place):
    system, optimizer = system_and_optimizer()
    train(system, optimizer, 3)
    save(place, system, optimizer, step=5, window={"loss": torch.tensor(0.1), "lr": 0.2})
    train(system, optimizer, 2)  # its samples are from the global generator, whose state is restored too
    again, its_optimizer = system_and_optimizer(seed=1)
    state = restore_checkpoint(place, again, its_optimizer, "data")
    assert (state["step"], state["window"]) == (5, {"loss": torch.tensor(0.1), "lr": 0.2})
    train(again, its_optimizer, 2)
    for name, tensor in system.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert not its_optimizer.state[again.never_used]
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name]


def test_weights_alone_are_read_in_full(place):
    system, optimizer = system_and_optimizer()
    train(system, optimizer, 1)
    save(place, system, optimizer, step=5)
    read = read_checkpoint(place, CPU)
    assert read["step"] == 5
    assert read["system"].keys() == system.state_dict().keys()
    assert all(torch.equal(read["system"][name], tensor) for name, tensor in system.state_dict().items())


def test_a_write_that_fails_leaves_the_one_before_and_nothing_else(place, monkeypatch):
    system, optimizer = system_and_optimizer()
    save(place, system, optimizer, step=5)

    def fail(content, handle):
        handle.write(b"PK half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="No space"):
            save(place.with_name("step-00000010"), system, optimizer, step=10)
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert read_checkpoint(place, CPU)["step"] == 5


def test_a_full_disk_under_the_tensors_is_said_as_itself(place, monkeypatch):
    from torch.distributed.checkpoint import FileSystemWriter

    def fail(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", fail)
    with pytest.raises(OSError, match="No space"):
        save(place, *system_and_optimizer(), step=5)
    assert not list(place.parent.iterdir())


def test_a_checkpoint_that_is_half_removed_is_none(place, monkeypatch):
    save(place, *system_and_optimizer(), step=5)
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors=False: None)  # killed before it begins
    remove_checkpoint(place)
    assert not list(place.parent.glob("step-*"))


def test_other_data_and_other_weights_are_refused_and_change_nothing(place):
    save(place, *system_and_optimizer(), step=5)
    system, optimizer = system_and_optimizer(seed=1, width=2)
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    with pytest.raises(UserError, match=r"does not fit .*config.yaml: its options were changed"):
        restore_checkpoint(place, system, optimizer, "data")
    with pytest.raises(UserError, match=r"The data changed since this run began.*start a new one"):
        restore_checkpoint(place, system, optimizer, "other data")
    assert all(torch.equal(before[name], tensor) for name, tensor in system.state_dict().items())


FILES = ("state.pt", "rank-0.pt", ".metadata", "__0_0.distcp")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, None])
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_or_lost_names_the_checkpoint_and_the_remedy(place, name, share):
    save(place, *system_and_optimizer(), step=5)
    assert {path.name for path in place.iterdir()} == set(FILES)
    path = place / name
    if share is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    remedy = r"step-00000005 cannot be read .*Delete it to resume from the one before"
    with pytest.raises(UserError, match=remedy) as told:
        restore_checkpoint(place, *system_and_optimizer(), "data")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [{"format": 99, "step": 1}, {"step": 1}, [1, 2]])
def test_another_format_is_refused_by_name(place, content):
    place.mkdir()
    torch.save(content, place / "state.pt")
    with pytest.raises(UserError, match=r"step-00000005: this jepakit reads checkpoint format 2, found"):
        read_checkpoint(place, CPU)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", FILES)
def test_code_in_a_checkpoint_does_not_run(place, tmp_path, name):
    save(place, *system_and_optimizer(), step=5)
    marker, path = tmp_path / "it ran", place / name
    if name.endswith(".pt"):
        torch.save({"format": 2, "step": Malicious(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(UserError, match=r"step-00000005 cannot be read"):
        restore_checkpoint(place, *system_and_optimizer(), "data")
    assert not marker.exists()
    if name == ".metadata":
        pickle.loads(path.read_bytes())  # it would have
        assert marker.exists()


class AsOlderPython:
    """Pickles an attribute as Python 3.11.2 does members of enumerations."""

    def __init__(self, owner: object, name: str):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


def test_members_of_enumerations_are_read_as_every_python_writes_them_and_nothing_else_is():
    def read(value: object) -> object:
        return _MetadataUnpickler(io.BytesIO(pickle.dumps(value))).load()

    assert read(AsOlderPython(_MEM_FORMAT_ENCODING, "TORCH_PRESERVE_FORMAT")) is _MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT
    for owner, name in ((_MEM_FORMAT_ENCODING, "__class__"), (torch.Size, "count"), (_MEM_FORMAT_ENCODING, "mro")):
        with pytest.raises(pickle.UnpicklingError, match="does not belong"):
            read(AsOlderPython(owner, name))
