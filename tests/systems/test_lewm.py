import copy
import pickle

import pytest
import torch

from jepakit.core.anticollapse import SIGRegConfig
from jepakit.core.system import shuffled
from jepakit.errors import UserError
from jepakit.modalities.trajectories.window_collator import NOISE, TrajectoryInputs
from jepakit.systems.lewm import PAPER, LeWM, LeWMConfig

EXACT = {"atol": 1e-5, "rtol": 1e-5}
VECTORS = TrajectoryInputs(
    shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), action_mean=(0.0,), action_std=(1.0,), history=3, horizon=1
)
PIXELS = TrajectoryInputs(
    shape=(1, 16, 12), mean=(0.1,), std=(0.2,), action_mean=(0.0, 0.5), action_std=(1.0, 2.0), history=2, horizon=1
)
LONG = TrajectoryInputs(
    shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), action_mean=(0.0,), action_std=(1.0,), history=2, horizon=3
)


def build(inputs=VECTORS, seed=0, **options):
    torch.manual_seed(seed)
    return LeWM(LeWMConfig(embedding=8, projector=(24,), **options), inputs, seed)


def turned(count, inputs=VECTORS, push=1.5, seed=0):
    """Windows of a point on a circle that an action turns: the next observation is the last one turned by push * action."""
    generator = torch.Generator().manual_seed(seed)
    time = inputs.history + inputs.horizon
    actions = torch.rand(count, time - 1, inputs.action, generator=generator) * 2 - 1
    first = 6.28 * torch.rand(count, 1, generator=generator)
    angle = torch.cat([first, first + push * actions[..., 0].cumsum(1)], dim=1)
    points = torch.stack([angle.cos(), angle.sin()], dim=-1)
    if len(inputs.shape) == 3:
        points = (points @ torch.randn(2, 192, generator=generator)).sigmoid().reshape(count, time, *inputs.shape)
    return [
        {"observations": o, "actions": a, "id": i, "epoch": 0, "step": 0, "label": 0.0}
        for i, (o, a) in enumerate(zip(points, actions, strict=True))
    ]


@pytest.mark.parametrize("inputs", [VECTORS, PIXELS])
def test_a_batch_and_a_step(inputs):
    system, samples = build(inputs), turned(10, inputs)
    batch = system.collator(0)(samples)
    assert batch["inputs"].shape == (10, inputs.history + 1, *inputs.shape)
    assert batch["actions"].shape == (10, inputs.history, inputs.action)
    assert set(batch) == {"inputs", "actions", "id", "step", "progress", "label"}
    terms = system.step(batch)
    assert set(terms) == {"loss", "prediction", "sigreg"}
    torch.testing.assert_close(terms["loss"], terms["prediction"] + 12.8 * terms["sigreg"] / 10, **EXACT)  # per sample
    terms["loss"].backward()
    # Gates of adaptive layer norm start closed: what lies behind them has a gradient of 0, but has one.
    assert {name for name, p in system.named_parameters() if p.grad is None} == set()
    assert system.encode(inputs.prepare(samples)).values.shape == (10, 1, 8)


def test_the_papers_lambda_is_the_default_at_its_batch():
    """12.8 a sample is lambda 0.1 times the statistic with its factor N, at N = 128."""
    samples = turned(128)
    ours = build().step(build().collator(0)(samples))["loss"]
    paper = build(sigreg=SIGRegConfig(weight=0.1, convention="paper"))
    torch.testing.assert_close(ours, paper.step(paper.collator(0)(samples))["loss"], **EXACT)


def test_views_are_the_last_observation_under_other_noise():
    system, samples = build(), turned(6)
    collate = pickle.loads(pickle.dumps(system.collator(3, views=50)))
    batch = collate(samples)
    off = batch["views"] - batch["inputs"][:, None, -1:]
    assert batch["views"].shape == (6, 50, 1, 2)
    assert abs(off.std() - NOISE) < 0.01
    assert off.mean().abs() < 0.01
    torch.testing.assert_close(collate([samples[4], samples[1]])["views"], batch["views"][[4, 1]])
    assert (system.collator(4, views=50)(samples)["views"] - batch["views"]).abs().mean() > 0.01
    system.eval()
    torch.testing.assert_close(system.views(batch)[:, 3], system.encode(batch["views"][:, 3]).values[:, 0], **EXACT)


