import importlib.util
import json

import pytest
import torch

from jepakit.errors import UserError
from jepakit.interop import export as graphs
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.load import load
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.verbs.export import export

INPUTS = ImageInputs(image_size=(12, 18), channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


def model(kind="vit"):
    torch.manual_seed(0)
    if kind == "vit":
        config = ViTConfig(image_size=(12, 18), patch_size=6, channels=3, dim=24, depth=1, heads=3)
        return PretrainedEncoder(VisionTransformer(config), INPUTS)
    return PretrainedEncoder(ConvNet(ConvNetConfig(image_size=(12, 18), channels=3, dim=12, width=4)), INPUTS)


@pytest.fixture
def saved(tmp_path):
    return model().save_pretrained(tmp_path / "saved")


@torch.no_grad()
def agrees(kind, run, batch):
    """Does a graph compute what torch does, on pictures that `export` has not seen?"""
    images = torch.randn(batch, 3, 12, 18, generator=torch.Generator().manual_seed(99))
    tokens, embedding = run(images)
    expected = model(kind)(images)
    torch.testing.assert_close(tokens, expected.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(embedding, expected.mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "convnet"])
def test_torch_export(kind, tmp_path):
    source = model(kind).save_pretrained(tmp_path / "saved")
    path = export(source, out=tmp_path / "out", format="torch-export")
    assert path == tmp_path / "out" / "model.pt2"
    program = torch.export.load(path).module()
    for batch in (1, 2, 7):
        agrees(kind, program, batch)
    assert {file.name for file in path.parent.iterdir()} == {"model.pt2", "config.json"}
    description = json.loads((path.parent / "config.json").read_text())
    assert description["inputs"]["mean"] == [0.5, 0.4, 0.3]


@pytest.mark.parametrize("kind", ["vit", "convnet"])
def test_onnx(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    source = model(kind).save_pretrained(tmp_path / "saved")
    path = export(source, out=tmp_path / "out", format="onnx")
    session = onnxruntime.InferenceSession(path)
    assert [node.name for node in (*session.get_inputs(), *session.get_outputs())] == ["images", "tokens", "embedding"]
    for batch in (1, 2, 7):
        agrees(kind, lambda images: map(torch.from_numpy, session.run(None, {"images": images.numpy()})), batch)
    assert {file.name for file in path.parent.iterdir()} == {"model.onnx", "config.json"}


def test_large_onnx_weights_lie_beside_the_graph(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(graphs, "ONE_FILE", 0)
    path = graphs.export_graph(model(), tmp_path / "out", "onnx")
    assert {file.name for file in path.parent.iterdir()} == {"model.onnx", "model.onnx.data", "config.json"}
    session = onnxruntime.InferenceSession(path)
    agrees("vit", lambda images: map(torch.from_numpy, session.run(None, {"images": images.numpy()})), 2)


def test_all_formats_share_a_folder(saved, tmp_path):
    out = tmp_path / "out"
    assert export(saved, out=out) == out
    assert export(saved, out=out, format="torch-export") == out / "model.pt2"
    images = torch.randn(2, 3, 12, 18)
    assert torch.equal(load(out)(images).values, model()(images).values)


class Wrong(torch.nn.Module):
    """An encoder that forgets what it computed when it is traced: the graph differs from torch by `error`."""

    def __init__(self, inner, error):
        super().__init__()
        self.inner, self.error, self.config = inner, error, inner.config

    def forward(self, images):
        tokens = self.inner(images)
        if torch.compiler.is_exporting():
            tokens = type(tokens)(tokens.values + self.error, tokens.positions)
        return tokens


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_a_graph_that_differs_from_torch_is_not_exported(error, tmp_path, monkeypatch):
    wrong = model()
    wrong.encoder = Wrong(wrong.encoder, error)
    monkeypatch.setattr(wrong, "describe", lambda: {})
    with pytest.raises(UserError, match="differ from torch's"):
        graphs.export_graph(wrong, tmp_path / "out", "torch-export")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(UserError, match="differ from torch's"):
        graphs.export_graph(wrong, tmp_path / "mine", "torch-export")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    wrong.encoder.error = 1e-6  # within the tolerance
    assert graphs.export_graph(wrong, tmp_path / "out", "torch-export").exists()


def test_a_graph_of_another_shape_is_not_exported():
    plain = graphs.PlainOutputs(model().encoder)
    with pytest.raises(UserError, match="gives tokens"):
        graphs.check_against_torch(lambda images: (plain(images)[0][:, 1:], plain(images)[1]), plain, model())


def test_onnx_without_its_packages_names_the_extra(saved, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(UserError, match=r"jepakit\[onnx\]"):
        export(saved, out=tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


def test_mistakes(saved, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'safetensors'"):
        export(saved, out=tmp_path / "out", format="safetensor")
    with pytest.raises(UserError, match="cannot be read"):
        export(tmp_path / "nowhere", out=tmp_path / "out")
    model("convnet").save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="export of another encoder"):
        export(saved, out=tmp_path / "other", format="torch-export")
