"""Runs of ours as files that `transformers` and timm load, through the verb."""

import pytest
import torch

import jepakit
from jepakit.errors import UserError
from jepakit.files import read_json, write_json

CLIPS = {
    "data": "bouncing-digits", "limit": 24, "labels": "none", "frames": 4, "image_size": (16, 16), "patch_size": 4,
    "predictor_dim": 24, "predictor_depth": 1, "masks": {"min_keep": 1}, "steps": 1, "batch_size": 8, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return jepakit.pretrain("v-jepa-2", out=tmp_path_factory.mktemp("run") / "clips", positions="tiled", **CLIPS).out


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "images"
    return jepakit.pretrain("i-jepa", data="digits", out=folder, limit=24, patch_size=2, steps=1, batch_size=8, threads=1).out


@pytest.mark.peer
@torch.no_grad()
def test_a_run_of_clips_in_transformers_and_back(clips, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = jepakit.load(clips)
    folder = jepakit.export(clips, out=tmp_path / "theirs", format="transformers")
    theirs = transformers.VJEPA2Model.from_pretrained(folder).eval()
    clip = torch.randn(2, 1, 4, 16, 16)
    expected = theirs(clip.transpose(1, 2), skip_predictor=True).last_hidden_state
    torch.testing.assert_close(ours(clip).values, expected, atol=1e-5, rtol=1e-5)
    back = jepakit.load(folder)
    assert back.licence is None  # it is ours
    assert (back.inputs.mean, back.inputs.std) == (ours.inputs.mean, ours.inputs.std)
    for part in ("encoder", "predictor"):
        state = getattr(back, part).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in getattr(ours, part).state_dict().items())
    jepakit.export(clips, out=folder, format="transformers")  # again, over itself
    with pytest.raises(UserError, match="export of another encoder"):
        jepakit.export(clips, out=folder)


@pytest.mark.peer
@torch.no_grad()
def test_a_run_of_images_in_transformers_and_back(images, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = jepakit.load(images)
    folder = jepakit.export(images, out=tmp_path / "theirs", format="transformers")
    theirs = transformers.IJepaModel.from_pretrained(folder).eval()
    picture = torch.randn(2, 1, *ours.inputs.image_size)
    torch.testing.assert_close(ours(picture).values, theirs(picture).last_hidden_state, atol=1e-5, rtol=1e-5)
    back = jepakit.load(folder)
    assert torch.equal(back(picture).values, ours(picture).values)
    assert back.inputs == ours.inputs


@pytest.mark.peer
@torch.no_grad()
def test_a_run_of_images_in_timm(images, tmp_path):
    timm = pytest.importorskip("timm")
    ours = jepakit.load(images)
    folder = jepakit.export(images, out=tmp_path / "theirs", format="timm")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    picture = torch.randn(2, 1, *ours.inputs.image_size)
    torch.testing.assert_close(ours(picture).values, theirs.forward_features(picture), atol=1e-5, rtol=1e-5)
    assert tuple(theirs.pretrained_cfg["mean"]) == ours.inputs.mean


def test_a_folder_of_timm_comes_back_whichever_way_its_config_says_it(images, tmp_path):
    """Ours; as timm 1.0 writes I-JEPA's, with a licence; and flat, as timm did before 0.9."""
    ours = jepakit.load(images)
    folder = jepakit.export(images, out=tmp_path / "theirs", format="timm")
    config = read_json(folder / "config.json")
    facts = config["pretrained_cfg"]
    assert (facts["input_size"], facts["license"]) == ([1, *ours.inputs.image_size], None)
    picture = torch.randn(2, 1, *ours.inputs.image_size)
    heads = {"architecture": "vit", "model_args": {"num_heads": config["model_args"]["num_heads"]}}
    back = jepakit.load(folder)
    assert (back.inputs, back.licence) == (ours.inputs, None)
    assert torch.equal(back(picture).values, ours(picture).values)
    write_json(folder / "config.json", {**heads, "pretrained_cfg": {**facts, "license": "cc-by-nc-4.0"}})
    back = jepakit.load(folder)
    assert (back.inputs, back.licence) == (ours.inputs, "cc-by-nc-4.0")
    write_json(folder / "config.json", {**heads, **facts})
    assert torch.equal(jepakit.load(folder)(picture).values, ours(picture).values)


def test_what_has_no_model_there(clips, images, tmp_path):
    with pytest.raises(UserError, match="encoders of images alone"):
        jepakit.export(clips, out=tmp_path / "a", format="timm")
    with pytest.raises(UserError, match="holds a run"):
        jepakit.export(images, out=images, format="transformers")
    with pytest.raises(UserError, match="safetensors"):
        jepakit.export(images, out=tmp_path / "b", format="safetensor")
    assert not (tmp_path / "a").exists()