def test_planning_needs_eval_mode_where_a_sample_does_not_depend_on_its_batch():
    system, batch = build(), build().collator(0)(turned(12))
    for _ in range(3):
        system.step(batch)  # running statistics of something
    history = {"inputs": batch["inputs"][:, :3], "actions": batch["actions"][:, :2]}
    with pytest.raises(UserError, match=r"Call eval\(\)"):
        system.observe(history)
    system.eval()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    whole = system.rollout(system.observe(history), batch["actions"])
    for i in (0, 7):
        alone = system.observe({name: part[i : i + 1] for name, part in history.items()})
        torch.testing.assert_close(
            system.rollout(alone, batch["actions"][i : i + 1]).embeddings, whole.embeddings[i : i + 1], **EXACT
        )
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


def test_training_and_eval_agree_once_the_statistics_have_settled():
    system, batch = build(), build().collator(0)(turned(16))
    with torch.no_grad():
        for _ in range(100):
            training = system.step(batch)["prediction"]
        torch.testing.assert_close(system.eval().step(batch)["prediction"], training, rtol=0.1, atol=0)


def test_accumulation_is_refused_even_without_sigreg():
    """Batch normalisation looks across the batch, too."""
    assert build().joins_batch
    assert build(anti_collapse="none").joins_batch
    assert set(build(anti_collapse="none").step(build().collator(0)(turned(4)))) == {"loss", "prediction"}


def test_longer_windows_teach_rollouts():
    system = build(LONG, rollout=0.5)
    terms = system.step(system.collator(0)(turned(8, LONG)))
    expected = terms["prediction"] + 0.5 * terms["rollout"] + 12.8 * terms["sigreg"] / 8
    torch.testing.assert_close(terms["loss"], expected, **EXACT)


