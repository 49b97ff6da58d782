import pickle
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from jepakit.core.terms import VisibleTerm
from jepakit.errors import UserError
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.nn.tokens import Ids
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.systems.v_jepa_2_1 import VJEPA21, VJEPA21Config

INPUTS = VideoInputs(frames=4, image_size=(16, 16), channels=1, mean=(0.4,), std=(0.3,), stills=True)
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def build(seed=0, inputs=INPUTS, **options):
    torch.manual_seed(seed)
    options = {"patch_size": 4, "predictor_dim": 24, "predictor_depth": 1, **options}
    return VJEPA21(VJEPA21Config(**options), inputs, seed)


def samples(clips=range(3), stills=range(3), epoch=0, progress=0.15):
    """Clips and still pictures, with ids that overlap."""

    def sample(i, frames, **more):
        clip = torch.rand(frames, 1, 16, 16, generator=torch.Generator().manual_seed(100 * frames + i))
        return {"clip": clip, "id": i, "epoch": epoch, "step": 4, "progress": progress, **more}

    return [sample(i, 4, label=i % 2) for i in clips] + [sample(i, 1, stream="image") for i in stills]


def moved(system):
    """The system with weights away from their start, the target's apart from the encoder's."""
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            if "pos_embed" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return system


def with_gradient(system, loss):
    system.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in system.named_parameters() if p.grad is not None and p.grad.any()}
    system.zero_grad()
    return found


def ids_of(batch, place, mask):
    kept, n = batch["context"][place, mask], batch["context_lengths"][place, mask]
    asked, k = batch["targets"][place, mask, 0], batch["target_lengths"][place, mask, 0]
    return kept[:n].tolist(), asked[:k].tolist()


def test_the_batch_it_draws():
    batch = build().collator(0)(samples())
    assert set(batch) == {"video", "image", "step", "progress"}
    assert (int(batch["step"]), float(batch["progress"])) == (4, pytest.approx(0.15))
    video, image = batch["video"], batch["image"]
    assert video["inputs"].shape == (3, 1, 4, 16, 16)
    assert image["inputs"].shape == (3, 1, 1, 16, 16)
    torch.testing.assert_close(video["inputs"][1, :, 2] * 0.3 + 0.4, samples()[1]["clip"][2], **EXACT)
    assert video["condition"].tolist() == [[1, 0]] * 3
    assert image["condition"].tolist() == [[0, 1]] * 3
    assert video["label"].tolist() == [0, 1, 0]
    assert "label" not in image
    for stream, tokens in ((video, 32), (image, 16)):
        for place in range(3):
            for mask in range(2):
                kept, asked = ids_of(stream, place, mask)
                assert sorted(kept + asked) == list(range(tokens))
    views = build().collator(0, views=3)(samples(stills=[]))
    assert views["context"].shape[:2] == (3, 3)
    assert views["id"].tolist() == [0, 1, 2]


def test_masks_are_a_function_of_seed_epoch_stream_and_id_and_survive_pickling():
    collate = pickle.loads(pickle.dumps(build().collator(0)))
    everything, few = collate(samples()), collate(samples([2], [1, 0]))
    for stream, places in (("video", [2]), ("image", [1, 0])):
        for place, sample in enumerate(places):
            for mask in range(2):
                assert ids_of(few[stream], place, mask) == ids_of(everything[stream], sample, mask)

    def masks(batch, stream):
        return [ids_of(batch[stream], i, mask)[0][:4] for i in range(3) for mask in range(2)]

    assert masks(collate(samples(epoch=1)), "video") != masks(everything, "video")
    assert masks(build().collator(1)(samples()), "video") != masks(everything, "video")
    assert masks(everything, "image") != masks(everything, "video")


