"""Pixel world: pictures are what is compared, in training and in planning; sizes are those of PLDM."""

import pytest
import torch
from torch.nn import functional as F

from jepakit.errors import UserError
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.systems.pixel_world import PixelWorld, PixelWorldConfig
from jepakit.systems.pldm import PLDM, PLDMConfig
from jepakit.worlds.latent_problem import LatentProblem
from jepakit.worlds.problem import ActionSpace


def inputs(*shape, history=1, horizon=3):
    return TrajectoryInputs(
        shape=shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0], action_mean=(0.0, 0.0), action_std=(1.0, 1.0),
        history=history, horizon=horizon,
    )  # fmt: skip


PICTURES, VECTORS = inputs(2, 13, 11), inputs(5)


def system(given=PICTURES, perception="pixels"):
    torch.manual_seed(0)
    return PixelWorld(PixelWorldConfig(embedding=16, widths=(4, 8), perception=perception), given)


def batch(given=PICTURES, size=6):
    generator = torch.Generator().manual_seed(0)
    time = given.history + given.horizon
    return {
        "inputs": torch.randn(size, time, *given.shape, generator=generator),
        "actions": torch.randn(size, time - 1, 2, generator=generator),
        "step": torch.tensor(0),
    }


@pytest.mark.parametrize("given", [PICTURES, VECTORS])
def test_the_loss_in_pixels_is_that_of_the_pictures_decoded(given):
    model, seen = system(given), batch(given)
    state, decoded = model.encoder(seen["inputs"][:, :1]).values[:, 0], []
    for t in range(3):
        state = model.predictor.advance(state, seen["actions"][:, t])
        decoded.append(model.decoder(state))
    expected = F.mse_loss(torch.stack(decoded, 1), seen["inputs"][:, 1:])
    found = model.step(seen)
    torch.testing.assert_close(found["loss"], expected)
    found["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_by_reconstruction_the_encoder_learns_from_nothing_but_being_decoded():
    model, seen = system(perception="reconstruction"), batch()
    terms = model.step(seen)
    frames = model.encoder(seen["inputs"]).values
    torch.testing.assert_close(terms["reconstruction"], F.mse_loss(model.decode(frames), seen["inputs"].flatten(2)))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["prediction"])

    def reached(term):
        parts = {name: list(getattr(model, name).parameters()) for name in ("encoder", "predictor", "decoder")}
        flat = [p for part in parts.values() for p in part]
        found = dict(zip(flat, torch.autograd.grad(term, flat, retain_graph=True, allow_unused=True), strict=True))
        return {name for name, part in parts.items() if any(found[p] is not None for p in part)}

    assert reached(terms["reconstruction"]) == {"encoder", "decoder"}
    assert reached(terms["prediction"]) == {"predictor"}


@pytest.mark.parametrize("perception", ["pixels", "reconstruction"])
def test_encoder_and_predictor_are_as_large_as_pldms(perception):
    given = inputs(2, 65, 65, horizon=8)
    ours, theirs = PixelWorld(PixelWorldConfig(perception=perception), given), PLDM(PLDMConfig(), given)

    def count(*parts):
        return sum(p.numel() for part in parts for p in part.parameters())

    assert count(ours.encoder, ours.predictor) == count(theirs.encoder, theirs.predictor)
    # What is left to train beside them: the decoder there, the inverse dynamics here.
    assert count(ours) - count(ours.decoder) == pytest.approx(count(theirs) - count(theirs.inverse), rel=0.1)


