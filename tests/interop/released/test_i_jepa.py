"""Checkpoints in the released layouts, made here: nothing is downloaded."""

import os

import numpy as np
import pytest
import torch

import jepakit
from jepakit.errors import UserError
from jepakit.interop.load import initialise, load
from jepakit.interop.released.hugging_face import IMAGE_NAMES, to_ours, to_theirs
from jepakit.interop.released.load import load_released
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.systems.i_jepa import IJEPA, IJEPAConfig

EXACT = {"atol": 1e-5, "rtol": 1e-5}
CONFIG = ViTConfig(image_size=(28, 28), patch_size=7, channels=3, dim=192, depth=2, heads=3)


def vit(seed, config=CONFIG):
    torch.manual_seed(seed)
    model = VisionTransformer(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def released(path, encoder, target, **changes):
    """A file as the authors' training loop saves it: `DistributedDataParallel` names, optimiser and all."""

    def module(state):
        return {f"module.{name}": tensor for name, tensor in state.items()}

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    checkpoint = {
        "encoder": module(encoder.state_dict()), "target_encoder": module(target.state_dict()), "predictor": {},
        "opt": optimizer.state_dict(), "scaler": None, "epoch": 300, "loss": 0.1, "batch_size": 128, "world_size": 16,
        "lr": 0.001, **changes,
    }  # fmt: skip
    torch.save(checkpoint, path)
    return path


def test_both_encoders_of_a_released_file(tmp_path):
    encoder, target = vit(0), vit(1)
    path = released(tmp_path / "IN1K-vit.h.14-300e.pth.tar", encoder, target)
    images = torch.randn(2, 3, 28, 28)
    for which, expected in (("target", target), ("encoder", encoder)):
        model = load_released(path, which)
        assert model.encoder.config == CONFIG  # depth, heads, sizes: all inferred
        assert (model.which, model.inputs.image_size, model.inputs.mean) == (which, (28, 28), (0.485, 0.456, 0.406))
        assert torch.equal(model(images).values, expected(images).values)
    assert load(path).which == "target"
    assert load(path, "encoder").which == "encoder"


def test_a_system_starts_from_a_released_file(tmp_path):
    path = released(tmp_path / "weights.pth.tar", vit(0), vit(1))
    inputs = ImageInputs(image_size=(28, 28), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    system = IJEPA(IJEPAConfig(size="tiny", patch_size=7, predictor_dim=24, predictor_depth=1), inputs)
    with pytest.raises(UserError, match="lacks blocks"):  # 12 blocks, not 2
        initialise(system, path)
    full = ViTConfig(image_size=(28, 28), patch_size=7, channels=3, dim=192, depth=12, heads=3)
    assert initialise(system, released(tmp_path / "full.pth.tar", vit(0, full), vit(1, full))) == "CC-BY-NC-4.0"
    assert torch.equal(system.encoder.norm.weight, vit(1, full).norm.weight)


def test_the_licence_is_written_into_every_run_that_comes_of_them(tmp_path):
    tiny = ViTConfig(image_size=(28, 28), patch_size=7, channels=3, dim=192, depth=12, heads=3)
    path = released(tmp_path / "full.pth.tar", vit(0, tiny), vit(1, tiny))
    data = str(tmp_path / "pictures.npy")
    np.save(data, np.random.default_rng(0).integers(0, 255, (24, 28, 28, 3), dtype=np.uint8))
    options = {
        "size": "tiny", "patch_size": 7, "predictor_dim": 24, "predictor_depth": 1, "steps": 1, "batch_size": 8, "threads": 1,
    }  # fmt: skip
    first = jepakit.pretrain("i-jepa", data=data, init=path, out=tmp_path / "first", **options).out
    second = jepakit.pretrain("i-jepa", data=data, init=first, out=tmp_path / "second", **options).out
    for run in (first, second):
        assert load(run).licence == "CC-BY-NC-4.0"
    assert load(jepakit.export(second, out=tmp_path / "export")).licence == "CC-BY-NC-4.0"


@pytest.mark.peer
def test_a_transformers_folder_and_back(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.IJepaConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=28, patch_size=7,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.IJepaModel(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    assert (model.which, model.encoder.config.heads) == ("encoder", 4)
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(model(images).values, theirs(images).last_hidden_state.detach(), **EXACT)
    with pytest.raises(UserError, match="context encoder alone"):
        load(tmp_path / "theirs", "target")
    again = to_ours(to_theirs(dict(model.encoder.state_dict()), IMAGE_NAMES), IMAGE_NAMES)
    assert again.keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.encoder.state_dict().items())


class Code:
    """A pickle that would run a command where it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_no_code_in_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = released(tmp_path / "weights.pth.tar", vit(0), vit(0), opt=Code())
    with pytest.raises(UserError, match="cannot be read as a checkpoint of tensors"):
        load_released(path)
    assert not (tmp_path / "ran").exists()


def without(state, *names):
    return {f"module.{name}": tensor for name, tensor in state.items() if name not in names}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_encoder": None}, "no 'target_encoder'.*found: encoder"),
        ({"target_encoder": without(vit(0).state_dict(), "pos_embed")}, "lacks pos_embed"),
        ({"target_encoder": without(vit(0).state_dict(), "norm.bias")}, "lacks norm.bias"),
        (
            {"target_encoder": vit(0).state_dict() | {"patch_embed.proj.weight": torch.zeros(192, 3, 2, 7, 7)}},
            "V-JEPA's is for video",
        ),
        ({"target_encoder": vit(0).state_dict() | {"pos_embed": torch.zeros(1, 15, 192)}}, "no square grid"),
        ({"target_encoder": vit(0).state_dict() | {"head.weight": torch.zeros(2, 2)}}, "unexpected head.weight"),
        (
            {"target_encoder": vit(0, ViTConfig(image_size=(28, 28), patch_size=7, dim=48, depth=1)).state_dict()},
            "no released I-JEPA is 48 wide",
        ),
        (
            {"target_encoder": vit(0, ViTConfig(image_size=(7, 7), patch_size=7, channels=1, depth=1)).state_dict()},
            "expects 1 channels",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(changes, message, tmp_path):
    path = released(tmp_path / "weights.pth.tar", vit(0), vit(0), **changes)
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_cut_file_and_a_file_of_something_else(tmp_path):
    path = released(tmp_path / "weights.pth.tar", vit(0), vit(0))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load(path)
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match="cannot be read"):
        load(path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list"):
        load(tmp_path / "list.pt")
