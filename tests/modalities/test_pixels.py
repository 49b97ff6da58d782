from __future__ import annotations

import torch

from jepakit.modalities.pixels import unit


def test_bytes_become_numbers_in_0_1_and_others_stay():
    assert unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == [0.0, torch.tensor(0.2).item(), 1.0]
    deep = torch.tensor([0.25, 0.5])
    assert unit(deep) is deep
