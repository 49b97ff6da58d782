import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jepakit.config import RunConfig, default_config, write_config
from jepakit.errors import UserError
from jepakit.interop.embedding import embed_samples
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.load import initialise, load
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.registry import load_system
from jepakit.training.checkpoints import write_checkpoint
from jepakit.training.run_folder import RunFolder

INPUTS = ImageInputs(image_size=(14, 14), channels=1, mean=(0.1307,), std=(1 / 3,))
MODEL = {"i-jepa": {"predictor_dim": 32, "predictor_depth": 1}, "lejepa": {"projector": (16, 8)}}


def encoder(kind="vit"):
    torch.manual_seed(0)
    if kind == "vit":
        return VisionTransformer(ViTConfig(image_size=(14, 14), patch_size=7, channels=1, dim=24, depth=2, heads=3))
    return ConvNet(ConvNetConfig(image_size=(14, 14), channels=1, dim=12, width=4))


def finished_run(path, system="i-jepa", seed=0, **options):
    """A run folder as training leaves it, with random weights; and its system."""
    config = default_config(system, "digits").override(**{**MODEL[system], **options})
    config = RunConfig(
        system=system, dataset=config.dataset, model=config.model, training=config.training, health=config.health,
        inputs=INPUTS,
    )  # fmt: skip
    torch.manual_seed(seed)
    built = load_system(system)(config.model, INPUTS, 0)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.05 * torch.randn_like(p))
    folder = RunFolder(path)
    folder.create()
    write_config(folder.config, config)
    folder.save_model(built)
    return built.eval()


@pytest.mark.parametrize("kind", ["vit", "convnet"])
def test_saving_and_reading_gives_the_same_encoder(kind, tmp_path):
    model = PretrainedEncoder(encoder(kind), INPUTS, "i-jepa", "target")
    assert model.save_pretrained(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    again = PretrainedEncoder.from_pretrained(tmp_path / "a" / "b")
    assert (again.inputs, again.system, again.which) == (INPUTS, "i-jepa", "target")
    images = torch.randn(2, 1, 14, 14)
    assert torch.equal(again(images).values, model(images).values)
    assert torch.equal(again.embed(images), model(images).values.mean(1))
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {"config.json", "model.safetensors"}
    model.save_pretrained(tmp_path / "a" / "b")  # the same again may be written over


@pytest.mark.parametrize("system", MODEL)
def test_the_encoders_of_a_run(system, tmp_path):
    built = finished_run(tmp_path / "run", system)
    images = torch.randn(2, 1, 14, 14)
    for which, expected in built.encoders().items():
        model = load(tmp_path / "run", which)
        assert (model.which, model.system) == (which, system)
        assert torch.equal(model(images).values, expected(images).values)
    assert torch.equal(load(tmp_path / "run")(images).values, built.encode(images).values)


def test_an_export_knows_which_weights_it_holds(tmp_path):
    finished_run(tmp_path / "run")
    load(tmp_path / "run", "encoder").save_pretrained(tmp_path / "out")
    assert load(tmp_path / "out").which == "encoder"
    with pytest.raises(UserError, match="holds the 'encoder' weights only"):
        load(tmp_path / "out", "target")
    with pytest.raises(UserError, match="export of another encoder"):
        load(tmp_path / "run", "target").save_pretrained(tmp_path / "out")


def test_an_export_never_overwrites_a_run(tmp_path):
    finished_run(tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds a run"):
        load(tmp_path / "run").save_pretrained(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot export into"):
        load(tmp_path / "run").save_pretrained(tmp_path / "file")


def test_initialise_from_a_run_gives_all_its_parts(tmp_path):
    source = finished_run(tmp_path / "run")
    other = finished_run(tmp_path / "other", seed=1)
    initialise(other, tmp_path / "run")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in other.state_dict().items())


def test_initialise_from_an_export_gives_the_encoders(tmp_path):
    source = finished_run(tmp_path / "run")
    load(tmp_path / "run").save_pretrained(tmp_path / "out")
    other = finished_run(tmp_path / "other", seed=1)
    predictor = {name: value.clone() for name, value in other.predictor.state_dict().items()}
    initialise(other, tmp_path / "out")
    for part in (other.encoder, other.target.encoder):
        for name, value in part.state_dict().items():
            assert torch.equal(value, source.target.encoder.state_dict()[name])
    assert all(torch.equal(value, predictor[name]) for name, value in other.predictor.state_dict().items())


def test_initialise_from_a_run_of_another_system(tmp_path):
    source = finished_run(tmp_path / "run", "lejepa", backbone="vit")
    other = finished_run(tmp_path / "other")
    initialise(other, tmp_path / "run")
    assert torch.equal(other.encoder.norm.weight, source.network.encoder.norm.weight)
    finished_run(tmp_path / "convnet", "lejepa")
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(UserError, match="weights of another model or size"):
        initialise(other, tmp_path / "convnet")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())  # nothing in part


def test_embed_samples_pools_and_keeps_the_order():
    model = PretrainedEncoder(encoder(), INPUTS)
    dataset = [{"image": torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(i)), "id": i} for i in range(7)]
    expected = torch.cat([model.embed(INPUTS.prepare([sample])) for sample in dataset])
    embedded = embed_samples(model, INPUTS, dataset, batch_size=3)
    torch.testing.assert_close(embedded, expected, atol=1e-5, rtol=1e-5)
    some = embed_samples(model, INPUTS, dataset, [5, 0], pooling=None)
    assert some.shape == (2, 4, 24)
    torch.testing.assert_close(some.mean(1), expected[[5, 0]], atol=1e-5, rtol=1e-5)


