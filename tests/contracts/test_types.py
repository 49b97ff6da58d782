"""The type checker sees a toy that breaks a contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KEPT = '''
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.core.system import System
from jepakit.modalities.data import DataConfig, SampleDataset, SplitData
from jepakit.modalities.modality import Inputs, Modality, Windows


@dataclass(frozen=True, kw_only=True)
class OwnConfig(DataConfig):
    length: int = 3


class OwnInputs(Inputs):
    def prepare(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        return torch.stack([sample["x"] for sample in samples])


def open_own(config: OwnConfig, seed: int, source: object | None = None) -> SplitData:
    raise NotImplementedError


def expects(data: SplitData) -> OwnInputs:
    return OwnInputs()


OWN = Modality("own", OwnConfig, OwnInputs, open_own, expects)


class OwnSystem(System):
    inputs: OwnInputs
'''

BROKEN = {
    "data that are not split": ("def open_own(config: OwnConfig, seed: int, source: object | None = None) -> SplitData:",
                                "def open_own(config: OwnConfig, seed: int, source: object | None = None) -> list[int]:"),
    "inputs that prepare nothing": ("    inputs: OwnInputs\n", "    inputs: dict[str, int]\n"),
    "inputs of another class": ("def expects(data: SplitData) -> OwnInputs:\n    return OwnInputs()",
                                "def expects(data: SplitData) -> str:\n    return 'own'"),
    "a world model without windows": ("class OwnSystem(System):\n    inputs: OwnInputs\n",
                                      "class OwnSystem(Dynamics):\n    inputs: dict[str, int]\n"),
}  # fmt: skip


@pytest.mark.slow
def test_mypy_sees_a_broken_contract(tmp_path):
    (tmp_path / "kept.py").write_text(KEPT)
    for number, (before, after) in enumerate(BROKEN.values()):
        assert before in KEPT
        (tmp_path / f"broken_{number}.py").write_text(KEPT.replace(before, after))
    root = Path(__file__).parents[2]
    words = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml")]
    words += ["--cache-dir", str(root / ".mypy_cache")]  # shared with `make lint`: from nothing it takes twenty seconds
    done = subprocess.run([*words, *map(str, sorted(tmp_path.glob("*.py")))], cwd=tmp_path, capture_output=True, text=True,
                          env={"MYPYPATH": str(root / "src"), "PATH": ""})  # fmt: skip
    lines = done.stdout.splitlines()
    assert not [line for line in lines if "kept.py" in line], done.stdout
    for number, name in enumerate(BROKEN):
        assert any(f"broken_{number}.py" in line and "error" in line for line in lines), f"{name}: {done.stdout}"
