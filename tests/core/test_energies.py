import numpy as np
import pytest
import torch

from jepakit.core.energies import ENERGIES, Energy, mean_over_tokens
from jepakit.errors import UserError


def reference(name, prediction, target, beta):
    d = prediction - target
    if name == "cosine":
        norms = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(target, axis=-1)
        return 1 - (prediction * target).sum(-1) / norms
    a = np.abs(d)
    per_dim = {"l1": a, "l2": d**2, "smooth_l1": np.where(a < beta, d**2 / (2 * beta), a - beta / 2)}[name]
    return per_dim.mean(-1)


@pytest.mark.parametrize(("name", "beta"), [*((name, 1.0) for name in ENERGIES), ("smooth_l1", 0.2)])
def test_values_and_gradients(name, beta):
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    energy = Energy(name=name, beta=beta)
    got = energy(prediction, target)
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, reference(name, prediction.numpy(), target.numpy(), beta), rtol=1e-12)
    prediction.requires_grad_()
    target.requires_grad_()
    assert torch.autograd.gradcheck(energy, (prediction, target))


@pytest.mark.parametrize("name", ENERGIES)
def test_zero_for_itself_and_blind_to_width(name):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    energy = Energy(name=name)
    torch.testing.assert_close(energy(x, x), torch.zeros(4), atol=1e-6, rtol=0)
    wide = energy(x.repeat(1, 3), -x.repeat(1, 3))
    torch.testing.assert_close(wide, energy(x, -x))
    assert (wide > 0).all()


def test_half_precision_is_computed_in_float32():
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name in ENERGIES:
        with torch.autocast("cpu", torch.bfloat16):
            got = Energy(name=name)(x, x * 1.5)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, Energy(name=name)(x.float(), (x * 1.5).float()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "smooth-l1"}, "Did you mean 'smooth_l1'"),
        ({"beta": 0.0}, "'l1'"),
        ({"name": "l2", "beta": 0.5}, "does nothing for 'l2'"),
    ],
)
def test_mistakes_in_options(options, message):
    with pytest.raises(UserError, match=message):
        Energy(**options)


def test_shapes_are_never_broadcast():
    with pytest.raises(UserError, match="differ in shape"):
        Energy()(torch.zeros(2, 3, 4), torch.zeros(2, 1, 4))


def test_mean_counts_tokens_and_not_samples():
    energy = torch.tensor([[1.0, 2.0, 3.0], [10.0, float("inf"), float("nan")]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    assert mean_over_tokens(energy, valid) == 4.0
    assert mean_over_tokens(energy[:1]) == 2.0
    levels = torch.stack([energy, energy + 1], dim=-1)
    assert mean_over_tokens(levels, valid) == 4.5


def test_no_gradient_into_padding():
    energy = torch.ones(2, 2, requires_grad=True)
    mean_over_tokens(energy, torch.tensor([[True, True], [True, False]])).backward()
    torch.testing.assert_close(energy.grad, torch.tensor([[1.0, 1.0], [1.0, 0.0]]) / 3)


def test_micro_batches_with_the_global_count_add_up_to_the_joined_batch():
    energy = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(4) < torch.tensor([4, 1, 2, 4, 3, 1])[:, None]
    parts = [mean_over_tokens(e, v, valid.sum()) for e, v in zip(energy.split(2), valid.split(2), strict=True)]
    torch.testing.assert_close(sum(parts), mean_over_tokens(energy, valid))
    means = torch.stack([mean_over_tokens(e, v) for e, v in zip(energy.split(2), valid.split(2), strict=True)])
    assert (means.mean() - mean_over_tokens(energy, valid)).abs() > 1e-3
