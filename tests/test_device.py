from __future__ import annotations

import contextlib

import pytest
import torch

from jepakit.device import autocast, choose_device, choose_precision, native_bfloat16, to_device
from jepakit.errors import UserError

CPU = torch.device("cpu")


def test_auto_takes_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match=r"'cuda' is not available here .*--device auto or cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cpu").type == "cpu"


def test_a_typo_in_the_device_names_the_nearest():
    with pytest.raises(UserError, match=r"device: 'cdua' is not known. Did you mean 'cuda'"):
        choose_device("cdua")


def test_auto_precision_is_bfloat16_only_where_it_is_native(monkeypatch):
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("jepakit.device.native_bfloat16", lambda device, native=native: native)
        assert choose_precision("auto", CPU) == dtype
        assert choose_precision("float32", CPU) == torch.float32
        assert choose_precision("bfloat16", CPU) == torch.bfloat16
    assert isinstance(native_bfloat16(CPU), bool)


def test_autocast_multiplies_in_its_dtype():
    a = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32
    assert isinstance(autocast(CPU, torch.float32), contextlib.nullcontext)


@pytest.mark.gpu
def test_single_numbers_stay_on_the_host():
    batch = to_device({"image": torch.zeros(2, 3), "step": torch.tensor(4)}, torch.device("cuda"))
    assert (batch["image"].device.type, batch["step"].device.type) == ("cuda", "cpu")