def spoil(folder, how):
    config, weights = folder / "config.json", folder / "model.safetensors"
    description = json.loads(config.read_text())
    if how == "no config":
        config.unlink()
    elif how == "no json":
        config.write_text("{")
    elif how == "a list":
        config.write_text("[]")
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no weights":
        weights.unlink()
    elif how in ("missing tensor", "another shape", "one too many"):
        tensors = load_file(weights)
        if how == "missing tensor":
            del tensors["norm.bias"]
        elif how == "one too many":
            tensors["head.bias"] = torch.zeros(3)
        else:
            tensors["norm.bias"] = torch.zeros(3)
        save_file(tensors, weights)
    else:
        name, value = how
        if value is None:
            del description[name]
        else:
            description[name] = value
        config.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "cannot be read"),
        ("no json", "cannot be read"),
        ("a list", "does not describe"),
        ("cut weights", "not a readable safetensors file"),
        ("no weights", "does not exist"),
        ("missing tensor", "lacks norm.bias"),
        ("one too many", "unexpected head.bias"),
        ("another shape", "other shapes for norm.bias"),
        (("format", 99), "format 1"),
        (("architecture", "vitt"), "Did you mean 'vit'"),
        (("encoder", None), "encoder: expected a group of options"),
        (("inputs", None), "inputs: expected a group of options"),
        (("inputs", {"image_size": [14, 14], "channels": 1, "mean": [0.5]}), "inputs: the option 'std' is missing"),
        (("encoder", {"image_size": [14, 14], "patch_sise": 7}), "Did you mean 'patch_size'"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(how, message, tmp_path):
    PretrainedEncoder(encoder(), INPUTS).save_pretrained(tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    folder = PretrainedEncoder(encoder(), INPUTS).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def break_off(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("jepakit.training.weight_files.save_file", break_off)
    with pytest.raises(OSError, match="disk full"):
        PretrainedEncoder(encoder(), INPUTS).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_checkpoint_of_a_run_is_loaded_and_continued_from(tmp_path):
    """`checkpoints/step-N`, as training writes them, gives its encoder and may start another run."""
    system, other = finished_run(tmp_path / "a"), finished_run(tmp_path / "b", seed=1)
    path = tmp_path / "a" / "checkpoints" / "step-00000007"
    write_checkpoint(path, system, torch.optim.AdamW(system.parameters()), {"step": 7})
    images = torch.randn(2, 1, 14, 14)
    torch.testing.assert_close(load(path).embed(images), load(tmp_path / "a").embed(images))
    initialise(other, path)
    assert all(torch.equal(t, system.state_dict()[name]) for name, t in other.state_dict().items())
    weights = next(path.glob("*.distcp"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="step-00000007"):
        load(path)


@pytest.mark.parametrize("raw", [np.zeros((2, 8, 8), np.float32), [[0.0]], "photo.png"])
def test_what_is_not_prepared_is_named(raw):
    model = PretrainedEncoder(torch.nn.Identity(), ImageInputs(channels=1, image_size=(8, 8), mean=(0.0,), std=(1.0,)))
    for call in (model, model.embed):
        with pytest.raises(UserError, match=rf"{type(raw).__name__}.*prepare"):
            call(raw)
