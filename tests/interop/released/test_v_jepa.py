"""V-JEPA's checkpoints in the released layouts, and the released code's and `transformers`' numbers: nothing is downloaded."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.load import load
from jepakit.interop.released.checkpoints import variant_of
from jepakit.interop.released.hugging_face import write_transformers
from jepakit.interop.released.load import load_released
from jepakit.interop.released.v_jepa import AC_PARTS, video_encoder, video_predictor
from jepakit.nn.block_causal_predictor import BlockCausalPredictor, BlockCausalPredictorConfig
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig

# Computed by facebookresearch/vjepa2 (MIT), commit c2963a4, at random weights.
FIXTURES = Path(__file__).parents[2] / "fixtures"
EXACT = {"atol": 1e-5, "rtol": 1e-5}
SHAPE = VideoTransformerConfig(frames=16, image_size=(32, 32), patch_size=8, dim=192, depth=1, heads=3)


@pytest.mark.parametrize(("file", "variant"), [("vjepa2_rope", "v-jepa-2"), ("vjepa1_sincos", "v-jepa")])
@torch.no_grad()
def test_agrees_with_the_released_encoder_and_predictor(file, variant):
    tensors = load_file(FIXTURES / f"{file}.safetensors")
    parts = {}
    for part in ("encoder", "predictor"):
        start = f"{part}.module.backbone."
        parts[part] = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
    path = Path(file)
    if variant == "v-jepa":  # of 16 frames when released; the fixture has 8
        config = replace(SHAPE, frames=8, dim=64, depth=2, heads=2)
        encoder = VideoTransformer(config)
        encoder.load_state_dict(parts["encoder"])
    else:
        encoder = video_encoder(parts["encoder"], variant, path, heads=2)
        encoder.config = replace(encoder.config, frames=8, image_size=(32, 32))  # which no file of V-JEPA 2 tells
    predictor = video_predictor(parts["predictor"], variant, encoder, path, heads=2)
    video, kept, asked = (tensors[f"input.{name}"] for name in ("video", "context_ids", "target_ids"))
    torch.testing.assert_close(encoder(video).values, tensors["output.encoder_all"], **EXACT)
    context = encoder(video, keep=Ids(kept))
    torch.testing.assert_close(context.values, tensors["output.encoder_context"], **EXACT)
    for kind in (0, 1):
        expected = tensors[f"output.predictor_mask_token_{kind}"]
        torch.testing.assert_close(predictor(context, Ids(asked), kind=kind), expected, **EXACT)
        torch.testing.assert_close(predictor(context, Ids(asked), kind=torch.tensor([kind] * 2)), expected, **EXACT)
    if "input.video_4x32x48" in tensors:
        other = encoder(tensors["input.video_4x32x48"]).values
        torch.testing.assert_close(other, tensors["output.encoder_4x32x48"], **EXACT)


def test_the_other_convention_computes_something_else():
    tensors = load_file(FIXTURES / "vjepa2_rope.safetensors")
    start = "encoder.module.backbone."
    weights = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
    encoder = video_encoder(weights, "v-jepa-2", Path("a"), heads=2)
    other = VideoTransformer(replace(encoder.config, positions="paired")).eval()
    other.load_state_dict(weights)
    assert (other(tensors["input.video"]).values - tensors["output.encoder_all"]).abs().max() > 1e-2


def noisy(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def made(variant, seed=0):
    """An encoder and a predictor of a family, tiny."""
    torch.manual_seed(seed)
    positions = {"v-jepa": "sincos", "v-jepa-2.1": "paired"}.get(variant, "tiled")
    new = variant == "v-jepa-2.1"
    shape = replace(SHAPE, positions=positions, stills=new, levels=4 if new else 1, depth=4 if new else 1)
    shape = replace(shape, stretch=(16, 16) if new else None)
    encoder = VideoTransformer(shape)
    if variant == "v-jepa-2-ac":
        predictor = BlockCausalPredictor(
            BlockCausalPredictorConfig(embedding=192, action=7, condition=7, grid=(4, 4), dim=96, depth=1, heads=16)
        )
    else:
        heads = 3 if variant == "v-jepa" else 12
        predictor = MaskedPredictor(
            PredictorConfig(dim=96, depth=1, heads=heads), shape.levels * 192, shape.grid, embed_hidden=192 if new else None,
            visible=new, condition_dim=2 if new else None, rotation=shape.rotation, stretch=shape.stretch,
            mask_tokens={"v-jepa": 2, "v-jepa-2.1": 8}.get(variant, 10),
        )  # fmt: skip
    return noisy(encoder, seed), noisy(predictor, seed + 1)


def released(path, variant, **changes):
    """A file as the authors' training loop saves it, with what theirs are known to carry."""
    encoder, predictor = made(variant)
    target, _ = made(variant, seed=5)
    inner = {}
    for name, tensor in predictor.state_dict().items():
        if name == "mask_token":
            inner |= {f"mask_tokens.{n}": token[None] for n, token in enumerate(tensor)}
        elif name == "condition_embed.weight":
            bias = predictor.condition_embed.bias
            inner |= {"video_mod_embed": (tensor[:, 0] + bias)[None, None], "img_mod_embed": (tensor[:, 1] + bias)[None, None]}
        elif name != "condition_embed.bias":
            part, dot, rest = name.partition(".")
            names = {ours: theirs for theirs, ours in AC_PARTS.items()} if variant == "v-jepa-2-ac" else {}
            inner[f"{names.get(part, part)}{dot}{rest}"] = tensor
    stale = {"pos_embed": torch.zeros(1, 2048, 192)} if variant in ("v-jepa-2", "v-jepa-2-ac") else {}
    if variant == "v-jepa-2-ac":
        inner |= {"extrinsics_encoder.weight": torch.zeros(96, 6), "extrinsics_encoder.bias": torch.zeros(96)}

    def wrapped(state):
        return {f"module.backbone.{name}": tensor for name, tensor in state.items()}

    checkpoint = {
        "encoder": wrapped({**encoder.state_dict(), **stale}), "predictor": wrapped(inner),
        "ema_encoder" if "dist" in path.name else "target_encoder": wrapped({**target.state_dict(), **stale}),
        "opt": None, "epoch": 3, "loss": 0.1, "batch_size": 24, "world_size": 128, "lr": 1e-3, **changes,
    }  # fmt: skip
    torch.save({name: value for name, value in checkpoint.items() if value != "left out"}, path)
    return encoder, target, predictor


