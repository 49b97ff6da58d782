"""PLDM: its loss against the formula, its terms as switches, and that it learns what actions do."""

import pytest
import torch
from torch.nn import functional as F

from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.nn.tokens import Tokens
from jepakit.systems.pldm import PLDM, PUBLISHED, PLDMConfig

INPUTS = TrajectoryInputs(
    shape=(1, 12, 12), mean=(0.0,), std=(1.0,), action_mean=(0.0, 0.0), action_std=(1.0, 1.0), history=1, horizon=3
)
WHEN = {"step": torch.tensor(0), "progress": torch.tensor(1.0)}
CONFIG = PLDMConfig(embedding=16, widths=(4, 8), inverse_hidden=32, **PUBLISHED)


def batch(size=6, steps=3):
    generator = torch.Generator().manual_seed(0)
    return {
        "inputs": torch.randn(size, steps + 1, 1, 12, 12, generator=generator),
        "actions": torch.randn(size, steps, 2, generator=generator),
        **WHEN,
    }


def system(**options):
    torch.manual_seed(0)
    return PLDM(PLDMConfig(**{**vars(CONFIG), **options}), INPUTS)


def test_the_loss_is_the_formula():
    model, given = system(), batch()
    found = model.step(given)
    z = model.encoder(given["inputs"]).values
    errors = []
    for begin in range(3):
        state = z[:, begin]
        for t in range(begin, 3):
            state = model.predictor.advance(state, given["actions"][:, t])
            errors.append(F.mse_loss(state, z[:, t + 1]))
    flat = z.flatten(0, 1)
    centred = flat - flat.mean(0)
    covariance = centred.T @ centred / (len(flat) - 1)
    off = covariance - torch.diag(covariance.diagonal())
    expected = {
        "prediction": torch.stack(errors).mean(),
        "similarity": F.mse_loss(z[:, 1:], z[:, :-1]),
        "inverse": F.mse_loss(model.inverse(torch.cat([z[:, :-1], z[:, 1:]], 2)), given["actions"]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    std = 16 * F.relu(1 - (flat.var(0) + 1e-4).sqrt()).mean()
    cov = 8 * off.square().sum() / (16 * 15)
    total = expected["prediction"] + std + cov + 12 * expected["similarity"] + expected["inverse"]
    torch.testing.assert_close(found["loss"], total)


def test_a_frozen_encoder_stays_while_the_predictor_learns():
    model, given = system(frozen=True), batch()
    groups = [parameter for group in model.parameter_groups() for parameter in group["params"]]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(groups, lr=1e-2)
    model.step(given)["loss"].backward()
    optimiser.step()
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"predictor", "inverse"}


@pytest.mark.parametrize("term", ["variance", "covariance", "similarity", "inverse"])
def test_every_term_is_a_switch(term):
    on, off = system().step(batch()), system(**{term: 0.0}).step(batch())
    weight = {"covariance": CONFIG.covariance / (CONFIG.embedding - 1)}.get(term, getattr(CONFIG, term))
    torch.testing.assert_close(on["loss"] - off["loss"], weight * on[term], atol=1e-5, rtol=1e-5)


def test_the_weight_of_the_prediction_rises():
    model, given = system(ramp=(0.2, 0.6)), batch()
    losses = [model.step({**given, "progress": torch.tensor(at)})["loss"] for at in (0.2, 0.4, 0.6, 1.0)]
    prediction = model.step(given)["prediction"]
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * prediction)
    torch.testing.assert_close(losses[2] - losses[0], prediction)
    torch.testing.assert_close(losses[3], losses[2])
    with pytest.raises(UserError, match=r"ramp must be two shares with 0 <= start <= end <= 1, got 0.5 0.2"):
        PLDMConfig(ramp=(0.5, 0.2))


@pytest.mark.parametrize("kind", ["recurrent", "residual"])
def test_what_is_taught_is_what_a_rollout_does(kind):
    model, given = system(predictor=kind).eval(), batch()
    z = model.encoder(given["inputs"]).values
    errors = []
    for begin in range(3):
        rolled = model.rollout(State(z[:, begin]), given["actions"][:, begin:]).embeddings
        errors.append((rolled - z[:, begin + 1 :]).square().mean((0, 2)))
    torch.testing.assert_close(model.step(given)["prediction"], torch.cat(errors).mean())


