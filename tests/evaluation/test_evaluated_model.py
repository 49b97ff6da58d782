"""What `evaluate` measures besides runs: encoders that were exported, and weights of others."""

import json

import pytest
import torch

from jepakit.errors import UserError
from jepakit.evaluation.attentive import AttentiveConfig
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.released.hugging_face import write_transformers
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.verbs.evaluate import evaluate


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr("jepakit.evaluation.frozen_features.MOST_TRAIN", 60)
    monkeypatch.setattr("jepakit.evaluation.frozen_features.MOST_TEST", 40)


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(0)
    encoder = VisionTransformer(ViTConfig(image_size=(8, 8), channels=1, patch_size=4, dim=16, depth=1, heads=2))
    inputs = ImageInputs(image_size=(8, 8), channels=1, mean=(0.3,), std=(0.3,))
    return PretrainedEncoder(encoder, inputs).save_pretrained(tmp_path / "exported")


def test_an_exported_encoder_on_labelled_data(exported, tmp_path):
    out = tmp_path / "results" / "digits.json"
    rows = evaluate(exported, data="digits", evaluators=["linear"], device="cpu", out=out)
    assert {row.features for row in rows} == {"encoder", "random init", "pixels", "pca"}
    rows = evaluate(exported, data="digits", evaluators=["knn-5"], device="cpu", out=out)
    found = json.loads(out.read_text())
    assert list(dict.fromkeys(row["evaluator"] for row in found["rows"])) == ["linear", "knn-5"]
    assert found["command"].split("\n")[1] == f"jepakit evaluate {exported} --data digits --evaluators knn-5"
    rows = evaluate(exported, data="digits", evaluators=["linear"], device="cpu", out=out, limit=30)
    assert rows[0].detail["train"] == 30
    assert json.loads(out.read_text())["command"].endswith("--limit 30")
    before = {path.name for path in exported.iterdir()}
    evaluate(exported, data="digits", evaluators=["linear"], device="cpu")
    assert {path.name for path in exported.iterdir()} == before == {"config.json", "model.safetensors"}


def test_the_weights_of_others_by_their_probe_and_with_their_predictor(tmp_path):
    """A VJEPA2Model's folder: what it is worth, and what its predictor adds when it sees half a clip."""
    torch.manual_seed(0)
    shape = VideoTransformerConfig(
        frames=4, image_size=(16, 16), patch_size=8, dim=24, depth=1, heads=2, channels=1, positions="tiled"
    )
    inner = PredictorConfig(dim=24, depth=1, heads=2)
    predictor = MaskedPredictor(inner, shape.dim, shape.grid, rotation="tiled", mask_tokens=1)
    inputs = VideoInputs(frames=4, image_size=(16, 16), channels=1, mean=(0.1,), std=(0.2,))
    write_transformers(tmp_path / "theirs", VideoTransformer(shape), predictor, inputs)
    asked = {"data": "bouncing-digits", "device": "cpu"}
    one = AttentiveConfig(learning_rates=(1e-3,), weight_decays=(0.01,), epochs=1)
    rows = evaluate(tmp_path / "theirs", labels="digit", evaluators=["attentive-1"], attentive=one, **asked)
    assert {row.features for row in rows} == {"encoder", "random init"}
    rows = evaluate(tmp_path / "theirs", labels="direction", evaluators=["linear"], seen=2, **asked)
    assert {row.features for row in rows} == {"encoder", "with predictor", "random init", "pixels", "pca"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "is no run, which would know its data"),
        ({"data": "digits", "evaluators": ["continuation"]}, "continuation needs a run"),
        ({"data": "digits", "limit": 0}, "limit"),
        ({"data": "digits", "out": "results"}, "Call it results.json"),
        ({"data": "digits", "which": "target"}, "holds the 'encoder' weights only"),
    ],
)
def test_messages(exported, options, words):
    with pytest.raises(UserError, match=words):
        evaluate(exported, device="cpu", **options)
    with pytest.raises(UserError, match="no folder of exported weights"):
        evaluate(exported / "nothing", data="digits")
