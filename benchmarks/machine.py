"""What the machine can do: matrix products and copies, which are the floor under everything else; torch beside numpy."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.timing import Result, seconds
from jepakit.device import native_bfloat16

SIDE = 1536  # of the matrices
NUMBERS = 2**25  # copied


def product_rate(dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> float:
    """Floating-point operations a second of a matrix product, the best of several."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    return 2 * SIDE**3 / min(seconds(lambda: a @ b) for _ in range(8))


def run() -> list[Result]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a, b = (np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    numpy_rate = 2 * SIDE**3 / min(seconds(lambda: a @ b) for _ in range(8))
    results = [Result("machine: matrix product, float32", product_rate(device=device) / 1e9, numpy_rate / 1e9, "GFLOP/s")]
    if native_bfloat16(device):
        results.append(
            Result(
                "machine: matrix product, bfloat16", product_rate(torch.bfloat16, device) / 1e9, numpy_rate / 1e9, "GFLOP/s",
                note="against numpy's float32",
            )
        )  # fmt: skip
    x, y = torch.zeros(NUMBERS, device=device), torch.ones(NUMBERS, device=device)
    p, q = np.zeros(NUMBERS, dtype=np.float32), np.ones(NUMBERS, dtype=np.float32)
    moved = 2 * 4 * NUMBERS / 1e9  # read and written
    ours, reference = (min(seconds(copy) for _ in range(8)) for copy in (lambda: x.copy_(y), lambda: np.copyto(p, q)))
    return [*results, Result("machine: copy", moved / ours, moved / reference, "GB/s")]
