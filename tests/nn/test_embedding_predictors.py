import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.embedding_predictors import PREDICTORS

both = pytest.mark.parametrize("kind", PREDICTORS)


def predictor(kind="recurrent"):
    torch.manual_seed(0)
    return PREDICTORS[kind](8, 2).double()


@both
def test_taught_on_a_window_it_is_the_same_function_as_step_by_step(kind):
    model, embeddings, actions = predictor(kind), torch.randn(3, 4, 8).double(), torch.randn(3, 4, 2).double()
    taught = model(embeddings, actions)
    for t in range(4):
        state = model.begin(embeddings[:, : t + 1], actions[:, :t])
        torch.testing.assert_close(model.embedding(model.advance(state, actions[:, t])), taught[:, t])


def test_the_residual_one_starts_from_where_things_are():
    model, state = predictor("residual"), torch.randn(5, 8).double()
    for parameter in model.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(model.advance(state, torch.randn(5, 2).double()), model.norm(state))


@both
def test_predictions_are_normalised_as_embeddings_are(kind):
    model = predictor(kind)
    after = model.advance(100 * torch.randn(5, 8).double(), torch.randn(5, 2).double())
    torch.testing.assert_close(after.mean(1), torch.zeros(5).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(after.var(1, correction=0), torch.ones(5).double(), atol=1e-3, rtol=0)


def test_it_begins_with_the_newest_real_observation():
    model, embeddings = predictor(), torch.randn(2, 3, 8).double()
    begun = model.begin(embeddings, torch.zeros(2, 2, 2).double(), torch.tensor([1, 3]))
    torch.testing.assert_close(begun, torch.stack([embeddings[0, 0], embeddings[1, 2]]))


def test_a_condition_it_was_not_built_for_is_refused():
    with pytest.raises(UserError, match="condition"):
        predictor().advance(torch.zeros(1, 8).double(), torch.zeros(1, 2).double(), torch.zeros(1, 1))


@both
def test_a_condition_holds_for_the_whole_window(kind):
    torch.manual_seed(0)
    model = PREDICTORS[kind](8, 2, condition=3).double()
    embeddings, actions, z = torch.randn(4, 5, 8).double(), torch.randn(4, 5, 2).double(), torch.randn(4, 3).double()
    taught = model(embeddings, actions, z)
    for t in range(5):
        torch.testing.assert_close(model.advance(embeddings[:, t], actions[:, t], z), taught[:, t])
    assert (model(embeddings, actions, z.roll(1, 0)) - taught).abs().amax((1, 2)).min() > 1e-3
    with pytest.raises(UserError, match=r"needs a condition \[batch, 3\]"):
        model(embeddings, actions)
