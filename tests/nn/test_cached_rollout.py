"""Cached rollouts against the predictor's own teacher-forced pass, window for window."""

import pytest
import torch

from jepakit.nn import dynamics_predictor
from jepakit.nn.dynamics_predictor import CausalPredictor, DynamicsPredictorConfig, Window

EXACT = {"atol": 1e-10, "rtol": 1e-9}  # in float64
ROWS, HORIZON = 7, 6


def build(**options):
    torch.manual_seed(0)
    chosen = {"embedding": 4, "action": 2, "history": 3, "dim": 8, "depth": 3, "heads": 2, "head_dim": 5, "hidden": (6,)}
    model = CausalPredictor(DynamicsPredictorConfig(**chosen, **options)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand_like(buffer))
    return model


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def forced(model, seen, between, actions, condition=None):
    """Each prediction from the whole window before it, by the pass that training makes."""
    known, done = seen, torch.cat([between, actions], 1)
    for t in range(actions.shape[1]):
        count = seen.shape[1] + t
        first = max(0, count - model.config.history)
        predicted = model(known[:, first:], done[:, first:count], condition)[:, -1:]
        known = torch.cat([known, predicted], 1)
    return known[:, seen.shape[1] :]


@pytest.mark.parametrize("seen", [1, 2, 3])
@pytest.mark.parametrize("conditioned", [False, True])
def test_it_is_the_teacher_forced_pass_of_each_window(seen, conditioned):
    model = build(condition=3 if conditioned else 0)
    condition = draw(ROWS, 3) if conditioned else None
    embeddings, between, actions = draw(ROWS, seen, 4), draw(ROWS, seen - 1, 2), draw(ROWS, HORIZON, 2)
    found, last = model.imagine(model.begin(embeddings, between), actions, condition)
    torch.testing.assert_close(found, forced(model, embeddings, between, actions, condition), **EXACT)
    torch.testing.assert_close(last.embeddings, found[:, -3:], **EXACT)
    torch.testing.assert_close(last.actions[:, :2], actions[:, -2:], **EXACT)
    assert last.lengths.tolist() == [3] * ROWS


@pytest.mark.parametrize("seen", [1, 3])
@pytest.mark.parametrize("conditioned", [False, True])
def test_rows_start_from_the_sample_that_owns_them_in_pieces_of_any_size(seen, conditioned, monkeypatch):
    monkeypatch.setattr(dynamics_predictor, "ROWS", 3)
    model = build(condition=3 if conditioned else 0)
    condition = draw(ROWS, 3) if conditioned else None
    embeddings, between, actions = draw(2, seen, 4), draw(2, seen - 1, 2), draw(ROWS, HORIZON, 2)
    owner = torch.tensor([1, 0, 0, 1, 1, 0, 1])
    found, last = model.imagine(model.begin(embeddings, between), actions, condition, owner)
    torch.testing.assert_close(found, forced(model, embeddings[owner], between[owner], actions, condition), **EXACT)
    assert last.embeddings.shape == (ROWS, 3, 4)


def test_gradients_are_those_of_one_step_after_the_other():
    model, embeddings = build(), draw(ROWS, 2, 4)
    between, gradients = draw(ROWS, 1, 2), []
    for way in ("cached", "forced"):
        actions = draw(ROWS, HORIZON, 2).requires_grad_()
        found = (
            model.imagine(model.begin(embeddings, between), actions)[0] if way == "cached"
            else forced(model, embeddings, between, actions)
        )  # fmt: skip
        gradients.append(torch.autograd.grad(found.square().sum(), [actions, *model.blocks.parameters()]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7)


def test_what_it_cannot_do_it_leaves_to_single_steps():
    model = build()
    ragged = Window(draw(2, 3, 4), draw(2, 3, 2), torch.tensor([1, 3]))
    assert model.imagine(ragged, draw(2, HORIZON, 2)) is None
    assert model.train().imagine(model.begin(draw(2, 3, 4), draw(2, 2, 2)), draw(2, HORIZON, 2)) is None


def test_observations_are_worked_out_once_for_all_that_start_from_them():
    """What is put through the blocks: a token each while the window grows, the window once it slides."""
    model, rows = build(), []
    model.blocks[0].norm1.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[:2]))
    model.imagine(model.begin(draw(1, 3, 4), draw(1, 2, 2)), draw(ROWS, 4, 2), None, torch.zeros(ROWS, dtype=torch.long))
    # Two observations before the newest, then one: for the one sample. Of each row what is new, then what has slid.
    assert rows == [(2, 1), (1, ROWS), (1, 1), (2, ROWS), (3, ROWS), (3, ROWS)]
    rows.clear()
    model.imagine(model.begin(draw(ROWS, 1, 4), draw(ROWS, 0, 2)), draw(ROWS, 4, 2))
    assert rows == [(1, ROWS), (1, ROWS), (1, ROWS), (3, ROWS)]
