"""SIGReg, forward and backward: ours against the plain formula of the paper, eager and compiled; value and gradient checked."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.timing import Result, compare
from jepakit.core.anticollapse.sigreg import epps_pulley

SAMPLES, DIRECTIONS, KNOTS, DIM = 2048, 1024, 17, 256


def plain(projections: Tensor) -> Tensor:
    """LeJEPA, arXiv 2511.08544, algorithm 1: a number for every sample, direction and knot."""
    t = torch.linspace(0, 3, KNOTS, device=projections.device)
    phi = torch.exp(-t.square() / 2)
    weights = torch.full_like(t, 2 * 3 / (KNOTS - 1))
    weights[[0, -1]] /= 2
    angles = projections.unsqueeze(-1) * t
    error = (angles.cos().mean(0) - phi).square() + angles.sin().mean(0).square()
    return (error @ (weights * phi)).mean()


def ours(projections: Tensor) -> Tensor:
    return epps_pulley(projections, knots=KNOTS).mean()


def run() -> list[Result]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(SAMPLES, DIM, generator=generator).to(device)
    directions = torch.nn.functional.normalize(torch.randn(DIM, DIRECTIONS, generator=generator), dim=0).to(device)
    projections = (embeddings @ directions).requires_grad_()
    compiled = torch.compile(plain)

    def both(function):
        def call() -> tuple[Tensor, Tensor]:
            value = function(projections)
            return value, torch.autograd.grad(value, projections)[0]

        return call

    (value, grad), (expected, expected_grad) = both(ours)(), both(plain)()
    error = (value.item() - expected.item()) / expected.item()
    grad_error = ((grad - expected_grad).abs().max() / expected_grad.abs().max()).item()
    agreement = f"value off by {abs(error):.0e}, gradient by {grad_error:.0e}"
    note = f"{SAMPLES} samples, {DIRECTIONS} directions, {KNOTS} knots; {agreement}"
    product = torch.ones(SAMPLES, DIRECTIONS, device=device)  # what comes back to the projection

    def projection() -> Tensor:
        return (embeddings @ directions) + (product @ directions.T).sum()

    return [
        compare("sigreg: plain formula, eager", both(ours), both(plain), note, repeats=3),
        compare("sigreg: plain formula, compiled", both(ours), both(compiled), repeats=3),
        compare(
            "sigreg: its own projection's products", both(ours), projection,
            f"forward and backward of [{SAMPLES}, {DIM}] @ [{DIM}, {DIRECTIONS}], which any implementation has to do",
            memory=False,
        ),
    ]  # fmt: skip