def test_larger_clips_at_positions_that_were_trained():
    """With positions stretched to those of the training, corners of any picture are where its corners were."""
    system, larger = moved(build(stretch=(4, 4))), torch.randn(1, 1, 4, 32, 32)
    seen = []
    hook = system.encoder.blocks[0].attn.register_forward_pre_hook(lambda module, given: seen.append(given[2]))
    assert system.encoder(larger).values.shape == (1, 2 * 8 * 8, 128)
    system.encoder(larger[..., :16, :16])
    hook.remove()
    corners = [[0, 7, 56, 63], [0, 3, 12, 15]]
    torch.testing.assert_close(*(angles[0, ids] for angles, ids in zip(seen, corners, strict=True)), **EXACT)
    with pytest.raises(UserError, match="stretch is of rotary positions"):
        build(positions="sincos", stretch=(4, 4))
    with pytest.raises(UserError, match="16 x 16"):
        build(positions="sincos").encoder(larger)


@pytest.mark.parametrize("progress", [0.0, 0.165, 0.6])
def test_the_loss_is_that_of_a_plain_loop(progress):
    """Level by level and token by token, from the four facts of the paper: L1, two heads, levels, distances."""
    system = moved(build(masks=TubeConfig(min_keep=1)))
    batch = system.collator(0)(samples(range(2), range(2), progress=progress))
    share = {0.0: 0.0, 0.165: 0.5, 0.6: 1.0}[progress]
    terms = system.step(batch)
    for name, side, weight in (("video", 2, 0.5), ("image", 1, 0.7)):
        part, hidden_sum, visible_sum, hidden_count, visible_count = batch[name], 0.0, 0.0, 0, 0
        for i in range(2):
            clip = part["inputs"][i : i + 1]
            levels = system.target.average(clip, levels=(2, 4)).values[0]
            targets = torch.cat([F.layer_norm(levels[:, level], (128,)) for level in range(2)], dim=-1)
            for mask in range(2):
                kept, asked = ids_of(part, i, mask)
                context = system.encoder(clip, keep=Ids(torch.tensor([kept])), levels=(2, 4))
                condition = {"condition": part["condition"][i : i + 1], "kind": mask}
                hidden, visible = system.predictor(context, Ids(torch.tensor([asked])), visible=True, **condition)
                hidden_sum = hidden_sum + (hidden[0] - targets[asked]).abs().mean(-1).sum()
                for place, token in enumerate(kept):
                    # tubes hide a place in every frame: the nearest hidden token is in the same frame
                    here = [other for other in asked if other // 16 == token // 16]
                    apart = min((token // 4 - o // 4) ** 2 + (token % 4 - o % 4) ** 2 for o in here) ** 0.5
                    factor = share * weight / apart**0.5
                    visible_sum = visible_sum + factor * (visible[0, place] - targets[token]).abs().mean()
                hidden_count, visible_count = hidden_count + len(asked), visible_count + len(kept)
        assert hidden_count + visible_count == 2 * 2 * 16 * side
        torch.testing.assert_close(terms[f"{name}/prediction"], hidden_sum / hidden_count, **EXACT)
        torch.testing.assert_close(terms[f"{name}/visible"], torch.as_tensor(visible_sum / visible_count), **EXACT)
    expected = sum(value for name, value in terms.items() if name != "loss")
    torch.testing.assert_close(terms["loss"], expected, **EXACT)


def test_a_step_is_the_sum_of_its_streams():
    system = moved(build(image_weight=0.4))
    collate = system.collator(0)
    both = system.step(collate(samples()))
    clips, stills = system.step(collate(samples(stills=[]))), system.step(collate(samples(clips=[])))
    torch.testing.assert_close(both["loss"], clips["loss"] + stills["loss"], **EXACT)
    image = both["image/prediction"] + both["image/visible"]
    torch.testing.assert_close(stills["loss"], 0.4 * image, **EXACT)
    torch.testing.assert_close(both["video/prediction"], clips["video/prediction"], **EXACT)
    assert float(clips["image/prediction"].detach()) == 0


def test_each_patchifier_learns_from_its_own_kind_only():
    system = moved(build())
    collate = system.collator(0)
    own = {
        "image": {"encoder.patch_embed_img.proj.weight", "encoder.patch_embed_img.proj.bias", "encoder.img_mod_embed"},
        "video": {"encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias", "encoder.video_mod_embed"},
    }
    from_clips = with_gradient(system, system.step(collate(samples(stills=[])))["loss"])
    from_stills = with_gradient(system, system.step(collate(samples(clips=[])))["loss"])
    assert own["video"] <= set(from_clips)
    assert own["image"] <= set(from_stills)
    assert not own["image"] & set(from_clips)
    assert not own["video"] & set(from_stills)
    embedding = "predictor.condition_embed.weight"  # a column for each kind
    assert from_clips[embedding][:, 0].any()
    assert not from_clips[embedding][:, 1].any()
    assert from_stills[embedding][:, 1].any()
    assert not from_stills[embedding][:, 0].any()


def test_a_process_without_stills_takes_part_with_all_parameters():
    system = build()
    system.step(system.collator(0)(samples(stills=[])))["loss"].backward()
    assert not [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]


def test_clips_alone():
    system = build(inputs=replace(INPUTS, stills=False))
    terms = system.step(system.collator(0)(samples(stills=[])))
    assert set(terms) == {"loss", "prediction", "visible"}
    assert not [name for name in system.state_dict() if "img" in name or "condition" in name]


def test_without_the_visible_loss_there_is_no_head_for_it():
    system = build(visible=VisibleTerm(weight=0.0), image_visible=0.0)
    terms = system.step(system.collator(0)(samples()))
    assert set(terms) == {"loss", "video/prediction", "image/prediction"}
    assert not [name for name in system.state_dict() if "proj_context" in name]


def test_levels():
    assert build().levels == (2, 4)
    assert build(levels=4).levels == (1, 2, 3, 4)
    one = moved(build(levels=1))
    assert one.levels == (4,)
    batch = one.collator(0)(samples())
    with torch.no_grad():
        several = one.step(batch)["loss"]
        one.levels = None  # the encoder's output, without any talk of levels
        torch.testing.assert_close(one.step(batch)["loss"], several, rtol=0, atol=0)
    with pytest.raises(UserError, match="at most the encoder's depth 4"):
        build(levels=5)


def test_a_ragged_batch_equals_each_sample_alone():
    system = moved(build(masks=TubeConfig(min_keep=1, short_blocks=4)))
    collate = system.collator(0)
    batch = collate(samples(range(4), range(4)))
    assert len(batch["video"]["context_lengths"].unique()) > 2
    counts, terms = system.counts(batch), system.step(batch)
    expected = with_gradient(system, terms["loss"])
    parts = [system.step({**collate(samples([i], [3 - i])), "counts": counts}) for i in range(4)]
    for name, value in terms.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, **EXACT)
    torch.testing.assert_close(with_gradient(system, sum(part["loss"] for part in parts)), expected, **EXACT)


def test_the_average_keeps_its_momentum():
    system = moved(build(ema=0.9))
    before, encoder = system.target.average.norms_block[1].bias.clone(), system.encoder.norms_block[1].bias
    for progress in (0.0, 1.0):
        assert system.after_step(progress) == {"ema": 0.9}
    torch.testing.assert_close(system.target.average.norms_block[1].bias, 0.81 * before + 0.19 * encoder, **EXACT)


def test_what_is_evaluated():
    system = moved(build())
    clips, stills = (INPUTS.prepare(samples(clips, stills)) for clips, stills in (([0, 1], []), ([], [0, 1])))
    torch.testing.assert_close(system.encode(clips).values, system.target.average(clips, levels=(4,)).values[:, :, 0])
    assert system.encode(stills).values.shape == (2, 16, 128)
    pairs = system.collator(0, views=2)(samples(stills=[]))
    assert system.views(pairs).shape == (3, 2, 128)
    with torch.no_grad():
        matching, other = (system.energy(pairs, torch.tensor(order)) for order in ([0, 1, 2], [1, 2, 0]))
    assert (matching != other).all()


def test_it_learns_to_predict_a_fixed_batch():
    system = build(ema=1.0)
    batch = system.collator(0)(samples(progress=1.0))
    optimizer = torch.optim.AdamW([p for g in system.parameter_groups() for p in g["params"]], lr=3e-3)
    history = []
    for _ in range(30):
        terms = system.step(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        history.append({name: value.item() for name, value in terms.items()})
    for name in ("video/prediction", "video/visible", "image/prediction", "image/visible"):
        assert history[-1][name] < 0.8 * history[0][name]  # clips of noise: only what position tells


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "nanno"}, "Did you mean 'nano'"),
        ({"ema": 1.5}, "ema must be"),
        ({"image_weight": -1.0}, "image_weight"),
        ({"image_visible": -1.0}, "image_visible"),
        ({"tubelet": 3}, "cannot be cut into tubelets of 3"),
        ({"patch_size": 8, "masks": TubeConfig(long_blocks=50)}, "leave no context"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options).collator(0)(samples())


class Teacher(torch.nn.Module):
    """A pretrained encoder, as `--encoder` brings it."""

    def __init__(self, encoder, inputs):
        super().__init__()
        self.encoder, self.inputs = encoder, inputs


def test_distillation_predicts_the_last_level_of_a_frozen_teacher_in_its_own_scale():
    alone = replace(INPUTS, stills=False)
    theirs = replace(alone, mean=(0.1,), std=(0.7,))
    torch.manual_seed(3)
    shape = VideoTransformerConfig(
        frames=8, image_size=(24, 24), patch_size=4, channels=1, dim=48, depth=2, heads=3, positions="paired"
    )
    teacher = Teacher(VideoTransformer(shape), theirs)
    torch.manual_seed(0)
    config = VJEPA21Config(patch_size=4, predictor_dim=24, predictor_depth=1, encoder="teacher")
    system = VJEPA21(config, alone, 0, encoder=teacher)
    batch = system.collator(0)(samples(stills=()))
    inputs = batch["inputs"]
    with torch.no_grad():
        seen = ((inputs * 0.3 + 0.4) - 0.1) / 0.7
        wanted = F.layer_norm(teacher.encoder(seen).values, (48,))
        context = system.encoder(inputs[:1], keep=Ids(batch["context"][:1, 0, : batch["context_lengths"][0, 0]]))
        asked = batch["targets"][:1, 0, 0, : batch["target_lengths"][0, 0, 0]]
        predicted = system.predictor(context, Ids(asked))
        first = ("context", "context_lengths", "targets", "target_lengths")
        one = {name: batch[name][:1, :1] for name in first}
        found = system.energy({**batch, "inputs": inputs[:1], **one}, torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(found[0], (predicted - wanted[0, asked[0]]).abs().mean(), **EXACT)
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    assert set(system.step(batch)) == {"loss", "prediction", "visible"}
    system.step(batch)["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert system.encoder.patch_embed.proj.weight.grad.abs().sum() > 0
    assert system.after_step(0.5) == {}
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    torch.testing.assert_close(system.encode(inputs).values, system.encoder(inputs).values)  # the student is what was made
    with pytest.raises(UserError, match="levels 2: a teacher"):
        VJEPA21Config(encoder="teacher", levels=2)
    with pytest.raises(UserError, match=r"trained on clips alone. Leave stills out: --stills none"):
        VJEPA21(config, INPUTS, 0, encoder=teacher)
    with pytest.raises(UserError, match="clips of 1 channels, this run has 3"):
        VJEPA21(config, replace(alone, channels=3, mean=(0.4,) * 3, std=(0.3,) * 3), 0, encoder=teacher)
    with pytest.raises(UserError, match=r"has 2 x 4 x 4 tokens a clip, this run has 2 x 2 x 2.*--patch-size 4"):
        VJEPA21(replace(config, patch_size=8), alone, 0, encoder=teacher)