def test_it_learns_what_actions_do():
    """A dot that its actions move: after some steps imagination is nearer to the truth than standing still is."""
    torch.manual_seed(0)

    def draw(size):
        places = torch.rand(size, 1, 2) * 8 + 2
        actions = torch.randn(size, 3, 2)
        path = torch.cat([places, places + actions.cumsum(1)], 1).clamp(0, 11)
        grid = torch.arange(12.0)
        y, x = (torch.exp(-((grid - path[..., axis, None]) ** 2) / 2) for axis in (1, 0))
        frames = 3 * (y[..., :, None] * x[..., None, :])[:, :, None]
        return {"inputs": frames, "actions": actions, **WHEN}

    model = system()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(150):
        model.step(draw(64))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    given = draw(256)
    model.eval()
    with torch.no_grad():
        z = model.encoder(given["inputs"]).values
        imagined = model.rollout(State(z[:, 0]), given["actions"]).embeddings
        still = (z[:, :1] - z[:, 1:]).square().mean((0, 2))
        other = model.rollout(State(z[:, 0]), given["actions"].roll(1, 0)).embeddings
    right = (imagined - z[:, 1:]).square().mean((0, 2))
    assert (right < 0.7 * still).all()
    assert (right < 0.7 * (other - z[:, 1:]).square().mean((0, 2))).all()


def test_vectors_are_observations_too():
    inputs = TrajectoryInputs(
        shape=(3,), mean=(0.0,) * 3, std=(1.0,) * 3, action_mean=(0.0,), action_std=(1.0,), history=1, horizon=2
    )
    model = PLDM(CONFIG, inputs)
    terms = model.step({"inputs": torch.randn(4, 3, 3), "actions": torch.randn(4, 2, 1), **WHEN})
    assert terms["loss"].isfinite()


def test_the_defaults_have_every_part_of_the_formula():
    model, given = system(**vars(PLDMConfig(embedding=16, widths=(4, 8), inverse_hidden=32))), batch()
    early, late = ({**given, "progress": torch.tensor(at)} for at in (0.0, 1.0))
    found = model.step(late)
    rest = 0.32 * found["variance"] + 1 / 15 * found["covariance"] + 0.1 * found["inverse"]
    torch.testing.assert_close(found["loss"], found["prediction"] + rest)
    torch.testing.assert_close(model.step(early)["loss"], rest)


