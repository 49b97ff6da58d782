"""V-JEPA and V-JEPA 2: the loss of a plain loop, whose mask token asks, sizes, and what goes into `transformers`."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import jepakit
from jepakit.errors import UserError
from jepakit.interop.released.hugging_face import write_transformers
from jepakit.interop.runs import Run
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.nn.tokens import Ids
from jepakit.systems.v_jepa import VJEPA, VJEPAConfig
from jepakit.systems.v_jepa_2 import VJEPA2, VJEPA2Config

INPUTS = VideoInputs(frames=4, image_size=(16, 16), channels=1, mean=(0.4,), std=(0.3,))
STILLS = replace(INPUTS, stills=True)
EXACT = {"atol": 1e-5, "rtol": 1e-5}
SMALL = {"patch_size": 4, "predictor_dim": 24, "predictor_depth": 1}


def build(kind=VJEPA, inputs=INPUTS, **options):
    torch.manual_seed(0)
    config = {VJEPA: VJEPAConfig, VJEPA2: VJEPA2Config}[kind](**{**SMALL, **options})
    system = kind(config, inputs)
    with torch.no_grad():  # the target's weights apart from the encoder's, mask tokens apart from each other
        for name, parameter in system.named_parameters():
            if "pos_embed" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return system


def samples(clips=range(3), stills=(), epoch=0):
    def sample(i, frames, **more):
        clip = torch.rand(frames, 1, 16, 16, generator=torch.Generator().manual_seed(100 * frames + i))
        return {"clip": clip, "id": i, "epoch": epoch, "step": 4, "progress": 0.5, **more}

    return [sample(i, 4) for i in clips] + [sample(i, 1, stream="image") for i in stills]


@pytest.mark.parametrize("kind", [VJEPA, VJEPA2])
def test_the_loss_is_that_of_a_plain_loop(kind):
    """Clip by clip and mask by mask: the mean of L1 over hidden tokens, each kind of mask asked for by its own token."""
    system = build(kind, masks=TubeConfig(min_keep=1))
    batch = system.collator(0)(samples())
    total, count = 0.0, 0
    for i in range(3):
        clip = batch["inputs"][i : i + 1]
        targets = F.layer_norm(system.target.average(clip).values[0], (128,))
        for mask in range(2):
            kept = batch["context"][i, mask, : batch["context_lengths"][i, mask]]
            asked = batch["targets"][i, mask, 0, : batch["target_lengths"][i, mask, 0]]
            context = system.encoder(clip, keep=Ids(kept[None]))
            predicted = system.predictor(context, Ids(asked[None]), kind=mask)[0]
            total, count = total + (predicted - targets[asked]).abs().mean(-1).sum(), count + len(asked)
    terms = system.step(batch)
    assert set(terms) == {"loss", "prediction"}
    torch.testing.assert_close(terms["loss"], total / count, **EXACT)


@pytest.mark.parametrize("kind", [VJEPA, VJEPA2])
def test_each_mask_token_learns_from_its_kind_of_mask(kind):
    system = build(kind, masks=TubeConfig(min_keep=1))
    assert system.predictor.mask_token.shape == (2, 1, 24)
    batch = system.collator(0)(samples())
    for mask in range(2):
        only = {**batch, "target_lengths": batch["target_lengths"].clone()}
        only["target_lengths"][:, 1 - mask] = 0
        system.zero_grad()
        system.step(only)["loss"].backward()
        grown = system.predictor.mask_token.grad.flatten(1).any(1).tolist()
        assert grown == [mask == 0, mask == 1]
    assert build(kind, masks=TubeConfig(short_blocks=0)).predictor.mask_token.shape[0] == 1


def test_pictures_are_clips_of_one_tubelet_in_which_nothing_moves():
    system = build(VJEPA2, STILLS, image_weight=0.4)
    batch = system.collator(0)(samples(stills=range(2)))
    assert batch["image"]["inputs"].shape == (2, 1, 2, 16, 16)
    assert torch.equal(batch["image"]["inputs"][:, :, 0], batch["image"]["inputs"][:, :, 1])
    assert "condition" not in batch["video"]
    terms = system.step(batch)
    torch.testing.assert_close(terms["loss"], terms["video/prediction"] + 0.4 * terms["image/prediction"], **EXACT)
    alone = system.step(system.collator(0)(samples()))
    torch.testing.assert_close(alone["video/prediction"], terms["video/prediction"], **EXACT)
    assert system.encode(INPUTS.prepare(samples(clips=[], stills=[0])).expand(-1, -1, 2, -1, -1)).values.shape == (1, 16, 128)
    with pytest.raises(UserError, match="v-jepa learns from clips alone"):
        build(VJEPA, STILLS)


def test_clips_of_any_size_and_positions_that_are_relative():
    """With right rotations a shift in time of everything is seen by nobody; V-JEPA's fixed positions tell."""
    system, clip = build(VJEPA2), torch.randn(2, 1, 8, 24, 16)
    tokens = system.encoder(clip)
    assert tokens.values.shape == (2, 4 * 6 * 4, 128)
    late = system.encoder(clip[:, :, 2:], keep=None).values
    kept = Ids(torch.arange(24, 96).expand(2, -1))
    torch.testing.assert_close(system.encoder(clip, keep=kept).values, late, atol=2e-5, rtol=2e-5)
    assert (build(VJEPA2, positions="tiled").encoder(clip, keep=kept).values - late).abs().max() > 1e-3
    with pytest.raises(UserError, match="16 x 16"):
        build().encoder(clip)


