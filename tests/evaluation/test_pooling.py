import pytest
import torch

from jepakit.errors import UserError
from jepakit.evaluation.pooling import pool
from jepakit.nn.tokens import Tokens

VALUES = torch.randn(2, 3, 4)
POSITIONS = torch.zeros(2, 3, 2)


def test_full_tokens():
    torch.testing.assert_close(pool(VALUES), VALUES.mean(1))
    torch.testing.assert_close(pool(VALUES, "max"), VALUES.max(dim=1).values)
    torch.testing.assert_close(pool(VALUES, "concatenate"), VALUES.reshape(2, 12))


@pytest.mark.parametrize("how", ["mean", "max"])
def test_padding_does_not_count(how):
    ragged = Tokens(VALUES, POSITIONS, torch.tensor([3, 2]))
    found = pool(ragged, how)
    torch.testing.assert_close(found[:1], pool(VALUES[:1], how))
    torch.testing.assert_close(found[1:], pool(VALUES[1:, :2], how))


def test_messages():
    with pytest.raises(UserError, match="equally many tokens"):
        pool(Tokens(VALUES, POSITIONS, torch.tensor([3, 2])), "concatenate")
    with pytest.raises(UserError, match="Did you mean 'concatenate'"):
        pool(VALUES, "concat")
    with pytest.raises(UserError, match=r"\[batch, tokens, dim\]"):
        pool(Tokens(VALUES[:, :, None], POSITIONS))


def test_concatenation_takes_lengths_that_are_all_full():
    assert pool(Tokens(VALUES, POSITIONS, torch.tensor([3, 3])), "concatenate").shape == (2, 12)
