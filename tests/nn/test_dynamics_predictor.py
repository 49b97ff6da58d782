import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.dynamics_predictor import CausalPredictor, DynamicsPredictorConfig
from jepakit.registry import SIZES

EXACT = {"atol": 1e-10, "rtol": 1e-9}  # in float64


def build(moved=True, **options):
    torch.manual_seed(0)
    chosen = {"embedding": 4, "action": 2, "history": 3, "dim": 8, "depth": 2, "heads": 2, "hidden": (6,), **options}
    model = CausalPredictor(DynamicsPredictorConfig(**chosen)).double().eval()
    if moved:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def draw(time=3, batch=5):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(batch, time, width, generator=generator, dtype=torch.float64) for width in (4, 2))


def test_an_untrained_predictor_ignores_actions_and_a_trained_one_need_not():
    """Adaptive layer norm starts at zero; its gates are the first to get a gradient, then the actions' layers."""
    embeddings, actions = draw()
    fresh = build(moved=False)
    torch.testing.assert_close(fresh(embeddings, actions + 1), fresh(embeddings, actions), rtol=0, atol=0)
    fresh(embeddings, actions).square().sum().backward()
    assert fresh.embed_action[0].weight.grad.abs().max() == 0
    assert fresh.blocks[0].modulation[1].weight.grad.abs().max() > 0
    moved = build()
    assert (moved(embeddings, actions + 1) - moved(embeddings, actions)).abs().max() > 1e-2


def test_each_time_step_sees_itself_and_the_past():
    model, (embeddings, actions) = build(), draw()
    before = model(embeddings, actions)
    for t in range(3):
        later_e, later_a = embeddings.clone(), actions.clone()
        later_e[:, t] += 1
        later_a[:, t] -= 1
        changed = (model(later_e, later_a) - before).abs().amax((0, 2)) > 1e-6
        assert changed.tolist() == [i >= t for i in range(3)]


def test_a_shorter_window_is_the_beginning_of_a_longer_one():
    model, (embeddings, actions) = build(), draw()
    whole = model(embeddings, actions)
    for time in (1, 2):
        torch.testing.assert_close(model(embeddings[:, :time], actions[:, :time]), whole[:, :time], **EXACT)


def test_the_window_fills_then_slides():
    model, (embeddings, actions) = build(), draw(time=6)
    state, known = model.begin(embeddings[:, :1], actions[:, :0]), [embeddings[:, 0]]
    for t in range(5):
        state = model.advance(state, actions[:, t])
        first = max(0, t - 2)
        window = torch.stack(known[first:], dim=1)
        expected = model(window, actions[:, first : t + 1])[:, -1]
        torch.testing.assert_close(model.embedding(state), expected, **EXACT)
        known.append(expected)
        assert state.lengths.tolist() == [min(t + 2, 3)] * 5
        assert state.embeddings.shape == (5, 3, 4)  # one shape at any length: states of all kinds go together


def test_what_stands_in_padding_does_not_matter():
    model, (embeddings, actions) = build(), draw(time=5)
    lengths = torch.tensor([1, 2, 3, 4, 5])
    padded = torch.arange(5)[None] >= lengths[:, None]
    changed = torch.where(padded[..., None], 99.0, embeddings)
    acted = torch.where(padded[:, 1:, None], -99.0, actions[:, :4])
    one, other = model.begin(embeddings, actions[:, :4], lengths), model.begin(changed, acted, lengths)
    for name in ("embeddings", "actions", "lengths"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
    torch.testing.assert_close(model.embedding(one), embeddings[torch.arange(5), lengths - 1], rtol=0, atol=0)


def test_a_condition_steers_every_sample_by_itself():
    model, (embeddings, actions) = build(condition=3), draw()
    condition = torch.randn(5, 3, dtype=torch.float64)
    together = model(embeddings, actions, condition)
    torch.testing.assert_close(together[2:3], model(embeddings[2:3], actions[2:3], condition[2:3]), **EXACT)
    assert (model(embeddings, actions, condition.flip(0)) - together).abs().max() > 1e-2


def test_batch_statistics_matter_in_training_only():
    """In eval mode a sample's prediction does not depend on the batch it stands in; in training it does, and the running
    statistics follow."""
    model, (embeddings, actions) = build(), draw()
    alone = model(embeddings[:1], actions[:1])
    torch.testing.assert_close(model(embeddings, actions)[:1], alone, **EXACT)
    before = model.head[1].running_mean.clone()
    model.train()
    assert (model(embeddings, actions)[:1] - alone).abs().max() > 1e-3
    assert (model.head[1].running_mean - before).abs().max() > 1e-3


@pytest.mark.parametrize("size", ["nano", "base"])
def test_named_sizes(size):
    config = DynamicsPredictorConfig.of_size(size, embedding=16, action=4, history=5, hidden=(64,))
    assert (config.dim, config.depth, config.heads) == SIZES[size]["predictor"]


def test_mistakes():
    embeddings, actions = draw(time=4)
    with pytest.raises(UserError, match="looks back 3 observations, the window has 4"):
        build()(embeddings, actions)
    with pytest.raises(UserError, match="3 actions between them, got 4"):
        build().begin(embeddings, actions)
    with pytest.raises(UserError, match="without a condition"):
        build()(embeddings[:, :3], actions[:, :3], torch.zeros(5, 1, dtype=torch.float64))
    with pytest.raises(UserError, match=r"needs a condition \[batch, 3\]"):
        build(condition=3)(embeddings[:, :3], actions[:, :3])
    for options, message in (
        ({"dim": 9}, "multiple of heads"), ({"history": 0}, "predictor.history"), ({"dropout": 2.0}, "predictor.dropout")
    ):
        with pytest.raises(UserError, match=message):
            build(**options)