def test_a_ragged_batch_equals_each_clip_alone():
    system = build(VJEPA2, masks=TubeConfig(min_keep=1, short_blocks=4))
    collate = system.collator(0)
    batch = collate(samples(range(4)))
    assert len(batch["context_lengths"].unique()) > 2
    counts = system.counts(batch)
    parts = [system.step({**collate(samples([i])), "counts": counts})["loss"] for i in range(4)]
    torch.testing.assert_close(sum(parts), system.step(batch)["loss"], **EXACT)


def test_momentum():
    assert [build(ema=0.9, ema_end=1.0).after_step(share)["ema"] for share in (0.0, 0.5)] == [0.9, pytest.approx(0.95)]
    assert [build(VJEPA2, ema=0.9).after_step(share)["ema"] for share in (0.0, 0.5)] == [0.9, 0.9]


@pytest.mark.peer
@torch.no_grad()
def test_what_was_trained_goes_into_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    system = build(VJEPA2, positions="tiled").eval()
    write_transformers(tmp_path, system.target.encoder, system.predictor)
    theirs, report = transformers.VJEPA2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    clip = torch.randn(2, 1, 4, 16, 16)
    expected = theirs.eval()(clip.transpose(1, 2), skip_predictor=True).last_hidden_state
    torch.testing.assert_close(system.encode(clip).values, expected, **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": "nanno"}, "Did you mean 'nano'"), ({"ema_end": 1.5}, "ema_end must be"), ({"tubelet": 3}, "tubelets of 3")],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_a_training_cools_down_on_more_frames_and_pixels(tmp_path):
    small = {
        "data": "bouncing-digits", "labels": "none", "limit": 16, "patch_size": 4, "predictor_dim": 24, "predictor_depth": 1,
        "steps": 1, "batch_size": 4, "threads": 1,
    }  # fmt: skip
    jepakit.pretrain("v-jepa-2", out=tmp_path / "long", frames=4, image_size=(16, 16), **small)
    larger = {"frames": 8, "image_size": (24, 24), "schedule": "linear", "lr": 0.0, "weight_decay": 0.0, "ema": 1.0}
    jepakit.pretrain("v-jepa-2", out=tmp_path / "cooled", init=tmp_path / "long", **{**small, **larger})
    first, last = (Run(tmp_path / name).system for name in ("long", "cooled"))
    for (name, one), other in zip(first.state_dict().items(), last.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)  # predictor and average come along
    assert (first.grids["video"], last.grids["video"]) == ((2, 4, 4), (4, 6, 6))
    with pytest.raises(UserError, match="pos_embed"):
        jepakit.pretrain("v-jepa", out=tmp_path / "other", init=tmp_path / "long", **{**small, "frames": 8})