NAMES = {
    "v-jepa": "vith16.pth.tar", "v-jepa-2": "vitl.pt", "v-jepa-2-ac": "vjepa2-ac-vitg.pt",
    "v-jepa-2.1": "vjepa2_1_vitl_dist_vitG_384.pt",
}  # fmt: skip


@pytest.mark.parametrize("variant", NAMES)
@torch.no_grad()
def test_files_in_the_released_layouts(variant, tmp_path, capsys):
    path = tmp_path / NAMES[variant]
    encoder, target, predictor = released(path, variant)
    model = load(path)
    assert (model.which, model.system, model.modality.name) == ("target", variant, "video")
    licence = "CC-BY-NC-4.0" if variant == "v-jepa" else "MIT"
    assert model.licence == licence
    assert f"licence {licence}" in capsys.readouterr().err
    clip = torch.randn(2, 3, 16, *model.encoder.config.image_size) if variant == "v-jepa" else torch.randn(2, 3, 4, 32, 32)
    for asked, expected in (("target", target), ("encoder", encoder)):
        assert torch.equal(load(path, asked)(clip).values, expected(clip).values)
    if variant == "v-jepa-2-ac":
        predictor = BlockCausalPredictor(replace(predictor.config, rotation="tiled")).eval()
        predictor.load_state_dict(made(variant)[1].state_dict())
        tokens, actions, states = torch.randn(1, 2, 16, 192), torch.randn(1, 2, 7), torch.randn(1, 2, 7)
        model.predictor.config = replace(model.predictor.config, grid=(4, 4))  # which no file tells
        assert torch.equal(model.predictor(tokens, actions, states), predictor(tokens, actions, states))
        return
    assert type(model.predictor) is MaskedPredictor
    levels = {"levels": encoder.config.levels_at} if encoder.config.levels > 1 else {}
    context = target(clip, keep=Ids(torch.tensor([[0, 3, 9]] * 2)), **levels)
    asked, condition = Ids(torch.tensor([[1, 2]] * 2)), torch.eye(2) if variant == "v-jepa-2.1" else None
    grid = (clip.shape[2] // 2, 4, 4)
    both = [each(context, asked, condition=condition, kind=1, grid=grid) for each in (model.predictor, predictor)]
    torch.testing.assert_close(*both, atol=1e-6, rtol=1e-5)


def test_a_copy_keeps_the_licence(tmp_path):
    released(tmp_path / "vith16.pth.tar", "v-jepa")
    again = PretrainedEncoder.from_pretrained(load(tmp_path / "vith16.pth.tar").save_pretrained(tmp_path / "copy"))
    assert again.licence == "CC-BY-NC-4.0"
    assert again.encoder.config.positions == "sincos"


def test_v_jepa_and_v_jepa_2_are_told_apart_or_asked_for(tmp_path):
    path = tmp_path / "mine.pt"
    released(path, "v-jepa-2", predictor="left out")
    with pytest.raises(UserError, match="variant='v-jepa' or variant='v-jepa-2'"):
        load(path)
    assert load(path, variant="v-jepa-2").encoder.config.positions == "tiled"
    released(path, "v-jepa-2")  # ten mask tokens, no positions in the predictor
    assert load(path).system == "v-jepa-2"
    released(path, "v-jepa")
    assert load(path).system == "v-jepa"
    with pytest.raises(UserError, match="holds weights of v-jepa, not of v-jepa-2"):
        load(path, variant="v-jepa-2")
    with pytest.raises(UserError, match="variant"):
        variant_of(path, {}, "v-jepa-3")
    with pytest.raises(UserError, match="which: 'teacher' is not known"):
        load(path, "teacher")


DAMAGE = {
    "lacks blocks.0.norm1.bias": lambda w: w.pop("module.backbone.blocks.0.norm1.bias"),
    "has unexpected head.weight": lambda w: w.update({"module.backbone.head.weight": torch.zeros(2)}),
    "other shapes for norm.bias": lambda w: w.update({"module.backbone.norm.bias": torch.zeros(3)}),
    "another type of numbers for norm.bias": lambda w: w.update({"module.backbone.norm.bias": torch.zeros(192, dtype=int)}),
    "NaN or infinity in norm.bias": lambda w: w["module.backbone.norm.bias"].fill_(torch.nan),
    "is no tensor": lambda w: w.update({"module.backbone.norm.bias": 3.0}),
    "lacks blocks.0.mlp.fc1.weight": lambda w: [w.pop(name) for name in list(w) if "blocks." in name],
    "lacks patch_embed.proj.weight": lambda w: w.pop("module.backbone.patch_embed.proj.weight"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_encoder_is_refused_by_name(message, tmp_path):
    path = tmp_path / "vitl.pt"
    released(path, "v-jepa-2")
    checkpoint = torch.load(path, weights_only=True)
    for part in ("encoder", "target_encoder"):
        DAMAGE[message](checkpoint[part])
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=re.escape(message)):
        load(path)


def test_a_damaged_predictor_is_refused_too(tmp_path):
    path = tmp_path / "vitl.pt"
    released(path, "v-jepa-2")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["predictor"].pop("module.backbone.predictor_norm.bias")
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=r"lacks predictor_norm\.bias"):
        load(path)


def tiny_peer(**changes):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(**{
        "patch_size": 8, "crop_size": 32, "frames_per_clip": 8, "hidden_size": 64, "num_attention_heads": 2,
        "num_hidden_layers": 2, "pred_hidden_size": 48, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 2,
        "pred_num_mask_tokens": 3, "pred_zero_init_mask_tokens": False, **changes,
    })  # fmt: skip
    return transformers, noisy(transformers.VJEPA2Model(config))


@pytest.mark.peer
@torch.no_grad()
def test_agrees_with_transformers_and_comes_back_bit_for_bit(tmp_path):
    transformers, theirs = tiny_peer()
    theirs.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    assert (model.which, model.system, model.inputs.frames, model.inputs.image_size) == ("encoder", "v-jepa-2", 8, (32, 32))
    for frames in (8, 64):
        clip = torch.randn(2, frames, 3, 32, 32)
        expected = theirs(clip, skip_predictor=True).last_hidden_state
        torch.testing.assert_close(model(clip.transpose(1, 2)).values, expected, **EXACT)
    clip = torch.randn(2, 8, 3, 32, 32)
    kept, asked = (torch.stack([torch.randperm(64)[:count] for _ in range(2)]) for count in (20, 31))
    expected = theirs(clip, context_mask=[kept], target_mask=[asked]).predictor_output.last_hidden_state
    whole = model(clip.transpose(1, 2))  # their encoder sees all tokens; ours may see the context alone
    context = replace(whole, values=Ids(kept).gather(whole.values), positions=Ids(kept).gather(whole.positions))
    torch.testing.assert_close(model.predictor(context, Ids(asked), kind=1), expected, **EXACT)

    write_transformers(tmp_path, model.encoder, model.predictor)
    again, report = transformers.VJEPA2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for part, back in zip((model.encoder, model.predictor), (load(tmp_path).encoder, load(tmp_path).predictor), strict=True):
        assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in part.state_dict().items())


