import pytest
import torch

from jepakit.nn.tokens import Ids, Tokens, valid_mask


def test_valid_mask_marks_the_first_of_each_row():
    expected = [[False, False, False], [True, False, False], [True, True, True]]
    assert valid_mask(torch.tensor([0, 1, 3]), 3).tolist() == expected


@pytest.mark.parametrize("shape", [(4,), (4, 2, 3)])
def test_gather_takes_each_samples_own_tokens(shape):
    tokens = torch.randn(2, 5, *shape)
    ids = torch.tensor([[4, 0, 4], [1, 2, 3]])
    gathered = Ids(ids).gather(tokens)
    for sample in range(2):
        for place in range(3):
            assert torch.equal(gathered[sample, place], tokens[sample, ids[sample, place]])


@pytest.mark.parametrize("levels", [(), (2,)])
def test_the_mean_is_over_real_tokens(levels):
    values = torch.randn(3, 4, *levels, 5)
    tokens = Tokens(values, torch.zeros(3, 4, 2), torch.tensor([1, 4, 2]))
    expected = torch.stack([values[0, :1].mean(0), values[1].mean(0), values[2, :2].mean(0)])
    torch.testing.assert_close(tokens.mean(), expected)
    values[0, 1:] = torch.nan  # padding may hold anything
    torch.testing.assert_close(tokens.mean(), expected)
    torch.testing.assert_close(Tokens(values[1:], torch.zeros(2, 4, 2)).mean(), values[1:].mean(1))


def test_everything_is_valid_without_lengths():
    assert Ids(torch.zeros(2, 3, dtype=torch.long)).valid.all()
    assert Tokens(torch.zeros(2, 3, 1), torch.zeros(2, 3, 2)).valid.shape == (2, 3)
