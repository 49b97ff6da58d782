"""The masked shape against a plain transcription, sample by sample and block by block."""

import copy

import pytest
import torch
from torch.nn import functional as F

from jepakit.core.anticollapse import SIGReg, SIGRegConfig
from jepakit.core.batch import split_batch
from jepakit.core.energies import Energy
from jepakit.core.masked import Masked, Stream
from jepakit.core.system import shuffled
from jepakit.core.targets import make_target
from jepakit.core.terms import AlignmentTerm, AntiCollapseTerm, VisibleTerm, nearness
from jepakit.errors import UserError
from jepakit.masks.blocks import MultiBlockConfig, multi_block
from jepakit.nn.coordinates import CoordinatesConfig
from jepakit.nn.mlp import projection_head
from jepakit.nn.positions import grid_positions
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids, Tokens
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.randomness import Draws

GRID = (4, 6)
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def build(target="ema", **options):
    """A small system with weights far from their start, the target's apart from the encoder's."""
    torch.manual_seed(0)
    encoder = VisionTransformer(ViTConfig(image_size=(16, 24), patch_size=4, channels=1, dim=16, depth=2, heads=2))
    width = 16 * len(options.get("levels") or (2,))
    dense = "streams" in options or any(term.reads_visible for term in options.get("terms", ()))
    heads = {"visible": dense, "condition_dim": options.pop("condition_dim", None)}
    predictor = MaskedPredictor(PredictorConfig(dim=12, depth=2, heads=3), width, GRID, **heads)
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
        contexts=contexts, targets=blocks, target_scale=(0.05, 0.3), context_scale=(0.4, 1.0), min_keep=2, predict="separate"
    )
    ids = list(range(samples)) if ids is None else ids
    masks = multi_block(config, GRID)(Draws(0, "masks", 0, ids))
    images = torch.randn(samples, 1, 16, 24, generator=torch.Generator().manual_seed(1))
    batch = {
        "inputs": images, "context": masks.context, "context_lengths": masks.context_lengths, "targets": masks.targets,
        "target_lengths": masks.target_lengths, "id": torch.tensor(ids), "step": torch.tensor(3),
    }  # fmt: skip
    assert len(masks.context_lengths.unique()) > 1
    assert len(masks.target_lengths.unique()) > 1
    return batch


def pick(batch, samples):
    return {name: value if value.ndim == 0 else value[samples] for name, value in batch.items()}


def own_blocks(batch):
    """The same batch where each context has blocks of its own: the first context of a sample the first, and so on."""
    assert batch["context"].shape[1] == batch["targets"].shape[1]
    return {**batch, "targets": batch["targets"][:, :, None], "target_lengths": batch["target_lengths"][:, :, None]}


def gradients(system, loss):
    """Gradients of a loss by name, and none left behind."""
    system.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None}
    system.zero_grad()
    return found


def transcribe(system, batch, partners=None):
    """Energies of every (sample, context, block) by itself, unpadded: a list of `[tokens]` for each sample."""
    partners = range(len(batch["inputs"])) if partners is None else partners.tolist()
    energies = []
    for i, partner in enumerate(partners):
        image, other = batch["inputs"][i : i + 1], batch["inputs"][partner : partner + 1]
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


@pytest.mark.parametrize("contexts", [1, 2])
def test_accumulated_pieces_add_up(contexts):
    """Loss and gradients of uneven pieces, each over the count of the whole step, add up to the whole batch's."""
    system, batch = build(), draw(contexts=contexts)
    whole = system.step(batch)["loss"]
    expected = gradients(system, whole)
    pieces = [pick(batch, [0]), pick(batch, [1, 2, 3]), pick(batch, [4])]
    total = sum(system.counts(piece)["prediction"] for piece in pieces)
    assert total == system.counts(batch)["prediction"] == contexts * int(batch["target_lengths"].sum())
    parts = [system.step({**piece, "counts": {"prediction": total}})["loss"] for piece in pieces]
    torch.testing.assert_close(sum(parts), whole, **EXACT)
    torch.testing.assert_close(gradients(system, sum(parts)), expected, **EXACT)


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
    context = system.encoder(batch["inputs"], keep=Ids(batch["context"][0, :, :n]))
    block = batch["targets"][0, :, :k]
    expected = system.predictor(context, Ids(block)) - Ids(block).gather(system.target(batch["inputs"]).values)
    torch.testing.assert_close(system.step(batch)["loss"], expected.abs().mean(), **EXACT)
    with pytest.raises(UserError, match="target_norm"):
        build(target_norm="layers")


