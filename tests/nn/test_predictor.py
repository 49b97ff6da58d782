import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.positions import grid_positions, sincos_2d
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids, Tokens

EXACT = {"atol": 1e-5, "rtol": 1e-5}
GRID = (4, 6)


def predictor(output_dim=None):
    torch.manual_seed(0)
    model = MaskedPredictor(PredictorConfig(dim=32, depth=2, heads=4), 20, GRID, output_dim)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def context(ids, lengths=None, seed=1):
    ids = torch.tensor(ids)
    values = torch.randn(*ids.shape, 20, generator=torch.Generator().manual_seed(seed))
    positions = Ids(ids).gather(grid_positions(GRID).expand(len(ids), -1, -1))
    return Tokens(values, positions, None if lengths is None else torch.tensor(lengths))


def test_against_the_steps_of_the_paper():
    """Embed the context, add positions, append mask tokens, transform, project what came out at the queries."""
    model = predictor()
    seen, asked = context([[1, 8, 23]]), torch.tensor([[20, 4]])
    table = sincos_2d(GRID, 32)
    embedded = model.predictor_embed(seen.values[0]) + table[[1, 8, 23]]
    x = torch.cat([embedded, model.mask_token[0] + table[[20, 4]]])[None]
    for block in model.predictor_blocks:
        x = block(x)
    torch.testing.assert_close(model(seen, Ids(asked)), model.predictor_proj(model.predictor_norm(x[:, 3:])), **EXACT)


def test_a_ragged_batch_equals_each_sample_alone():
    model = predictor()
    seen = context([[0, 3, 7, 9], [22, 0, 0, 0], [5, 6, 0, 0]], [4, 1, 2])
    asked, lengths = torch.tensor([[1, 2, 0], [4, 8, 20], [23, 0, 0]]), torch.tensor([2, 3, 1])
    together = model(seen, Ids(asked, lengths))
    for sample in range(3):
        kept, count = int(seen.lengths[sample]), int(lengths[sample])
        alone = Tokens(seen.values[sample : sample + 1, :kept], seen.positions[sample : sample + 1, :kept])
        expected = model(alone, Ids(asked[sample : sample + 1, :count]))
        torch.testing.assert_close(together[sample, :count], expected[0], **EXACT)


def test_padding_never_leaks():
    model = predictor()
    seen = context([[0, 3, 7, 9]], [2])
    before = model(seen, Ids(torch.tensor([[1, 2, 0]]), torch.tensor([2])))
    values = seen.values.clone()
    values[:, 2:] = 1e3
    after = model(Tokens(values, seen.positions, seen.lengths), Ids(torch.tensor([[1, 2, 17]]), torch.tensor([2])))
    torch.testing.assert_close(after[:, :2], before[:, :2], rtol=0, atol=0)


def test_predictions_follow_the_order_of_the_queries_and_differ_between_places():
    model, seen = predictor(), context([[0, 3, 7]])
    first = model(seen, Ids(torch.tensor([[1, 2, 20]])))
    second = model(seen, Ids(torch.tensor([[20, 1, 2]])))
    torch.testing.assert_close(second, first[:, [2, 0, 1]], **EXACT)
    assert (first[0, 0] - first[0, 2]).norm() > 0.1


def test_the_output_may_have_another_width():
    assert predictor(7)(context([[0, 3]]), Ids(torch.tensor([[1, 2, 20]]))).shape == (1, 3, 7)


def test_every_trained_parameter_gets_gradient_and_positions_none():
    model = predictor()
    model(context([[0, 3, 7]]), Ids(torch.tensor([[1, 2]]))).square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {"predictor_pos_embed"}


def test_mistakes_in_options():
    with pytest.raises(UserError, match=r"predictor\.dim 30"):
        PredictorConfig(dim=30, heads=4)
    with pytest.raises(UserError, match=r"predictor\.depth"):
        PredictorConfig(depth=0)
