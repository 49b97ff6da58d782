import itertools
import math

import pytest
import torch

from jepakit.core.motion import Likeness, mean_where, smoothness, structural_similarity
from jepakit.errors import UserError


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_structural_similarity_is_that_of_a_plain_loop():
    x, y = pictures(1, 1, 5, 6), pictures(1, 1, 5, 6, seed=1)
    found = structural_similarity(x, y)[0, 0]
    for row, column in itertools.product(range(5), range(6)):
        places = [(min(max(row + i, 0), 4), min(max(column + j, 0), 5)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        a, b = (torch.stack([picture[0, 0, r, c] for r, c in places]) for picture in (x, y))
        shared = ((a - a.mean()) * (b - b.mean())).mean()
        one = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
        two = (2 * shared + 9e-4) / (a.var(unbiased=False) + b.var(unbiased=False) + 9e-4)
        torch.testing.assert_close(found[row, column], one * two)


def test_likeness_is_the_mix_of_its_measures():
    x, y = pictures(2, 3, 5, 6), pictures(2, 3, 5, 6, seed=1)
    parts = (x - y).abs().mean(1), (x - y).square().mean(1), (1 - structural_similarity(x, y)).mean(1) / 2
    torch.testing.assert_close(Likeness(l1=0.3, l2=2.0, ssim=0.7)(x, y), 0.3 * parts[0] + 2.0 * parts[1] + 0.7 * parts[2])
    for only, part in zip(("l1", "l2", "ssim"), parts, strict=True):
        torch.testing.assert_close(Likeness(**{"l1": 0.0, only: 1.0})(x, y), part)
    assert Likeness(l1=1.0, l2=1.0, ssim=1.0)(x, x).abs().max() < 1e-12


def test_smoothness_counts_bends_of_the_flow_where_the_picture_has_no_edge():
    flow = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    flow[:, 0, 2:] = 3.0  # between the second row and the third
    image = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    # One of the 3 rows of differences bends, by 3 in one of the 2 numbers; nothing does across.
    assert smoothness(flow, image, edges=10.0).item() == pytest.approx((3 / 2 / 3 + 0) / 2)
    image[:, :, 2:] = 0.5
    assert smoothness(flow, image, edges=10.0).item() == pytest.approx(3 / 2 / 3 / 2 * math.exp(-5))
    assert smoothness(flow, image, edges=0.0).item() == pytest.approx(0.25)
    assert smoothness(torch.full_like(flow, 7.0), image, edges=10.0).item() == 0


def test_a_mean_of_no_cell_is_zero():
    energy = torch.tensor([[[1.0, 2.0], [3.0, torch.inf]]])
    valid = torch.tensor([[[True, False], [True, False]]])
    assert mean_where(energy, valid).item() == 2
    assert mean_where(energy, torch.zeros_like(valid)).item() == 0


def test_mistakes():
    with pytest.raises(UserError, match="all 0"):
        Likeness(l1=0.0)
    with pytest.raises(UserError, match=r"likeness.ssim must be at least 0"):
        Likeness(ssim=-1.0)
