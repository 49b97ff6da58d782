"""V-JEPA 2-AC: its loss against the released training's, what learns, and that it learns what actions do."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import jepakit
from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.runs import Run
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.systems.v_jepa_2_ac import VJEPA2AC, VJEPA2ACConfig

IMAGE = ImageInputs(image_size=(12, 12), channels=1, mean=(0.2,), std=(0.4,))
INPUTS = TrajectoryInputs(
    shape=(1, 12, 12), mean=(0.0,), std=(1.0,), action_mean=(0.0, 0.0), action_std=(1.0, 1.0), history=1, horizon=3
)
ENCODER = Path(__file__).parents[1] / "fixtures" / "image_encoder"


def eyes(kind="vit"):
    torch.manual_seed(0)
    if kind == "vit":
        made = VisionTransformer(ViTConfig(image_size=(12, 12), patch_size=4, channels=1, dim=16, depth=1, heads=2))
    else:
        made = ConvNet(ConvNetConfig(image_size=(12, 12), channels=1, dim=16, width=8))
    return PretrainedEncoder(made, IMAGE)


def system(kind="vit", **options):
    made = eyes(kind)
    model = VJEPA2AC(VJEPA2ACConfig(encoder="given", **options), INPUTS, encoder=made)
    for parameter in model.predictor.head.parameters():  # of a residual predictor it starts at 0
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def batch(size=6, steps=3):
    generator = torch.Generator().manual_seed(0)
    return {
        "inputs": torch.rand(size, steps + 1, 1, 12, 12, generator=generator),
        "actions": torch.randn(size, steps, 2, generator=generator),
    }


@pytest.mark.parametrize(("rollout_steps", "residual"), [(2, True), (3, False)])
def test_the_loss_is_the_released_trainings(rollout_steps, residual):
    """Teacher forcing over the window; then the first prediction fed back, all worked out anew; L1, layer norm on both."""
    model, given = system(rollout_steps=rollout_steps, residual=residual, rollout=0.5), batch()
    found = model.step(given)
    pixels = (given["inputs"].flatten(0, 1) - 0.2) / 0.4
    h = F.layer_norm(eyes().encoder(pixels).values, (16,)).unflatten(0, (6, 4))
    forced = model.predictor(h[:, :-1], given["actions"])
    torch.testing.assert_close(found["prediction"], F.l1_loss(forced, h[:, 1:]))
    z = torch.cat([h[:, :1], forced[:, :1]], dim=1)
    for n in range(1, rollout_steps):
        z = torch.cat([z, model.predictor(z, given["actions"][:, : n + 1])[:, -1:]], dim=1)
    torch.testing.assert_close(found["rollout"], F.l1_loss(z[:, 1:], h[:, 1 : rollout_steps + 1]))
    torch.testing.assert_close(found["loss"], found["prediction"] + 0.5 * found["rollout"])


def test_only_the_predictor_learns_and_through_every_imagined_step():
    model, given = system().train(), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([parameter for group in model.parameter_groups() for parameter in group["params"]], lr=0.1)
    terms = model.step(given)
    terms["rollout"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.predictor.parameters())
    optimiser.step()
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"predictor"}
    assert not model.encoder.encoder.encoder.training


def test_pieces_of_a_batch_add_up():
    model, whole = system(), batch()
    loss = model.step(whole)["loss"]
    counts = model.counts(whole)
    pieces = [{name: part[rows] for name, part in whole.items()} for rows in (slice(4), slice(4, 6))]
    torch.testing.assert_close(sum(model.step({**piece, "counts": counts})["loss"] for piece in pieces), loss)


@pytest.mark.parametrize("kind", ["vit", "convnet"])
def test_embeddings_are_tokens_inside_and_side_by_side_outside(kind):
    model, given = system(kind).eval(), batch()
    tokens = model.encoder(given["inputs"]).values
    rows, columns = model.predictor.config.grid
    assert tokens.shape == (6, 4, rows * columns, 16)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(6, 4, rows * columns), atol=1e-5, rtol=0)
    assert torch.equal(model.encode(given["inputs"]).values, tokens.flatten(2))
    assert torch.equal(model.encoders()["target"](given["inputs"]).values, tokens.flatten(2))
    first = {"inputs": given["inputs"][:, :1], "actions": given["actions"][:, :0]}
    state = model.observe(first)
    assert torch.equal(model.embedding(state), tokens[:, 0])
    imagined = model.imagined(first, given["actions"])
    torch.testing.assert_close(imagined, model.rollout(state, given["actions"]).embeddings.flatten(2))
    assert imagined.shape == (6, 3, rows * columns * 16)


def test_messages():
    with pytest.raises(UserError, match="--encoder RUN"):
        VJEPA2AC(VJEPA2ACConfig(), INPUTS)
    with pytest.raises(UserError, match=r"rollout_steps 4 need windows of 5.*Raise the horizon"):
        system(rollout_steps=4)
    with pytest.raises(UserError, match="rollout_steps"):
        VJEPA2ACConfig(rollout_steps=1)
    assert system(rollout_steps=4, rollout=0.0).step(batch()).keys() == {"loss", "prediction"}


def test_through_the_verbs(measured_on_little, tmp_path):
    """Pretrain, evaluate and the encoder's own copy; a plan is found by the L1 to the goal's tokens."""
    exported = shutil.copytree(ENCODER, tmp_path / "eyes")
    tiny = {"steps": 2, "batch_size": 8, "workers": 0, "threads": 1, "device": "cpu", "health_samples": 8, "limit": 64}
    run = tmp_path / "run"
    done = jepakit.pretrain("v-jepa-2-ac", data="pendulum-pixels", out=run, horizon=2, encoder=str(exported), **tiny)
    assert {row.features for row in done.rows} >= {"encoder", "random init"}
    shutil.rmtree(exported)
    opened = Run(run)
    loaded, config = opened.system, opened.config
    assert loaded.predictor.config.grid == (4, 4)
    assert jepakit.load(run)(torch.zeros(2, 1, *config.inputs.shape)).values.shape == (2, 1, 16 * 8)
    with pytest.raises(UserError, match="v-jepa-2-ac predicts the tokens of an encoder that is there"):
        jepakit.pretrain("v-jepa-2-ac", data="pendulum-pixels", out=tmp_path / "none", horizon=2, **tiny)


@pytest.mark.slow
def test_it_learns_what_actions_do():
    """A dot that is pushed about: the loss falls far below that of standing still, and another's actions do worse."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = VJEPA2AC(VJEPA2ACConfig(encoder="given"), INPUTS, encoder=eyes("convnet"))

    def drawn(count):
        actions = torch.randn(count, 3, 2, generator=generator).clamp(-2, 2)
        places = torch.cat([torch.rand(count, 1, 2, generator=generator) * 4 + 4, actions], dim=1).cumsum(1)
        ys, xs = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
        squared = (xs - places[..., 0, None, None]) ** 2 + (ys - places[..., 1, None, None]) ** 2
        return {"inputs": torch.exp(-squared / 4)[:, :, None], "actions": actions}

    optimiser = torch.optim.AdamW(model.predictor.parameters(), lr=2e-3)
    for _ in range(300):
        loss = model.step(drawn(8))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held_out = drawn(256)
    own = model.step(held_out)
    other = model.step({**held_out, "actions": held_out["actions"].roll(1, 0)})
    tokens = model.encoder(held_out["inputs"]).values
    assert own["prediction"] < 0.6 * F.l1_loss(tokens[:, :-1], tokens[:, 1:])
    assert own["rollout"] < 0.7 * other["rollout"]
