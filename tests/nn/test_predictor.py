from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepakit.errors import UserError
from jepakit.nn.positions import grid_positions, sincos_2d
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids, Tokens

EXACT = {"atol": 1e-5, "rtol": 1e-5}
GRID = (4, 6)
RELEASED = Path(__file__).parents[1] / "fixtures" / "vjepa1_sincos.safetensors"


def predictor(output_dim=None, encoder_dim=20, **parts):
    torch.manual_seed(0)
    model = MaskedPredictor(PredictorConfig(dim=32, depth=2, heads=4), encoder_dim, GRID, output_dim, **parts)
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


@torch.no_grad()
@pytest.mark.parametrize("token", [0, 1])
def test_a_clip_through_the_released_v_jepa(token):
    """Weights, inputs and outputs of the released predictor; its two mask tokens are two of our predictors."""
    released = load_file(RELEASED)
    prefix = "predictor.module.backbone."
    weights = {name.removeprefix(prefix): tensor for name, tensor in released.items() if name.startswith(prefix)}
    tokens = [weights.pop("mask_tokens.0"), weights.pop("mask_tokens.1")]
    grid = (4, 4, 4)
    model = MaskedPredictor(PredictorConfig(dim=32, depth=2, heads=2), 64, grid)
    model.load_state_dict(weights | {"mask_token": tokens[token]})
    ids, asked = Ids(released["input.context_ids"]), Ids(released["input.target_ids"])
    context = Tokens(released["output.encoder_context"], ids.gather(grid_positions(grid).expand(2, -1, -1)))
    expected = released[f"output.predictor_mask_token_{token}"]
    torch.testing.assert_close(model(context, asked), expected, **EXACT)


@torch.no_grad()
def test_levels_are_read_side_by_side_through_a_hidden_layer():
    model = predictor(encoder_dim=40, embed_hidden=24)
    shapes = [tuple(layer.weight.shape) for layer in (model.predictor_embed[0], model.predictor_embed[2])]
    assert shapes == [(24, 40), (32, 24)]
    assert model.predictor_proj.out_features == 40
    first, second, asked = context([[1, 8]], seed=1), context([[1, 8]], seed=2), Ids(torch.tensor([[20]]))
    levels = Tokens(torch.stack([first.values, second.values], dim=2), first.positions)
    wide = Tokens(torch.cat([first.values, second.values], dim=-1), first.positions)
    torch.testing.assert_close(model(levels, asked), model(wide, asked), rtol=0, atol=0)


@torch.no_grad()
def test_predictions_at_visible_tokens_have_their_own_head():
    model, seen = predictor(visible=True), context([[0, 3, 7], [5, 0, 0]], [3, 1])
    asked = Ids(torch.tensor([[1, 2], [4, 8]]))
    predictions, visible = model(seen, asked, visible=True)
    torch.testing.assert_close(predictions, model(seen, asked), rtol=0, atol=0)
    assert visible.shape == (2, 3, 20)
    model.predictor_proj_context.load_state_dict(model.predictor_proj.state_dict())
    model.mask_token.zero_()
    # With the same head, a visible token of zero embedding is a query at its place.
    model.predictor_embed.weight.zero_()
    model.predictor_embed.bias.zero_()
    alone = context([[3, 7]])
    at_context, at_query = model(alone, Ids(torch.tensor([[3]])), visible=True)[::-1]
    torch.testing.assert_close(at_context[:, 0], at_query[:, 0], **EXACT)
    with pytest.raises(UserError, match="visible=True"):
        predictor()(seen, asked, visible=True)


@torch.no_grad()
def test_a_condition_for_all_tokens_or_as_tokens():
    model, seen = predictor(condition_dim=3), context([[0, 3, 7], [5, 2, 0]], [3, 2])
    asked, lengths = torch.tensor([[1, 2], [4, 8]]), torch.tensor([1, 2])
    z = torch.randn(2, 3)
    together = model(seen, Ids(asked, lengths), condition=z)
    assert (together - model(seen, Ids(asked, lengths), condition=-z)).norm() > 0.1
    # Added to all tokens is the same as added to what every token starts from.
    for sample in range(2):
        kept, count = int(seen.lengths[sample]), int(lengths[sample])
        moved = predictor()
        moved.load_state_dict(model.state_dict(), strict=False)
        embedded = model.condition_embed(z[sample])
        moved.predictor_embed.bias.add_(embedded)
        moved.mask_token.add_(embedded)
        alone = Tokens(seen.values[sample : sample + 1, :kept], seen.positions[sample : sample + 1, :kept])
        expected = moved(alone, Ids(asked[sample : sample + 1, :count]))
        torch.testing.assert_close(together[sample, :count], expected[0], **EXACT)
    tokens = torch.randn(2, 4, 3)
    ragged = model(seen, Ids(asked, lengths), condition=tokens)
    alone = Tokens(seen.values[:1], seen.positions[:1])
    expected = model(alone, Ids(asked[:1, :1]), condition=tokens[:1])
    torch.testing.assert_close(ragged[:1, :1], expected, **EXACT)
    shuffled = model(seen, Ids(asked, lengths), condition=tokens.flip(1))
    torch.testing.assert_close(shuffled[0, 0], ragged[0, 0], **EXACT)  # a set of tokens: they carry no position


@torch.no_grad()
def test_an_embedding_of_the_modality_needs_no_layer():
    model, seen, asked = predictor(), context([[0, 3, 7]]), Ids(torch.tensor([[1, 2]]))
    nothing = model(seen, asked, condition=torch.zeros(1, 32))
    torch.testing.assert_close(nothing, model(seen, asked), rtol=0, atol=0)
    assert (model(seen, asked, condition=torch.linspace(-1, 1, 32)[None]) - nothing).norm() > 0.1


def test_every_trained_parameter_gets_gradient_and_positions_none():
    model = predictor()
    model(context([[0, 3, 7]]), Ids(torch.tensor([[1, 2]]))).square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {"predictor_pos_embed"}
    model = predictor(visible=True, condition_dim=3, embed_hidden=8)
    both = model(context([[0, 3, 7]]), Ids(torch.tensor([[1, 2]])), visible=True, condition=torch.ones(1, 3))
    sum(part.square().sum() for part in both).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {"predictor_pos_embed"}


def test_mistakes_in_options():
    with pytest.raises(UserError, match=r"predictor\.dim 30"):
        PredictorConfig(dim=30, heads=4)
    with pytest.raises(UserError, match=r"predictor\.depth"):
        PredictorConfig(depth=0)


@pytest.mark.parametrize(
    ("parts", "condition", "message"),
    [
        ({"condition_dim": 3}, None, r"condition \[batch, 3\], got none"),
        ({"condition_dim": 3}, torch.zeros(1, 2), r"condition \[batch, 3\], got \[1, 2\]"),
        ({}, torch.zeros(1, 3), "width 3 does not fit the predictor's 32"),
    ],
)
def test_mistakes_in_conditions(parts, condition, message):
    with pytest.raises(UserError, match=message):
        predictor(**parts)(context([[0, 3]]), Ids(torch.tensor([[1]])), condition=condition)
