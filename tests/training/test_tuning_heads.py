"""Heads read what the tokens vary in."""

from __future__ import annotations

import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.tokens import Tokens
from jepakit.training.tuning_heads import make_head


def tokens(count=50, lengths=None):
    torch.manual_seed(0)
    values = 0.01 * torch.randn(count, 4, 16) + torch.linspace(-5, 5, 16)
    values[..., 3] = 7.0  # a dimension that tells nothing
    return Tokens(values, torch.zeros(count, 4, 2), lengths)


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_what_a_head_reads_has_mean_zero_and_deviation_one(kind):
    head = make_head(kind, 16, 3)
    given = tokens()
    head.standardise([given, given])
    read = (head.read(given) - head.mean) * head.scale
    read = read.detach().flatten(0, -2)
    assert read.mean(0).abs().max() < 1e-3
    deviation = read.std(0, correction=0)
    assert torch.allclose(deviation[torch.arange(16) != 3], torch.ones(15), atol=1e-2)
    assert deviation[3] == 0
    assert head(given).shape == (50, 3)


def test_a_linear_head_answers_alike_at_first_and_reads_the_mean_of_real_tokens():
    head = make_head("linear", 16, 3)
    assert torch.equal(head(tokens()), torch.zeros(50, 3))
    lengths = torch.arange(50) % 4 + 1
    assert torch.allclose(head.read(tokens(lengths=lengths))[1], tokens().values[1, :2].mean(0))


def test_the_attentive_head_refuses_ragged_samples():
    with pytest.raises(UserError, match="use --head linear"):
        make_head("attentive", 16, 3)(tokens(lengths=torch.full((50,), 4)))
