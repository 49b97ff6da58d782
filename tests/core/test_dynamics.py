import copy

import pytest
import torch
from torch import nn

from jepakit.core.anticollapse import SIGReg, SIGRegConfig, VICReg, VICRegConfig
from jepakit.core.batch import split_batch
from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.energies import Energy
from jepakit.core.latent import DiscreteLatent, FreeEnergy
from jepakit.core.state import State, tensors_of
from jepakit.core.targets import EMATarget, StopGradientTarget
from jepakit.errors import UserError
from jepakit.nn.dynamics_predictor import CausalPredictor, DynamicsPredictorConfig
from jepakit.nn.mlp import projection_head
from jepakit.nn.tokens import Tokens
from tests.core.dynamics_predictors import Linear, Recurrent

EXACT = {"atol": 1e-10, "rtol": 1e-9}  # in float64
DIM, ACTION = 5, 2
KINDS = ["window", "recurrent", "linear"]


def predictor(kind, condition=0):
    if kind == "recurrent":
        return Recurrent(DIM, ACTION)
    if kind == "linear":
        return Linear(DIM, ACTION, condition)
    config = DynamicsPredictorConfig(
        embedding=DIM, action=ACTION, condition=condition, history=3, dim=8, depth=2, heads=2, hidden=(12,)
    )
    return CausalPredictor(config)


def build(kind="window", head=(7,), **options):
    """A world model in float64, its weights moved away from their start (where actions are ignored), in eval mode."""
    torch.manual_seed(0)
    encoder = ObservationEncoder(nn.Linear(4, 6), projection_head(6, head, DIM))
    target = {"ema": EMATarget, "stop-gradient": StopGradientTarget}.get(options.pop("target", None))
    system = Dynamics(
        encoder, predictor(kind), options.pop("energy", Energy(name="l2")),
        target=None if target is None else target(encoder), **{"history": 3, **options},
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for buffer in system.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand_like(buffer))  # running statistics that are not those of any batch
    return system.eval()


def draw(time=4, batch=6):
    generator = torch.Generator().manual_seed(1)
    return {
        "inputs": torch.randn(batch, time, 4, generator=generator, dtype=torch.float64),
        "actions": torch.randn(batch, time - 1, ACTION, generator=generator, dtype=torch.float64),
        "id": torch.arange(batch),
        "step": torch.tensor(2),
    }


def seen(batch, observations):
    """What is known after so many observations."""
    return {"inputs": batch["inputs"][:, :observations], "actions": batch["actions"][:, : observations - 1]}