def test_the_regulariser_sees_each_context_of_an_image_as_a_view():
    head = projection_head(16, (), 8)
    sigreg = SIGReg(SIGRegConfig(slices=8), seed=0)
    system, batch = build(terms=[AntiCollapseTerm(sigreg), AlignmentTerm(weight=0.5)], projector=head), draw(contexts=3)
    terms = system.step(batch)
    views = torch.empty(3, 5, 8)
    for i in range(5):
        for e in range(3):
            n = int(batch["context_lengths"][i, e])
            kept = Ids(batch["context"][i : i + 1, e, :n])
            views[e, i] = head(system.encoder(batch["inputs"][i : i + 1], keep=kept).values.mean(1))[0]
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
    system, images = build(), draw()["inputs"]
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


def densely(system, batch, weight, condition=None):
    """Sums of the energies of hidden tokens and of the weighted ones of visible tokens, and how many there are of each: every
    (sample, context) by itself, unpadded, its own blocks one after the other, level by level and token by token."""
    sums, counts = [0.0, 0.0], [0, 0]
    for i in range(len(batch["inputs"])):
        image = batch["inputs"][i : i + 1]
        levels = system.target(image, levels=system.levels).values.unbind(2)
        targets = torch.cat([F.layer_norm(level, (16,)) for level in levels], dim=-1)[0]
        for e, (kept, n) in enumerate(zip(batch["context"][i], batch["context_lengths"][i], strict=True)):
            seen = system.encoder(image, keep=Ids(kept[None, :n]), levels=system.levels)
            for block, k in zip(batch["targets"][i, e], batch["target_lengths"][i, e], strict=True):
                asked = {} if condition is None else {"condition": condition[i : i + 1]}
                hidden, visible = system.predictor(seen, Ids(block[None, :k]), visible=True, **asked)
                sums[0] = sums[0] + (hidden[0] - targets[block[:k]]).abs().mean(-1).sum()
                for place, token in enumerate(kept[:n].tolist()):
                    apart = min(
                        ((token // 6 - other // 6) ** 2 + (token % 6 - other % 6) ** 2) ** 0.5 for other in block[:k].tolist()
                    )
                    energy = (visible[0, place] - targets[token]).abs().mean()
                    sums[1] = sums[1] + weight / apart**0.5 * energy
                counts[0] += int(k)
                counts[1] += int(n)
    return sums, counts


@pytest.mark.parametrize("levels", [(2,), (1, 2)])
@pytest.mark.parametrize("progress", [0.0, 0.15, 1.0])
def test_the_dense_loss_is_a_plain_loop_over_levels_tokens_and_distances(levels, progress):
    system = build(levels=levels, energy=Energy(name="l1"), terms=[VisibleTerm(weight=0.5, ramp=(0.1, 0.2))])
    batch = {**own_blocks(draw(contexts=3)), "progress": torch.tensor(progress)}
    (hidden, visible), counts = densely(system, batch, {0.0: 0.0, 0.15: 0.25, 1.0: 0.5}[progress])
    terms = system.step(batch)
    assert set(terms) == {"loss", "prediction", "visible"}
    torch.testing.assert_close(terms["prediction"], hidden / counts[0], **EXACT)
    torch.testing.assert_close(terms["visible"], torch.as_tensor(visible / counts[1]), **EXACT)
    torch.testing.assert_close(terms["loss"], terms["prediction"] + terms["visible"], rtol=0, atol=1e-7)
    assert {name: int(count) for name, count in system.counts(batch).items()} == {
        "prediction": counts[0], "visible": counts[1],
    }  # fmt: skip


def test_one_level_is_no_levels():
    batch, plain, one = draw(contexts=2), build(), build(levels=(2,))
    torch.testing.assert_close(one.step(batch), plain.step(batch), **EXACT)
    torch.testing.assert_close(one.views(batch), plain.views(batch), **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(one.energy(batch, shuffled(5)), plain.energy(batch, shuffled(5)), **EXACT)
    several = build(levels=(1, 2))
    assert several.views(batch).shape == several.encode(batch["inputs"]).mean()[:, None].expand(-1, 2, -1).shape


def test_blocks_that_all_contexts_share_are_the_same_as_given_to_each():
    system, batch = build(), draw(contexts=2)
    spread = {name: batch[name][:, None].expand(-1, 2, *batch[name].shape[1:]) for name in ("targets", "target_lengths")}
    torch.testing.assert_close(system.step({**batch, **spread})["loss"], system.step(batch)["loss"], rtol=0, atol=0)
    assert system.counts({**batch, **spread}) == system.counts(batch)


def test_a_context_is_asked_for_its_own_blocks_only():
    system, batch = build(), draw(contexts=3)
    everything = transcribe(system, batch)  # for each sample context by context, in it block by block
    expected = []
    for i, energies in enumerate(everything):
        lengths = batch["target_lengths"][i].tolist()
        expected += [energies.split(lengths * 3)[4 * e] for e in range(3)]
    torch.testing.assert_close(system.step(own_blocks(batch))["loss"], torch.cat(expected).mean(), **EXACT)


def test_a_condition_reaches_the_predictor():
    system = build(condition_dim=2, levels=(2,), energy=Energy(name="l1"), terms=[VisibleTerm(ramp=(0, 0))])
    batch = {**own_blocks(draw(contexts=3)), "progress": torch.tensor(0.0), "condition": torch.randn(5, 2)}
    (hidden, _), counts = densely(system, batch, 0.5, batch["condition"])
    torch.testing.assert_close(system.step(batch)["prediction"], hidden / counts[0], **EXACT)
    other = system.step({**batch, "condition": -batch["condition"]})["prediction"]
    assert (other - hidden / counts[0]).abs() > 1e-3


def test_nearness():
    visible = torch.tensor([[[0, 0, 0], [0, 3, 0], [1, 1, 1]]]).expand(2, -1, -1)
    hidden = torch.tensor([[[0, 0, 1], [4, 3, 0], [0, 0, 0]]]).expand(2, -1, -1)
    valid = torch.tensor([[True, True, False], [False, True, False]])
    apart = torch.tensor([[1.0, 10**0.5, 2**0.5], [5.0, 4.0, 14**0.5]])  # 14: (3, 2, 1)
    torch.testing.assert_close(nearness(visible, hidden, valid), apart**-0.5)


def test_the_ramp():
    ramp = VisibleTerm(weight=2.0, ramp=(0.25, 0.75))
    assert [float(ramp.at(torch.tensor(at))) for at in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.0, 1.0, 2.0, 2.0]
    assert float(VisibleTerm(weight=2.0, ramp=(0.0, 0.0)).at(torch.tensor(0.0))) == 2.0
    step = VisibleTerm(weight=2.0, ramp=(0.5, 0.5))
    assert [float(step.at(torch.tensor(at))) for at in (0.49, 0.5)] == [0.0, 2.0]
    for bad in ((0.5, 0.2), (-0.1, 0.2), (0.5, 1.5)):
        with pytest.raises(UserError, match=r"visible.ramp"):
            VisibleTerm(ramp=bad)
    with pytest.raises(UserError, match=r"visible.weight"):
        VisibleTerm(weight=-1.0)


STREAMS = {
    "still": Stream(terms=[VisibleTerm(weight=0.5, ramp=(0.0, 0.0))]),
    "other": Stream(weight=0.3, terms=[VisibleTerm(weight=0.7, ramp=(0.0, 0.4))]),
    "third": Stream(weight=2.0),
}


def streams_of(**sizes):
    parts = {name: draw(samples=7, contexts=2, ids=range(100 * i, 100 * i + 7)) for i, name in enumerate(sizes)}
    return {
        **{name: {k: v for k, v in pick(part, range(sizes[name])).items() if k != "step"} for name, part in parts.items()},
        "step": torch.tensor(3),
        "progress": torch.tensor(0.2),
    }  # fmt: skip


def test_a_step_is_the_weighted_sum_of_its_streams():
    system, batch = build(streams=STREAMS), streams_of(still=5, other=2, third=3)
    terms = system.step(batch)
    assert set(terms) == {
        "loss", "still/prediction", "still/visible", "other/prediction", "other/visible", "third/prediction",
    }  # fmt: skip
    loss = 0.0
    for name, stream in STREAMS.items():
        alone = build(terms=stream.terms or [VisibleTerm(weight=0.0)])
        found = alone.step({**batch[name], "step": batch["step"], "progress": batch["progress"]})
        loss = loss + stream.weight * found["loss"]
        for term in ("prediction", "visible"):
            if f"{name}/{term}" in terms:
                torch.testing.assert_close(terms[f"{name}/{term}"], found[term], **EXACT)
    torch.testing.assert_close(terms["loss"], loss, **EXACT)


def test_a_stream_without_samples_adds_nothing_and_leaves_no_parameter_out():
    system, batch = build(streams=STREAMS), streams_of(still=3, other=0, third=0)
    terms = system.step(batch)
    assert [terms[name].item() for name in ("other/prediction", "other/visible", "third/prediction")] == [0, 0, 0]
    torch.testing.assert_close(terms["loss"], terms["still/prediction"] + terms["still/visible"])
    found = gradients(system, terms["loss"])
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    empty = streams_of(still=0, other=0, third=0)
    found = gradients(system, system.step(empty)["loss"])  # as on a process that has no sample: it takes part all the same
    trained = {name for name, p in system.named_parameters() if p.requires_grad}
    assert set(found) == trained
    assert all(not gradient.any() for gradient in found.values())


def test_accumulated_pieces_of_streams_add_up():
    """Cut as the trainer cuts, into more pieces than a stream has samples."""
    system, batch = build(streams=STREAMS), streams_of(still=7, other=2, third=3)
    whole = system.step(batch)
    expected, counts = gradients(system, whole["loss"]), system.counts(batch)
    parts = [system.step({**piece, "counts": counts}) for piece in split_batch(batch, 4)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, **EXACT)
    torch.testing.assert_close(gradients(system, sum(part["loss"] for part in parts)), expected, **EXACT)


@torch.no_grad()
def test_views_and_energy_are_the_main_streams():
    system, batch = build(streams=STREAMS), streams_of(still=5, other=2, third=3)
    torch.testing.assert_close(system.views(batch), system.views(batch["still"]), rtol=0, atol=0)
    torch.testing.assert_close(system.energy(batch, shuffled(5)), system.energy(batch["still"], shuffled(5)), rtol=0, atol=0)


def test_streams_and_what_belongs_to_each():
    with pytest.raises(UserError, match="terms belong to each stream"):
        build(streams=STREAMS, terms=[VisibleTerm()])


@pytest.mark.parametrize("levels", [None, (1, 2)])
def test_a_target_may_see_only_what_is_asked_for(levels):
    """Block by block, by hand: the target encodes the block's tokens and nothing else."""
    system, batch = build(target_sees="asked", levels=levels), draw(contexts=2)
    whole = build(levels=levels)
    energies = []
    for i in range(5):
        for e, kept in enumerate(batch["context"][i]):
            context = Ids(kept[None, : batch["context_lengths"][i, e]])
            asked = {} if levels is None else {"levels": levels}
            seen = system.encoder(batch["inputs"][i : i + 1], keep=context, **asked)
            for block, count in zip(batch["targets"][i], batch["target_lengths"][i], strict=True):
                ids = Ids(block[None, :count])
                targets = system.target(batch["inputs"][i : i + 1], keep=ids, **asked).values
                targets = torch.nn.functional.layer_norm(targets, targets.shape[-1:]).flatten(2)
                energies += system.measure(system.predictor(seen, ids), targets)[0].tolist()
    loss = system.step(batch)["loss"]
    torch.testing.assert_close(loss.item(), sum(energies) / len(energies), **EXACT)
    assert abs(loss.item() - whole.step(batch)["loss"].item()) > 1e-4
    with pytest.raises(UserError, match="leave target_sees at 'all'"):
        build(target_sees="asked", terms=[VisibleTerm()])


def test_with_ids_of_their_own_a_pair_asks_for_the_partners_targets():
    batch = draw()
    partners = shuffled(5)
    energy = build(own_ids=True).energy(batch, partners)
    for i, partner in enumerate(partners.tolist()):
        # Context of sample i; hidden positions and their embeddings of its partner.
        system = build()
        one, other = pick(batch, [i]), pick(batch, [partner])
        seen = system.encoder(one["inputs"], keep=Ids(one["context"][0, :, : one["context_lengths"][0, 0]]))
        targets = torch.nn.functional.layer_norm(system.target(other["inputs"]).values, (16,))
        per_token = []
        for block, count in zip(other["targets"][0], other["target_lengths"][0], strict=True):
            ids = Ids(block[None, :count])
            per_token += system.measure(system.predictor(seen, ids), ids.gather(targets))[0].tolist()
        torch.testing.assert_close(energy[i].item(), sum(per_token) / len(per_token), **EXACT)
    matching = torch.arange(5)
    torch.testing.assert_close(build(own_ids=True).energy(batch, matching), build().energy(batch, matching))


@pytest.mark.parametrize("sees", ["all", "asked"])
def test_the_predictor_receives_the_positions_of_all_tokens(sees):
    """Those of the targets, where these are of all tokens; the batch's go before."""
    system, batch, received = build(target_sees=sees), draw(contexts=2), []
    system.predictor.register_forward_pre_hook(lambda _, args, options: received.append(options["positions"]), with_kwargs=True)
    system.step(batch)
    if sees == "all":
        assert torch.equal(received[-1], system.target(batch["inputs"]).positions)
    else:
        assert received[-1] is None
    turned = grid_positions(GRID).flip(0).expand(5, -1, -1)
    moved = system.step({**batch, "positions": turned})
    assert received[-1] is turned
    assert (moved["loss"] - system.step(batch)["loss"]).abs() > 1e-3


@torch.no_grad()
def test_with_ids_of_their_own_a_pair_asks_at_the_partners_coordinates():
    coordinates, partners = CoordinatesConfig(axes=3, unit=2.0), shuffled(5)
    batch = {**draw(), "positions": torch.randn(5, 24, 3, generator=torch.Generator().manual_seed(4))}

    class Placed(VisionTransformer):
        """Tokens at the coordinates of the batch, which come with the images."""

        def forward(self, images, keep=None, levels=None):
            tokens = super().forward(images["pixels"], keep, levels)
            places = images["places"] if keep is None else keep.gather(images["places"])
            return Tokens(tokens.values, places, tokens.lengths)

    torch.manual_seed(0)
    encoder = Placed(ViTConfig(image_size=(16, 24), patch_size=4, channels=1, dim=16, depth=1, heads=2))
    predictor = MaskedPredictor(PredictorConfig(dim=12, depth=1, heads=3), 16, (), coordinates=coordinates)
    system = Masked(encoder, predictor, make_target("ema", encoder), Energy(), own_ids=True)
    inputs = {"pixels": batch["inputs"], "places": batch["positions"]}
    placed = {**batch, "inputs": inputs}
    unplaced = {name: part for name, part in placed.items() if name != "positions"}  # the targets are at the same places
    energy = system.energy(placed, partners)
    torch.testing.assert_close(system.energy(unplaced, partners), energy, rtol=0, atol=0)
    torch.testing.assert_close(system.step(unplaced)["loss"], system.step(placed)["loss"], rtol=0, atol=0)
    for i, partner in enumerate(partners.tolist()):
        ours, theirs = ({name: part[[row]] for name, part in inputs.items()} for row in (i, partner))
        seen = encoder(ours, keep=Ids(batch["context"][i, :, : batch["context_lengths"][i, 0]]))
        targets, per_token = F.layer_norm(system.target(theirs).values, (16,)), []
        for block, count in zip(batch["targets"][partner], batch["target_lengths"][partner], strict=True):
            ids = Ids(block[None, :count])
            predictions = predictor(seen, ids, positions=theirs["places"])
            per_token += system.measure(predictions, ids.gather(targets))[0].tolist()
        torch.testing.assert_close(energy[i].item(), sum(per_token) / len(per_token), **EXACT)
