"""The masked shape against a plain transcription, sample by sample and block by block."""

import copy

import pytest
import torch
from torch.nn import functional as F

from jepakit.core.anticollapse import SIGReg, SIGRegConfig
from jepakit.core.energies import Energy
from jepakit.core.masked import Masked
from jepakit.core.system import shuffled
from jepakit.core.targets import make_target
from jepakit.errors import UserError
from jepakit.masks.blocks import MultiBlockConfig, multi_block
from jepakit.nn.mlp import projection_head
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.randomness import Draws

GRID = (4, 6)
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def build(target="ema", **options):
    """A small system with weights far from their start, the target's apart from the encoder's."""
    torch.manual_seed(0)
    encoder = VisionTransformer(ViTConfig(image_size=(16, 24), patch_size=4, channels=1, dim=16, depth=2, heads=2))
    predictor = MaskedPredictor(PredictorConfig(dim=12, depth=2, heads=3), 16, GRID)
    teacher = copy.deepcopy(encoder) if target == "frozen" else None
    energy = options.pop("energy", Energy())
    system = Masked(encoder, predictor, make_target(target, encoder, teacher), energy, **options)
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            if "pos_embed" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return system


def draw(samples=5, contexts=1, blocks=3, ids=None):
    """A batch with ragged contexts and blocks."""
    config = MultiBlockConfig(
        contexts=contexts, targets=blocks, target_scale=(0.05, 0.3), context_scale=(0.4, 1.0), min_keep=2, joint=False
    )
    ids = list(range(samples)) if ids is None else ids
    masks = multi_block(config, GRID)(Draws(0, "masks", 0, ids))
    images = torch.randn(samples, 1, 16, 24, generator=torch.Generator().manual_seed(1))
    batch = {
        "image": images, "context": masks.context, "context_lengths": masks.context_lengths, "targets": masks.targets,
        "target_lengths": masks.target_lengths, "id": torch.tensor(ids), "step": torch.tensor(3),
    }  # fmt: skip
    assert len(masks.context_lengths.unique()) > 1
    assert len(masks.target_lengths.unique()) > 1
    return batch


def pick(batch, samples):
    return {name: value if value.ndim == 0 else value[samples] for name, value in batch.items()}


def transcribe(system, batch, partners=None):
    """Energies of every (sample, context, block) by itself, unpadded: a list of `[tokens]` for each sample."""
    partners = range(len(batch["image"])) if partners is None else partners.tolist()
    energies = []
    for i, partner in enumerate(partners):
        image, other = batch["image"][i : i + 1], batch["image"][partner : partner + 1]
        h = F.layer_norm(system.target.encoder(other).values, (16,))
        found = []
        for kept, n in zip(batch["context"][i], batch["context_lengths"][i], strict=True):
            context = system.encoder(image, keep=Ids(kept[None, :n]))
            for block, k in zip(batch["targets"][i], batch["target_lengths"][i], strict=True):
                prediction = system.predictor(context, Ids(block[None, :k]))
                found.append(F.smooth_l1_loss(prediction[0], h[0, block[:k]], reduction="none").mean(-1))
        energies.append(torch.cat(found))
    return energies


@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("target", ["ema", "shared", "stop-gradient", "frozen"])
def test_the_step_is_the_mean_over_all_predicted_tokens_of_a_plain_transcription(target, contexts):
    system, batch = build(target), draw(contexts=contexts)
    terms = system.step(batch)
    assert set(terms) == {"loss", "prediction"}
    torch.testing.assert_close(terms["loss"], torch.cat(transcribe(system, batch)).mean(), **EXACT)
    assert terms["loss"] > 0.05


@torch.no_grad()
def test_energy_of_matching_and_of_shuffled_pairs():
    system, batch = build(), draw(contexts=2)
    for partners in (torch.arange(5), shuffled(5)):
        expected = torch.stack([tokens.mean() for tokens in transcribe(system, batch, partners)])
        torch.testing.assert_close(system.energy(batch, partners), expected, **EXACT)