@pytest.mark.parametrize("perception", ["pixels", "reconstruction"])
@pytest.mark.parametrize("given", [PICTURES, VECTORS, inputs(2, 13, 11, history=2)])
def test_observing_and_predicting_step_by_step_is_the_rollout(given, perception):
    model, seen, first = system(given, perception).eval(), batch(given), given.history
    state = model.observe({"inputs": seen["inputs"][:, :first], "actions": seen["actions"][:, : first - 1]})
    if perception == "pixels":  # what is seen is seen as it is, what is imagined as it is decoded
        torch.testing.assert_close(model.embedding(state), seen["inputs"][:, first - 1].flatten(1), rtol=0, atol=0)
    rolled = model.rollout(state, seen["actions"][:, first - 1 :])
    for t in range(3):
        state = model.predict(state, seen["actions"][:, first - 1 + t])
        torch.testing.assert_close(model.embedding(state), rolled.embeddings[:, t])
    torch.testing.assert_close(model.embedding(rolled.last), rolled.embeddings[:, -1])
    matching = model.energy(seen, torch.arange(6))
    torch.testing.assert_close(matching.mean(), model.step(seen)["prediction"])
    assert (model.energy(seen, torch.arange(6).roll(1)) - matching).abs().min() > 0


def test_a_plan_costs_what_its_pictures_differ_from_the_goals_picture():
    model, seen = system().eval(), batch(size=2)
    none = seen["actions"][:, :0]
    with torch.no_grad():
        start, goal = (model.observe({"inputs": seen["inputs"][:, [t]], "actions": none}) for t in (0, 3))
        space = ActionSpace(-torch.ones(2), torch.ones(2))
        problem = LatentProblem(model, start, model.embedding(goal), space, 2, chunk=3)
        actions = torch.rand(2, 4, 2, 2)
        costs = problem.cost(actions)
        pictures = model.rollout(start.expand(4), actions.flatten(0, 1)).embeddings.unflatten(0, (2, 4))
    expected = (pictures - seen["inputs"][:, 3].flatten(1)[:, None, None]).square().sum((2, 3))
    torch.testing.assert_close(costs, expected)


def test_no_picture_is_decoded_that_no_cost_looks_at():
    model, seen = system().eval(), batch(size=2)
    with torch.no_grad():
        start = model.observe({"inputs": seen["inputs"][:, [0]], "actions": seen["actions"][:, :0]})
        pictures = model.rollout(start, seen["actions"]).embeddings
        decoded = []
        model.decoder.register_forward_hook(lambda module, given, found: decoded.append(len(found)))
        only = model.rollout(start, seen["actions"], last=True)
    assert decoded == [2]
    torch.testing.assert_close(only.embeddings, pictures[:, -1:])
    torch.testing.assert_close(model.embedding(only.last), pictures[:, -1])


def test_pieces_of_a_batch_add_up():
    for perception in ("pixels", "reconstruction"):
        model, whole = system(perception=perception), batch()
        counts = model.counts(whole)
        pieces = [{name: part[rows] if part.ndim else part for name, part in whole.items()} for rows in ([0, 1], [2, 3, 4, 5])]
        parts = [model.step({**piece, "counts": counts})["loss"] for piece in pieces]
        torch.testing.assert_close(torch.stack(parts).sum(), model.step(whole)["loss"])


@pytest.mark.parametrize("options", [{"perception": "pixel"}, {"embedding": 1}, {"widths": ()}, {"widths": (4, 0)}])
def test_options_that_make_no_sense_are_named(options):
    with pytest.raises(UserError, match=next(iter(options))):
        PixelWorldConfig(**options)


@pytest.mark.parametrize("perception", ["pixels", "reconstruction"])
def test_what_is_imagined_can_be_compared_with_what_is_encoded(perception):
    model, seen = system(perception=perception).eval(), batch()
    history = {"inputs": seen["inputs"][:, :1], "actions": seen["actions"][:, :0]}
    imagined = model.imagined(history, seen["actions"])
    assert imagined.shape == (6, 3, 16)
    state = model.encode(seen["inputs"][:, :1]).values[:, 0]
    for t in range(3):
        state = model.predictor.advance(state, seen["actions"][:, t])
        torch.testing.assert_close(imagined[:, t], state)