def test_the_seed_decides_the_initialisation():
    first, again, other = (build(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["predictor.embed.weight"], other["predictor.embed.weight"])


def trained(steps=60, **options):
    system = build(sigreg=SIGRegConfig(weight=12.8, slices=32), **options).train()
    everything = system.collator(0)(turned(1024))
    optimizer = torch.optim.AdamW([p for g in system.parameter_groups() for p in g["params"]], lr=3e-3)
    for step in range(steps):
        chosen = torch.arange(64) + step * 64 % 1024
        batch = {name: part[chosen] if part.ndim else torch.tensor(step) for name, part in everything.items()}
        optimizer.zero_grad()
        system.step(batch)["loss"].backward()
        optimizer.step()
    return system.eval()


@torch.no_grad()
def imagined(system, held):
    """Error of the last prediction with the action that was taken, with another's, and of copying the last embedding, each
    as a share of the embeddings' variance; and their variance."""
    batch = system.collator(0)(held)
    z = system.encode(batch["inputs"]).values
    state = system.observe({"inputs": batch["inputs"][:, :3], "actions": batch["actions"][:, :2]})
    action, variance = batch["actions"][:, 2], z[:, 3].var(0).mean()
    found = [system.embedding(system.predict(state, a)) for a in (action, action[shuffled(len(held))])] + [z[:, 2]]
    return *((float((f - z[:, 3]).square().mean() / variance)) for f in found), float(variance)


def test_actions_matter_after_training():
    true, another, copied, variance = imagined(trained(), turned(256, seed=1))
    assert true < 0.4
    assert another > 2 * true
    assert copied > 2 * true
    assert variance > 0.3


@pytest.mark.slow
def test_without_sigreg_it_collapses():
    """What is left is little beside the unit variance that SIGReg asks for, though batch normalisation stands before the
    last layer."""
    *_, variance = imagined(trained(200, anti_collapse="none"), turned(256, seed=1))
    assert variance < 0.05


def test_a_copy_learns_without_touching_the_original():
    system = build()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    twin = copy.deepcopy(system)
    twin.step(twin.collator(0)(turned(8)))["loss"].backward()
    assert all(p.grad is None for p in system.parameters())
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "big"}, "size"),
        ({"anti_collapse": "vicreg"}, "anti_collapse"),
        ({"embedding": 0}, "embedding must be at least 1"),
        ({"rollout": -1.0}, "rollout must be at least 0"),
        ({"rollout": 1.0}, "horizon 1 and rollout 1.0"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        LeWM(LeWMConfig(**options), VECTORS)


def test_longer_windows_need_the_loss_on_rollouts():
    with pytest.raises(UserError, match=r"horizon 3 and rollout 0.0"):
        LeWM(LeWMConfig(), LONG)


def test_the_papers_sizes_are_those_of_the_paper():
    """LeWorldModel, arXiv 2603.19312, and its released code: 10.79 M in the predictor, ViT-Tiny, heads of 192-2048-192."""
    inputs = TrajectoryInputs(
        shape=(3, 224, 224), mean=(0.0,) * 3, std=(1.0,) * 3, action_mean=(0.0,) * 10, action_std=(1.0,) * 10,
        history=3, horizon=1,
    )  # fmt: skip
    with torch.device("meta"):
        system = LeWM(LeWMConfig(**PAPER), inputs)

    def count(*parts):
        return sum(p.numel() for part in parts for p in part.parameters())

    predictor = system.predictor
    biases = sum(block.attn.qkv.bias.numel() for block in predictor.blocks)  # which the released code does without
    assert count(predictor.blocks, predictor.norm) + predictor.positions.numel() - biases == 10_786_752
    assert count(system.encoder.encoder) == pytest.approx(5.5e6, rel=0.01)
    assert [layer.weight.shape for layer in system.encoder.projector if hasattr(layer, "weight")] == [
        (2048, 192), (2048,), (192, 2048)
    ]  # fmt: skip
    assert [layer.weight.shape for layer in predictor.head if hasattr(layer, "weight")] == [(2048, 192), (2048,), (192, 2048)]
    block = predictor.blocks[0]
    assert (len(predictor.blocks), block.attn.heads) == (6, 16)
    assert (block.attn.proj.in_features, block.mlp.fc1.out_features) == (1024, 2048)
    assert (block.dropout.p, predictor.config.history, system.peak_lr(system.config)) == (0.1, 3, 5e-5)


def test_a_vision_transformer_answers_with_its_class_token():
    inputs = TrajectoryInputs(
        shape=(1, 16, 12), mean=(0.1,), std=(0.2,), action_mean=(0.0, 0.5), action_std=(1.0, 2.0), history=2, horizon=1
    )
    options = {"patch_size": 4, "predictor_heads": 3, "predictor_head_dim": 5, "predictor_mlp": 40, "dropout": 0.1}
    system, samples = build(inputs, **options), turned(6, inputs)
    terms = system.step(system.collator(0)(samples))
    terms["loss"].backward()
    assert {name for name, p in system.named_parameters() if p.grad is None and p.requires_grad} == set()
    system.eval()
    batch = system.collator(0)(samples)
    state = system.observe({"inputs": batch["inputs"][:, :1], "actions": batch["actions"][:, :0]})
    rolled = system.rollout(state, batch["actions"]).embeddings
    z = system.encode(batch["inputs"]).values
    torch.testing.assert_close(rolled[:, 0], system.predictor(z[:, :1], batch["actions"][:, :1])[:, 0], **EXACT)
    window = torch.stack([z[:, 0], rolled[:, 0]], 1)
    torch.testing.assert_close(rolled[:, 1], system.predictor(window, batch["actions"])[:, 1], **EXACT)
    with pytest.raises(UserError, match="patch_size: observations are vectors of 2"):
        build(patch_size=4)
    with pytest.raises(UserError, match="patch_size is of an encoder that is learned"):
        LeWMConfig(patch_size=4, encoder="runs/a")