@torch.no_grad()
def test_energy_of_identity_partners_weighted_by_tokens_is_the_prediction_loss():
    system, batch = build(), draw(contexts=2)
    energy, tokens = system.energy(batch, torch.arange(5)), batch["target_lengths"].sum(1)
    torch.testing.assert_close((energy * tokens).sum() / tokens.sum(), system.step(batch)["prediction"], **EXACT)
    one = draw(samples=3, contexts=1, blocks=1)
    for i in range(3):
        alone = pick(one, [i])
        matching = system.energy(alone, torch.tensor([0]))[0]
        torch.testing.assert_close(matching, system.step(alone)["prediction"], **EXACT)


def test_a_ragged_batch_equals_each_sample_alone():
    system, batch = build(), draw()
    together = system.energy(batch, torch.arange(5))
    for i in range(5):
        alone = pick(batch, [i])
        alone["context"] = alone["context"][..., : int(alone["context_lengths"].max())]
        alone["targets"] = alone["targets"][..., : int(alone["target_lengths"].max())]
        torch.testing.assert_close(system.energy(alone, torch.tensor([0])), together[i : i + 1], **EXACT)


def test_what_padding_holds_does_not_matter():
    system, batch = build(), draw()
    changed = dict(batch)
    for name in ("context", "targets"):
        padding = torch.arange(batch[name].shape[-1]) >= batch[name.rstrip("s") + "_lengths"][..., None]
        changed[name] = torch.where(padding, torch.randint(0, 24, batch[name].shape), batch[name])
        assert padding.any()
    torch.testing.assert_close(system.step(changed)["loss"], system.step(batch)["loss"], rtol=0, atol=1e-7)


def test_accumulated_pieces_weigh_by_their_tokens():
    """Loss and gradients of pieces, each times its share of the weight, add up to the whole batch's."""
    system, batch = build(), draw()
    whole = system.step(batch)["loss"]
    whole.backward()
    expected = {name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None}
    system.zero_grad()
    pieces = [pick(batch, [0]), pick(batch, [1, 2, 3]), pick(batch, [4])]
    total = sum(system.weight(piece) for piece in pieces)
    assert total == system.weight(batch) == int(batch["target_lengths"].sum())
    parts = [system.step(piece)["loss"] * system.weight(piece) / total for piece in pieces]
    sum(parts).backward()
    torch.testing.assert_close(sum(parts), whole, **EXACT)
    for name, p in system.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[name], **EXACT)


@pytest.mark.parametrize("target", ["ema", "stop-gradient", "frozen", "shared"])
def test_gradient_flows_only_where_declared(target):
    system, batch = build(target), draw()
    system.step(batch)["loss"].backward()
    with_gradient = {name for name, p in system.named_parameters() if p.grad is not None}
    everything = {name for name, _ in system.named_parameters() if "pos_embed" not in name}
    assert with_gradient == {name for name in everything if not name.startswith("target.")}
    if target == "shared":
        through_target = system.encoder.norm.weight.grad.clone()
        other = build("stop-gradient")
        torch.testing.assert_close(other.step(batch)["loss"], system.step(batch)["loss"], **EXACT)
        other.step(batch)["loss"].backward()
        assert (other.encoder.norm.weight.grad - through_target).norm() > 1e-3


def test_the_target_may_be_left_unnormalised():
    system = build(energy=Energy(name="l1"), target_norm="none")
    batch = pick(draw(blocks=1), [2])
    n, k = int(batch["context_lengths"]), int(batch["target_lengths"])
    context = system.encoder(batch["image"], keep=Ids(batch["context"][0, :, :n]))
    block = batch["targets"][0, :, :k]
    expected = system.predictor(context, Ids(block)) - Ids(block).gather(system.target(batch["image"]).values)
    torch.testing.assert_close(system.step(batch)["loss"], expected.abs().mean(), **EXACT)
    with pytest.raises(UserError, match="target_norm"):
        build(target_norm="layers")


