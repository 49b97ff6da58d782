import torch
from torch import nn

from jepakit.nn.batch_norm import BatchNorm
from jepakit.nn.mlp import projection_head


def test_the_head_is_linear_layers_with_normalised_hidden_ones():
    head = projection_head(6, (10, 8), 4)
    assert [type(layer) for layer in head] == [nn.Linear, BatchNorm, nn.GELU] * 2 + [nn.Linear]
    assert head(torch.randn(5, 6)).shape == (5, 4)
    assert head(torch.randn(2, 5, 6)).shape == (2, 5, 4)
    assert [type(layer) for layer in projection_head(6, (), 4)] == [nn.Linear]