def test_the_step_is_the_distance_of_each_prediction_from_the_next_embedding():
    system, batch = build(), draw()
    z = torch.stack([system.encoder(batch["inputs"][:, t : t + 1]).values[:, 0] for t in range(4)], dim=1)
    predictions = system.predictor(z[:, :3], batch["actions"])
    terms = system.step(batch)
    torch.testing.assert_close(terms["prediction"], (predictions - z[:, 1:]).square().mean(), **EXACT)
    torch.testing.assert_close(terms["loss"], terms["prediction"], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollout_is_one_prediction_after_the_other(kind):
    system, batch = build(kind), draw(time=9)
    state = system.observe(seen(batch, 3))
    states = system.rollout(state, batch["actions"][:, 2:])
    assert states.embeddings.shape == (6, 6, DIM)
    only = system.rollout(state, batch["actions"][:, 2:], last=True).embeddings
    torch.testing.assert_close(only, states.embeddings[:, -1:], **EXACT)
    for t in range(6):
        state = system.predict(state, batch["actions"][:, 2 + t])
        torch.testing.assert_close(system.embedding(state), states.embeddings[:, t], **EXACT)
    for one, other in zip(tensors_of(state.tree), tensors_of(states.last.tree), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("observations", [1, 2, 3])
def test_observing_then_predicting_is_the_teacher_forced_prediction(kind, observations):
    """At the start of an episode too, where there is less to look back on."""
    system, batch = build(kind), draw()
    z = system.encode(batch["inputs"]).values
    forced = system.predictor(z[:, :3], batch["actions"])
    state = system.observe(seen(batch, observations))
    torch.testing.assert_close(system.embedding(state), z[:, observations - 1], **EXACT)
    predicted = system.embedding(system.predict(state, batch["actions"][:, observations - 1]))
    torch.testing.assert_close(predicted, forced[:, observations - 1], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_histories_of_different_lengths_in_one_batch_are_as_each_alone(kind):
    system, batch = build(kind), draw(time=5)
    lengths = torch.tensor([1, 2, 3, 4, 5, 2])
    together = system.rollout(system.observe({**seen(batch, 5), "lengths": lengths}), batch["actions"])
    for i, length in enumerate(lengths.tolist()):
        alone = {name: part[i : i + 1] for name, part in seen(batch, length).items() if name != "id"}
        rolled = system.rollout(system.observe(alone), batch["actions"][i : i + 1])
        torch.testing.assert_close(together.embeddings[i : i + 1], rolled.embeddings, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_an_expanded_state_gives_each_candidate_what_it_gets_alone(kind):
    system, batch = build(kind), draw()
    state = system.observe(seen(batch, 3))
    plans = torch.randn(6, 4, 5, ACTION, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    together = system.rollout(state.expand(4), plans.flatten(0, 1)).embeddings.unflatten(0, (6, 4))
    for candidate in range(4):
        alone = system.rollout(state, plans[:, candidate])
        torch.testing.assert_close(together[:, candidate], alone.embeddings, **EXACT)
    chosen = torch.tensor([3, 0, 1, 1, 2, 0])
    after = system.rollout(state.expand(4), plans.flatten(0, 1)).last.select(chosen)
    torch.testing.assert_close(system.embedding(after), together[torch.arange(6), chosen, -1], **EXACT)


def test_states_of_two_environments_are_planned_for_together():
    system, batch = build(), draw()
    parts = [system.observe({n: t[i : i + 1] for n, t in seen(batch, length).items()}) for i, length in enumerate((1, 3))]
    both = system.rollout(State.concatenate(parts), batch["actions"][:2])
    for i, part in enumerate(parts):
        alone = system.rollout(part, batch["actions"][i : i + 1])
        torch.testing.assert_close(both.embeddings[i : i + 1], alone.embeddings, **EXACT)


def test_what_is_older_than_the_window_is_forgotten_and_what_is_recurrent_remembers():
    batch = draw(time=5)
    changed = {**batch, "inputs": batch["inputs"].clone()}
    changed["inputs"][:, 0] += 1
    for kind, remembers in {"window": False, "recurrent": True}.items():
        system = build(kind)
        states = (system.predict(system.observe(seen(b, 4)), batch["actions"][:, 3]) for b in (batch, changed))
        one, other = map(system.embedding, states)
        assert ((one - other).abs().max() > 1e-3) == remembers


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_depends_on_the_future(kind):
    system, batch = build(kind), draw()
    z = system.encode(batch["inputs"]).values[:, :3]
    before = system.predictor(z, batch["actions"])
    later, moved = z.clone(), batch["actions"].clone()
    later[:, 2] += 1
    moved[:, 2] += 1
    after = system.predictor(later, moved)
    torch.testing.assert_close(after[:, :2], before[:, :2], **EXACT)
    assert (after[:, 2] - before[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_another_order_of_the_actions_is_another_loss(kind):
    system, batch = build(kind), draw()
    loss = system.step(batch)["loss"]
    for order in (batch["actions"].flip(1), batch["actions"].roll(1, 0)):
        assert (system.step({**batch, "actions": order})["loss"] - loss).abs() > 1e-3


def test_each_time_step_is_regularised_by_itself():
    """Embeddings that stand in one place at each time, and in another at the next, look spread when time is flattened."""
    sigreg = SIGReg(SIGRegConfig(slices=16), seed=0)
    system, batch = build(anti_collapse=sigreg), draw(batch=8)
    z = system.encode(batch["inputs"]).values
    terms = system.step(batch)
    each = torch.stack([sigreg(z[:, t][None], 2)["sigreg"] for t in range(4)])
    torch.testing.assert_close(terms["sigreg"], each.mean(), **EXACT)
    torch.testing.assert_close(terms["loss"], terms["prediction"] + 5.0 * each.mean() / 8, **EXACT)
    assert (terms["sigreg"] / 8 - sigreg(z.flatten(0, 1)[None], 2)["sigreg"] / 32).abs() > 1e-2
    assert system.joins_batch
    assert not build().joins_batch

    places = torch.randn(4, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    collapsed = places.expand(64, -1, -1)
    per_step = system._regularise(collapsed, sigreg, 0)["sigreg"]
    flattened = sigreg(collapsed.flatten(0, 1)[None], 0)["sigreg"]
    assert per_step / 64 > 1.5 * flattened / 256


def test_a_method_that_aligns_views_does_not_pull_time_steps_together():
    vicreg = VICReg(VICRegConfig())
    system, batch = build(anti_collapse=vicreg), draw()
    terms = system.step(batch)
    z = system.encode(batch["inputs"]).values
    expected = torch.stack([vicreg(z[:, t][None], 2)["loss"] for t in range(4)]).mean()
    assert "invariance" not in terms
    torch.testing.assert_close(terms["loss"], terms["prediction"] + expected, **EXACT)


def test_gradient_flows_through_both_sides():
    """The shared encoder's gradient is that through the context and that through the target together."""
    batch, gradients = draw(), {}
    for target in (None, "stop-gradient"):
        system = build(target=target)
        system.step(batch)["loss"].backward()
        gradients[target] = system.encoder.encoder.weight.grad
    system = build()
    frames = system.encode(batch["inputs"]).values
    context = system.predictor(frames[:, :3].detach(), batch["actions"])
    (context - frames[:, 1:]).square().mean().backward()
    through_target = system.encoder.encoder.weight.grad
    assert through_target.norm() > 1e-3
    torch.testing.assert_close(gradients[None], gradients["stop-gradient"] + through_target, **EXACT)


def test_an_average_may_be_the_target():
    system, batch = build(target="ema"), draw()
    with torch.no_grad():
        for parameter in system.target.parameters():
            parameter.mul_(1.1)
    z, targets = system.encoder(batch["inputs"]).values, system.encode(batch["inputs"]).values
    assert (z - targets).abs().max() > 0.1
    terms = system.step(batch)
    expected = (system.predictor(z[:, :3], batch["actions"]) - targets[:, 1:]).square().mean()
    torch.testing.assert_close(terms["prediction"], expected, **EXACT)
    terms["loss"].backward()
    assert all(p.grad is None for p in system.target.parameters())
    torch.testing.assert_close(system.embedding(system.observe(seen(batch, 2))), z[:, 1], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rollout_loss_is_that_of_predictions_on_predictions(kind):
    system, batch = build(kind, rollout=0.5), draw(time=7)
    z = system.encode(batch["inputs"]).values
    imagined = system.rollout(system.observe(seen(batch, 3)), batch["actions"][:, 2:]).embeddings
    terms = system.step(batch)
    torch.testing.assert_close(terms["rollout"], (imagined[:, 1:] - z[:, 4:]).square().mean(), **EXACT)
    single = build(kind).step({**batch, "inputs": batch["inputs"][:, :4], "actions": batch["actions"][:, :3]})
    torch.testing.assert_close(terms["prediction"], single["prediction"], **EXACT)
    torch.testing.assert_close(terms["loss"], terms["prediction"] + 0.5 * terms["rollout"], **EXACT)


@pytest.mark.parametrize("rollout", [0.0, 0.5])
def test_pieces_of_a_batch_add_up(rollout):
    """Without a loss across the batch, each piece is divided by the whole batch's counts."""
    system, batch = build(rollout=rollout), draw(time=6)
    whole = system.step(batch)["loss"]
    pieces = split_batch(batch, 4)
    counts = [system.counts(piece) for piece in pieces]
    total = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
    assert {name: int(number) for name, number in total.items()} == {"prediction": 18, "rollout": 12}
    parts = [system.step({**piece, "counts": total})["loss"] for piece in pieces]
    torch.testing.assert_close(torch.stack(parts).sum(), whole, **EXACT)


def test_the_energy_of_matching_windows_is_the_prediction_loss():
    system, batch = build(), draw()
    matching = system.energy(batch, torch.arange(6))
    torch.testing.assert_close(matching.mean(), system.step(batch)["prediction"], **EXACT)
    partners = torch.tensor([1, 0, 3, 2, 5, 4])
    crossed = system.energy(batch, partners)
    z = system.encode(batch["inputs"]).values
    expected = (system.predictor(z[:, :3], batch["actions"]) - z[partners, 1:]).square().mean((1, 2))
    torch.testing.assert_close(crossed, expected, **EXACT)


def test_views_are_each_embedded_by_themselves():
    system = build()
    views = torch.randn(3, 4, 1, 4, dtype=torch.float64)
    found = system.views({"views": views})
    assert found.shape == (3, 4, DIM)
    torch.testing.assert_close(found[1, 2], system.encode(views[1, 2][None]).values[0, 0], **EXACT)


def test_observations_may_be_a_dict_and_embeddings_may_be_sets_of_tokens():
    """Two sensors, three tokens a time step: nothing in the shape says that a state is one vector."""

    class TwoSensors(nn.Module):
        def __init__(self):
            super().__init__()
            self.eye, self.arm = nn.Linear(4, DIM), nn.Linear(2, DIM)

        def forward(self, inputs):
            values = torch.cat([self.eye(inputs["eye"]), self.arm(inputs["arm"])[:, :, None]], dim=2)
            return Tokens(values, torch.arange(values.shape[1])[None, :, None].expand(len(values), -1, -1))

    torch.manual_seed(0)
    sigreg = SIGReg(SIGRegConfig(slices=8))
    system = Dynamics(TwoSensors(), Linear(DIM, ACTION), Energy(name="l2"), rollout=1.0, history=2, anti_collapse=sigreg)
    system = system.eval()
    batch = {"inputs": {"eye": torch.randn(4, 5, 2, 4), "arm": torch.randn(4, 5, 2)}, "actions": torch.randn(4, 4, ACTION)}
    terms = system.step({**batch, "step": torch.tensor(0)})
    assert set(terms) == {"loss", "prediction", "rollout", "sigreg"}
    history = {"inputs": {name: part[:, :2] for name, part in batch["inputs"].items()}, "actions": batch["actions"][:, :1]}
    states = system.rollout(system.observe(history), batch["actions"][:, 1:])
    assert states.embeddings.shape == (4, 3, 3, DIM)
    z = system.encode(batch["inputs"]).values
    torch.testing.assert_close(terms["rollout"], (states.embeddings[:, 1:] - z[:, 3:]).square().mean())
    assert system.energy(batch, torch.arange(4)).shape == (4,)
    assert system.views({"views": {"eye": torch.randn(4, 6, 1, 2, 4), "arm": torch.randn(4, 6, 1, 2)}}).shape == (4, 6, DIM)


@pytest.mark.parametrize("kind", ["window", "linear"])
def test_a_latent_absorbs_what_the_history_does_not_say(kind):
    """The next embedding is one of two, by a coin: with z the energy is that of the coin that fell."""
    system, batch = build(kind, energy=FreeEnergy(DiscreteLatent(codes=2), Energy(name="l2"))), draw()
    torch.manual_seed(0)
    system.predictor = predictor(kind, condition=2).double().eval()
    with torch.no_grad():
        for parameter in system.predictor.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    z = system.encode(batch["inputs"]).values
    each = []
    for code in torch.eye(2, dtype=torch.float64):
        found = system.predictor(z[:, :3], batch["actions"], code.expand(6, -1))
        each.append((found - z[:, 1:]).square().mean((1, 2)))
    least = torch.stack(each).amin(0)
    assert (torch.stack(each).argmin(0).float().mean() - 0.5).abs() < 0.5  # not the same code for all
    torch.testing.assert_close(system.step(batch)["loss"], least.mean(), **EXACT)
    torch.testing.assert_close(system.energy(batch, torch.arange(6)), least, **EXACT)
    system.step(batch)["loss"].backward()
    assert all(p.grad is not None for p in system.predictor.parameters())

    state = system.observe(seen(batch, 3))
    codes = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1, 0, 1]]
    forced = system.predictor(z[:, :3], batch["actions"], codes)[:, -1]
    torch.testing.assert_close(system.embedding(system.predict(state, batch["actions"][:, 2], codes)), forced, **EXACT)
    guessed = system.rollout(state, batch["actions"]).embeddings  # without a z it is that of the first code
    first = system.rollout(state, batch["actions"], codes[:1].expand(6, -1)).embeddings
    torch.testing.assert_close(guessed, first, **EXACT)
    moved = system.predict(state, batch["actions"][:, 0])
    torch.testing.assert_close(system.embedding(moved), first[:, 0], **EXACT)
    assert torch.equal(system.futures(), torch.eye(2))
    assert build(kind).futures() is None
    steady = system.rollout(state, batch["actions"], codes).embeddings
    per_step = system.rollout(state, batch["actions"], codes[:, None].expand(-1, 3, -1)).embeddings
    torch.testing.assert_close(steady, per_step, **EXACT)
    assert (system.rollout(state, batch["actions"], codes.flip(1)).embeddings - steady).abs().max() > 1e-3


def test_a_copy_follows_itself():
    system, batch = build(anti_collapse=SIGReg(SIGRegConfig(slices=8))), draw()
    twin = copy.deepcopy(system)
    twin.step(batch)["loss"].backward()
    assert all(p.grad is None for p in system.parameters())
    assert twin.target.encoder is twin.encoder


def test_mistakes():
    system, batch = build(), draw()
    with pytest.raises(UserError, match="actions between them"):
        system.step({**batch, "actions": torch.zeros(6, 4, ACTION, dtype=torch.float64)})
    with pytest.raises(UserError, match="rollout: windows of 4"):
        build(rollout=1.0).step(batch)
    with pytest.raises(UserError, match="latent z"):
        build(energy=FreeEnergy(), rollout=1.0)
    with pytest.raises(UserError, match="horizon of 0"):
        system.rollout(system.observe(seen(batch, 3)), batch["actions"][:, :0])
    with pytest.raises(UserError, match="pooling"):
        ObservationEncoder(nn.Identity(), nn.Identity(), pooling="max")
    with pytest.raises(UserError, match=r"lengths lie between 1 and the 3"):
        system.observe({**seen(batch, 3), "lengths": torch.tensor([1, 2, 3, 4, 1, 1])})
    system.train()
    for act in (
        lambda: system.observe(seen(batch, 3)),
        lambda: system.predict(State(torch.zeros(6)), batch["actions"][:, 0]),
        lambda: system.rollout(State(torch.zeros(6)), batch["actions"]),
    ):
        with pytest.raises(UserError, match=r"Call eval\(\)"):
            act()
