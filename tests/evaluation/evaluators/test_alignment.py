import math

import numpy as np
import pytest
import torch

import jepakit
from jepakit.errors import UserError
from jepakit.evaluation.evaluators.alignment import ALIGNMENT, UNIFORMITY, embed_views
from jepakit.interop.runs import Run


def test_uniformity_is_least_where_points_are_far_apart_and_zero_where_they_are_one():
    corners = torch.eye(6, dtype=torch.double)  # every two of them at squared distance 2
    kernels = (-2 * torch.cdist(corners, corners).square()).exp().numpy()
    assert UNIFORMITY(kernels, np.zeros(6)) == pytest.approx(-4)
    assert UNIFORMITY(np.ones((6, 6)), np.zeros(6)) == pytest.approx(0)
    drawn = np.array([[3.0, 1, 0, 0, 1, 1]])  # a sample drawn thrice is no pair of itself
    assert UNIFORMITY.function(kernels, np.zeros(6), drawn)[0] == pytest.approx(-4)
    ring = torch.linspace(0, 2 * math.pi, 2001, dtype=torch.double)[:-1]
    circle = torch.stack([ring.cos(), ring.sin()], dim=1)
    known = math.log(float(torch.special.i0e(torch.tensor(4.0, dtype=torch.double))))  # exp(-4) I0(4), a uniform circle
    kernels = (-2 * torch.cdist(circle, circle).square()).exp().numpy()
    assert UNIFORMITY(kernels, np.zeros(2000)) == pytest.approx(known, abs=5e-3)
    assert ALIGNMENT(np.array([0.0, 1.0, 2.0]), np.zeros(3)) == 1


def test_a_run_is_measured_beside_random_weights(untrained_run, tmp_path):
    path = untrained_run(tmp_path / "run", "lejepa", "digits", sigreg={"slices": 16}, projector=(16, 8))
    rows = jepakit.evaluate(path, evaluators=["alignment"], device="cpu")
    assert [(row.features, row.metric) for row in rows] == [
        ("encoder", "alignment"), ("encoder", "uniformity"), ("random init", "alignment"), ("random init", "uniformity"),
    ]  # fmt: skip
    for row in rows:
        assert row.low < row.value < row.high
        assert not row.higher_is_better
    run = Run(path)
    views = embed_views(run.system, run.data.test.subset(range(5)), 0)
    assert torch.equal(views, embed_views(run.system, run.data.test.subset(range(5)), 0))
    torch.testing.assert_close(views.norm(dim=-1), torch.ones(5, 2, dtype=torch.double))
    exported = jepakit.load(path).save_pretrained(tmp_path / "exported")
    with pytest.raises(UserError, match="alignment needs a pretrained run"):
        jepakit.evaluate(exported, data="digits", evaluators=["alignment"])