def test_the_regulariser_sees_each_context_of_an_image_as_a_view():
    head = projection_head(16, (), 8)
    sigreg = SIGReg(SIGRegConfig(slices=8), seed=0)
    system, batch = build(anti_collapse=sigreg, projector=head, invariance=0.5), draw(contexts=3)
    terms = system.step(batch)
    views = torch.empty(3, 5, 8)
    for i in range(5):
        for e in range(3):
            n = int(batch["context_lengths"][i, e])
            kept = Ids(batch["context"][i : i + 1, e, :n])
            views[e, i] = head(system.encoder(batch["image"][i : i + 1], keep=kept).values.mean(1))[0]
    expected = sigreg(views, step=3)
    torch.testing.assert_close(terms["sigreg"], expected["sigreg"], **EXACT)
    alignment = (views - views.mean(0)).square().mean()
    torch.testing.assert_close(terms["alignment"], alignment, **EXACT)
    torch.testing.assert_close(terms["loss"], terms["prediction"] + expected["loss"] + 0.5 * alignment, **EXACT)
    assert system.joins_batch
    assert not build().joins_batch
    pooled = system.views(batch)
    assert pooled.shape == (5, 3, 16)
    torch.testing.assert_close(head(pooled).transpose(0, 1), views, **EXACT)


def test_encode_is_the_target_encoder():
    system, images = build(), draw()["image"]
    torch.testing.assert_close(system.encode(images).values, system.target.average(images).values)
    assert (system.encode(images).values - system.encoder(images).values).abs().max() > 0.1
    assert system.encoders() == {"target": system.target.average, "encoder": system.encoder}
    keep = Ids(torch.tensor([[3, 1]] * 5))
    torch.testing.assert_close(system.encode(images, keep).values, system.target.average(images, keep=keep).values)


@pytest.mark.parametrize("target", ["ema", "shared", "stop-gradient", "frozen"])
def test_parameter_groups(target):
    system = build(target, projector=projection_head(16, (12,), 8))
    decayed, plain = system.parameter_groups()
    assert decayed["decay"]
    assert not plain["decay"]
    names = {id(p): name for name, p in system.named_parameters()}
    trained = {name for name in names.values() if not name.startswith("target.") and "pos_embed" not in name}
    in_decayed, in_plain = ({names[id(p)] for p in group["params"]} for group in (decayed, plain))
    assert in_decayed | in_plain == trained
    assert not in_decayed & in_plain
    assert len(in_decayed) + len(in_plain) == len(decayed["params"]) + len(plain["params"])
    norms = {"norm", "norm1", "norm2", "predictor_norm"}
    for name in trained:
        module = name.split(".")[-2]
        without = name.endswith(("bias", "mask_token")) or module in norms or name == "projector.1.weight"
        assert (name in in_plain) == without, name


@pytest.mark.parametrize("target", ["ema", "shared", "stop-gradient", "frozen"])
def test_a_copy_shares_nothing_with_the_original_and_follows_itself(target):
    system, batch = build(target), draw()
    twin = copy.deepcopy(system)
    storages = [{p.data_ptr() for p in (*s.parameters(), *s.buffers())} for s in (system, twin)]
    assert not storages[0] & storages[1]
    assert twin.target.encoder is not system.target.encoder
    if target in ("shared", "stop-gradient"):
        assert twin.target.encoder is twin.encoder
    before = {name: value.clone() for name, value in system.state_dict().items()}
    with torch.no_grad():
        for parameter in twin.encoder.parameters():
            parameter.mul_(3)
    twin.target.update(0.0)
    for name, value in system.state_dict().items():  # nothing reaches back
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    if target == "ema":  # the copy's target follows the copy's encoder
        for ours, theirs in zip(twin.target.average.parameters(), twin.encoder.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
    system.step(batch)["loss"].backward()
    assert all(p.grad is None for p in twin.parameters())


def test_the_state_dict_holds_a_shared_encoder_once_and_restores_all():
    expected = {"shared": 0, "stop-gradient": 0, "ema": 1, "frozen": 1}
    encoder_tensors = len(build().encoder.state_dict())
    predictor_tensors = len(build().predictor.state_dict())
    batch = draw()
    for target, copies in expected.items():
        system = build(target)
        state = system.state_dict()
        assert len(state) == (1 + copies) * encoder_tensors + predictor_tensors
        other = build(target)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        other.load_state_dict(state)
        torch.testing.assert_close(other.step(batch)["loss"], system.step(batch)["loss"], rtol=0, atol=0)