@pytest.mark.peer
def test_a_folder_of_transformers_that_does_not_fit(tmp_path):
    _, theirs = tiny_peer()
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert load(tmp_path).encoder.config.depth == 2
    config = tmp_path / "config.json"
    good = config.read_text()
    for old, new, message in (
        ('"num_hidden_layers": 2', '"num_hidden_layers": 1', "unexpected"),
        ('"hidden_size": 64', '"hidden_size": "wide"', "must be a whole number"),
        ('"hidden_act": "gelu"', '"hidden_act": "relu"', "hidden_act is 'relu'"),
        ('"layer_norm_eps": 1e-06', '"layer_norm_eps": 0.1', "layer_norm_eps is 0.1"),
    ):
        assert old in good
        config.write_text(good.replace(old, new))
        with pytest.raises(UserError, match=message):
            load_released(tmp_path)
    config.write_text(good)
    (tmp_path / "README.md").write_text("---\nlibrary_name: transformers\nlicense: apache-2.0\n---\nA card\n")
    assert load(tmp_path).licence == "apache-2.0"
    with pytest.raises(UserError, match="leave variant out"):
        load(tmp_path, variant="v-jepa-2")
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(UserError):
        load(tmp_path)


def test_what_transformers_has_no_model_of(tmp_path):
    for changes in ({"positions": "paired"}, {"positions": "sincos"}, {"positions": "tiled", "stills": True}):
        with pytest.raises(UserError, match="V-JEPA 2 as released"):
            write_transformers(tmp_path, VideoTransformer(replace(SHAPE, **changes)))
    with pytest.raises(UserError, match="no model of a Linear"):
        write_transformers(tmp_path, torch.nn.Linear(2, 2))


def test_a_name_of_the_hub_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("huggingface_hub")
    with pytest.raises(UserError, match="facebook/vjepa2-vitl-fpc64-256 is no folder or file here"):
        load("facebook/vjepa2-vitl-fpc64-256")