@pytest.mark.parametrize("kind", ["recurrent", "residual"])
def test_with_codes_the_prediction_is_that_of_the_best_one_for_each_window(kind):
    model, given = system(latent="discrete", latent_codes=3, predictor=kind), batch()
    z = model.encoder(given["inputs"]).values
    each = []
    for code in torch.eye(3):
        errors = []
        for begin in range(3):
            state = z[:, begin]
            for t in range(begin, 3):
                state = model.predictor.advance(state, given["actions"][:, t], code.expand(6, -1))
                errors.append((state - z[:, t + 1]).square().mean(1))
        each.append(torch.stack(errors).mean(0))
    best, every = torch.stack(each).amin(0), torch.stack(each).mean(0)
    torch.testing.assert_close(model.step(given)["prediction"], (0.7 * best + 0.3 * every).mean())
    torch.testing.assert_close(model.eval().step(given)["prediction"], best.mean())
    model.step(given)["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Ambiguous:
    """x' = x + a + m d of four numbers, with m = +-1 for the whole window that nothing tells; sum of d squared 1."""

    d = torch.tensor([0.5, -0.5, 0.5, 0.5])

    @classmethod
    def draw(cls, size, steps, generator):
        m = torch.randint(0, 2, (size, 1, 1), generator=generator) * 2.0 - 1
        actions = 0.5 * torch.randn(size, steps, 4, generator=generator)
        begin = torch.randn(size, 1, 4, generator=generator)
        return {"inputs": torch.cat([begin, begin + (actions + m * cls.d).cumsum(1)], 1), "actions": actions, **WHEN}

    @staticmethod
    def trained(updates, steps=2, **options):
        """Embeddings are the numbers themselves, the prediction alone is taught."""
        inputs = TrajectoryInputs(
            shape=(4,), mean=(0.0,) * 4, std=(1.0,) * 4, action_mean=(0.0,) * 4, action_std=(1.0,) * 4, history=1, horizon=steps
        )
        torch.manual_seed(0)
        model = PLDM(PLDMConfig(embedding=4, inverse_hidden=4, **options), inputs)
        model.predictor.layers = torch.nn.Linear(8 + model.predictor.condition, 4)
        model.encoder.forward = lambda seen: Tokens(seen, torch.zeros(*seen.shape[:2], 1))
        model.predictor.norm = torch.nn.Identity()
        generator, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(model.predictor.parameters(), 0.02)
        for update in range(updates):
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * (1 - update / updates)
            optimizer.zero_grad()
            model.step(Ambiguous.draw(256, steps, generator))["prediction"].backward()
            optimizer.step()
        return model, Ambiguous.draw(1_000, steps, generator)


def test_without_a_latent_the_prediction_is_the_mean_of_what_may_come():
    """The error, summed over the numbers, is the variance of m d."""
    model, given = Ambiguous.trained(300, steps=1)
    with torch.no_grad():
        assert 4 * model.step(given)["prediction"] == pytest.approx(1.0, abs=0.05)
        assert model.futures() is None
        mean = model.predictor.advance(given["inputs"][:, 0], given["actions"][:, 0])
    torch.testing.assert_close(mean, given["inputs"][:, 0] + given["actions"][:, 0], atol=0.15, rtol=0)


def test_two_codes_are_the_two_futures_of_a_whole_rollout():
    model, given = Ambiguous.trained(300, latent="discrete", latent_shared=0.02)
    model.eval()
    with torch.no_grad():
        assert 4 * model.step(given)["prediction"] < 0.05
        begin = State(given["inputs"][:, 0])
        ends = [model.rollout(begin, given["actions"], z.expand(1_000, -1)).embeddings for z in model.futures()]
    middle = given["inputs"][:, :1] + given["actions"].cumsum(1)
    drift = Ambiguous.d * torch.tensor([[1.0], [2.0]])
    signs = [1.0, -1.0] if (ends[0] - middle)[0, 0, 0] > 0 else [-1.0, 1.0]
    for end, sign in zip(ends, signs, strict=True):
        torch.testing.assert_close(end, middle + sign * drift, atol=0.15, rtol=0)
    own = model.energy(given, torch.arange(1_000))
    assert (own < model.energy(given, torch.arange(1_000).roll(1))).float().mean() > 0.95


def test_a_continuous_latent_finds_them_too_and_knows_its_size():
    """Draws of the running size reach both futures: the nearest of 16 is near either."""
    model, given = Ambiguous.trained(300, latent="continuous", latent_weight=0.01)
    model.eval()
    with torch.no_grad():
        assert 4 * model.step(given)["prediction"] < 0.2
        z = model.free_energy.infer(lambda s, z: model._ahead(s, given["actions"], z), given["inputs"], _after(given["inputs"]))
        assert float(model.latent_scale) == pytest.approx(float(z.square().mean().sqrt()), rel=0.25)
        begin, actions = State(given["inputs"][:1, 0]), given["actions"][:1]
        ends = torch.cat([model.rollout(begin, actions, one[None]).embeddings[:, 0] for one in model.futures(16)])
    middle = given["inputs"][:1, 0] + actions[:, 0]
    for sign in (1.0, -1.0):
        assert (ends - middle - sign * Ambiguous.d).square().sum(1).min() < 0.1


def test_negative_control_a_free_latent_of_full_width_tells_nothing():
    model, given = Ambiguous.trained(100, steps=1, latent="continuous", latent_dim=4, latent_weight=0.0, latent_steps=30)
    with torch.no_grad():
        own, other = (model.energy(given, torch.arange(1_000).roll(by)) for by in (0, 1))
    assert other.mean() < 1e-3
    assert 0.3 < (own < other).float().mean() < 0.75


def _after(frames):
    return torch.cat([frames[:, ahead:] for ahead in range(1, frames.shape[1])], dim=1)


def test_the_size_of_a_latent_is_learned_in_training_alone():
    model, given = system(latent="continuous"), batch()
    before = model.latent_scale.clone()
    model.eval().step(given)
    assert torch.equal(model.latent_scale, before)
    model.train().step(given)
    assert not torch.equal(model.latent_scale, before)


def test_without_a_latent_there_is_nothing_of_one():
    plain, coded = system(), system(latent="discrete")
    assert plain.futures() is None
    assert plain.predictor.condition == 0
    assert set(plain.state_dict()) == set(coded.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"variance": -1.0}, {"embedding": 1}, {"widths": ()}, {"widths": (4, 0)}, {"latent": "some"}, {"latent_codes": 1},
        {"latent_shared": 1.5},
        {"latent_dim": 0}, {"latent_weight": -1.0}, {"latent_steps": 0},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_named(options):
    with pytest.raises(UserError, match=next(iter(options))):
        PLDMConfig(**options)
