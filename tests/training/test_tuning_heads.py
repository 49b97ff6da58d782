"""Heads read what the tokens vary in."""

from __future__ import annotations

import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.tokens import Tokens
from jepakit.training.answers import Answers
from jepakit.training.tuning_heads import make_head

CLASSES = Answers(task="classification", outputs=3, classes=("a", "b", "c"))


def tokens(count=50, lengths=None):
    torch.manual_seed(0)
    values = 0.01 * torch.randn(count, 4, 16) + torch.linspace(-5, 5, 16)
    values[..., 3] = 7.0  # a dimension that tells nothing
    return Tokens(values, torch.zeros(count, 4, 2), lengths)


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_what_a_head_reads_has_mean_zero_and_deviation_one(kind):
    head = make_head(kind, 16, 3)
    given = tokens()
    labels = torch.arange(100) % 3
    head.begin(torch.cat([head.read(given)] * 2).detach(), labels, CLASSES, 0)
    read = (head.read(given) - head.mean) * head.scale
    read = read.detach().flatten(0, -2)
    assert read.mean(0).abs().max() < 1e-3
    deviation = read.std(0, correction=0)
    assert torch.allclose(deviation[torch.arange(16) != 3], torch.ones(15), atol=1e-2)
    assert deviation[3] == 0
    assert head(given).shape == (50, 3)


def test_a_linear_head_begins_as_a_probe_of_what_it_reads():
    torch.manual_seed(1)
    x, direction = torch.randn(200, 16), torch.randn(16)
    truth = x @ direction
    classes, head = (truth > 0).long(), make_head("linear", 16, 2)
    head.begin(x, classes, Answers(task="classification", outputs=2, classes=("a", "b")), 0)
    given = Tokens(x[:, None], torch.zeros(200, 1, 2))
    assert (head(given).argmax(1) == classes).float().mean() > 0.95
    numbers = Answers(task="regression", outputs=1, mean=(3.0,), scale=(2.0,))
    head = make_head("linear", 16, 1)
    head.begin(x, 3 + 2 * truth, numbers, 0)
    assert torch.allclose(numbers.values(head(given)), 3 + 2 * truth, atol=1e-2)


def test_a_linear_head_reads_the_mean_of_real_tokens():
    head = make_head("linear", 16, 3)
    lengths = torch.arange(50) % 4 + 1
    assert torch.allclose(head.read(tokens(lengths=lengths))[1], tokens().values[1, :2].mean(0))


def test_the_attentive_head_refuses_ragged_samples():
    with pytest.raises(UserError, match="use --head linear"):
        make_head("attentive", 16, 3)(tokens(lengths=torch.full((50,), 4)))
