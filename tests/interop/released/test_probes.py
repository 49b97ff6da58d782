"""Probes in the released layouts, and the classification head of `transformers`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepakit.errors import UserError
from jepakit.interop.load import load
from jepakit.interop.released.probes import load_probe

# Computed by facebookresearch/vjepa2 (MIT), commit c2963a4, at random weights.
RELEASED = Path(__file__).parents[2] / "fixtures" / "vjepa2_attentive_probe.safetensors"


def fixture():
    tensors = load_file(RELEASED)
    weights = {name.removeprefix("classifier."): t for name, t in tensors.items() if name.startswith("classifier.")}
    return weights, tensors["input.tokens"], tensors["output.logits"]


def test_one_of_several_side_by_side(tmp_path):
    weights, tokens, logits = fixture()
    other = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save({"classifiers": [other, weights], "epoch": 20}, tmp_path / "ssv2-vitl.pt")
    torch.testing.assert_close(load_probe(tmp_path / "ssv2-vitl.pt", 1, heads=2)(tokens), logits, atol=1e-5, rtol=1e-5)
    for number in (None, 2):
        with pytest.raises(UserError, match=r"2 probes.*from 0 to 1"):
            load_probe(tmp_path / "ssv2-vitl.pt", number, heads=2)


def test_an_old_probe_with_a_projection_that_nothing_uses(tmp_path):
    weights, tokens, _ = fixture()
    shallow = {name: tensor for name, tensor in weights.items() if ".blocks." not in name}
    stale = {f"module.pooler.cross_attention_block.xattn.proj.{kind}": torch.ones(2) for kind in ("weight", "bias")}
    torch.save({"classifier": {**shallow, **stale}}, tmp_path / "k400-probe.pth.tar")
    probe = load_probe(tmp_path / "k400-probe.pth.tar", heads=2)
    assert len(probe.pooler.blocks) == 0
    assert probe(tokens).shape == (2, 5)
    with pytest.raises(UserError, match="holds one probe"):
        load_probe(tmp_path / "k400-probe.pth.tar", 3, heads=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [("linear.weight", "no attentive probe"), ("pooler.blocks.1.norm1.bias", r"lacks pooler\.blocks\.1\.norm1\.bias")],
)
def test_damage_is_named(name, message, tmp_path):
    weights = fixture()[0]
    weights.pop(f"module.{name}")
    torch.save({"classifiers": [weights]}, tmp_path / "probe.pt")
    with pytest.raises(UserError, match=message):
        load_probe(tmp_path / "probe.pt", heads=2)


@pytest.mark.peer
@torch.no_grad()
def test_agrees_with_the_classifier_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.VJEPA2Config(
        patch_size=8, crop_size=16, frames_per_clip=4, hidden_size=64, num_attention_heads=2, num_hidden_layers=1,
        pred_hidden_size=48, pred_num_attention_heads=2, pred_num_hidden_layers=1, num_pooler_layers=2, num_labels=7,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.VJEPA2ForVideoClassification(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    clip = torch.randn(2, 4, 3, 16, 16)
    tokens = load(tmp_path)(clip.transpose(1, 2)).values
    torch.testing.assert_close(load_probe(tmp_path)(tokens), theirs(clip).logits, atol=1e-5, rtol=1e-5)
