import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jepakit.core.anticollapse import characteristic, epps_pulley
from jepakit.core.anticollapse.characteristic import InC, WithTorch, characteristic_sums, plain_sums

SPACING = 3 / 16
NATIVE = characteristic._library() is not None
FORMS = [WithTorch, pytest.param(InC, marks=pytest.mark.skipif(not NATIVE, reason="no C compiler here"))]


def projections(batch, slices, scale=1.0, dtype=torch.float32):
    return scale * torch.randn(batch, slices, generator=torch.Generator().manual_seed(batch), dtype=dtype)


def plain(x, knots, weights):
    """The plain formula's sums in float64, and the gradient of their weighted sum."""
    x = x.double().requires_grad_()
    sums = plain_sums(x, knots, SPACING)
    (grad,) = torch.autograd.grad((sums * weights).sum(), x)
    return sums.detach(), grad


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("batch", "slices"), [(2, 1), (129, 37), (256, 64), (1000, 130), (300, 1024)])
@pytest.mark.parametrize("knots", [2, 17, 33])
def test_every_form_equals_the_plain_formula(form, batch, slices, knots, monkeypatch):
    monkeypatch.setattr(characteristic, "BLOCK", 4096)
    monkeypatch.setattr(characteristic, "SHARED", 4096)  # several threads, several blocks
    x = projections(batch, slices)
    weights = torch.randn(2, knots, slices, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sums, grad = plain(x, knots, weights)
    torch.testing.assert_close(form.sums(x, knots, SPACING).double(), sums, atol=1e-5 * batch, rtol=0)
    k = SPACING * torch.arange(knots)[:, None]
    found = form.gradient(x, (k * weights[1]).float(), (k * weights[0]).float(), SPACING)
    torch.testing.assert_close(found.double(), grad, atol=1e-5 * float(grad.abs().max()), rtol=0)


def test_gradient_is_that_of_autograd():
    x = projections(6, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: characteristic_sums(x, 17, SPACING), (x,))


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6, 1e30])
def test_large_numbers_keep_their_digits(scale):
    x = projections(64, 8, scale)
    angles = SPACING * x  # as rounded by float32, which all forms start from
    expected = torch.stack((angles.double().cos().sum(0), angles.double().sin().sum(0)))
    torch.testing.assert_close(characteristic_sums(x, 2, SPACING)[:, 1].double(), expected, atol=64e-5, rtol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_shows(bad):
    x = projections(8, 4)
    x[3, 1] = bad
    finite = torch.isfinite(epps_pulley(x))
    assert finite.tolist() == [True, False, True, True]


def test_slices_that_lie_apart_in_memory_are_read_right():
    x = projections(50, 40)
    torch.testing.assert_close(characteristic_sums(x.T, 5, SPACING), plain_sums(x.T, 5, SPACING), atol=1e-4, rtol=0)


@pytest.mark.skipif(not NATIVE, reason="no C compiler here")
def test_the_forms_are_chosen_by_what_they_can_do():
    x = projections(16, 16)
    assert characteristic._form(x, 17, SPACING) is InC
    assert characteristic._form(x.double(), 17, SPACING) is WithTorch
    assert characteristic._form(1e6 * x, 17, SPACING) is WithTorch
    assert characteristic._form(x, characteristic.MOST_KNOTS + 1, SPACING) is WithTorch


TRITON = """
import torch
from jepakit.core.anticollapse import characteristic_triton
from jepakit.core.anticollapse.characteristic import WithTorch
torch.manual_seed(0)
for batch, slices, knots in ((130, 70, 17), (64, 64, 5), (3, 1, 2)):
    x, real, imaginary = torch.randn(batch, slices), torch.randn(knots, slices), torch.randn(knots, slices)
    torch.testing.assert_close(
        characteristic_triton.sums(x, knots, 0.1875), WithTorch.sums(x, knots, 0.1875), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        characteristic_triton.gradient(x, real, imaginary, 0.1875), WithTorch.gradient(x, real, imaginary, 0.1875),
        atol=1e-4, rtol=0,
    )
"""


def test_the_triton_kernels_in_their_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(characteristic.__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
