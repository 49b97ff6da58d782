import json

import numpy as np
import pytest
import torch

import jepakit
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.evaluation.continuation import continuation_energy, continuation_row, continuation_rows
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.nn.tokens import Ids
from jepakit.systems.v_jepa import VJEPA, VJEPAConfig
from jepakit.systems.v_jepa_2_1 import VJEPA21, VJEPA21Config

SMALL = {"predictor_dim": 24, "patch_size": 4}


def opened(**options):
    return open_videos(VideoDataConfig(data="bouncing-digits", image_size=(16, 16), labels="none", **options), 0)


def system_of(data, kind=VJEPA, config=VJEPAConfig, **options):
    torch.manual_seed(0)
    return kind(config(**SMALL, **options), VideoInputs.of(data)).eval()


@pytest.mark.parametrize("future", [None, (0.3, 0.6)])
def test_the_energy_is_that_of_the_last_tokens_asked_by_the_mask_token_of_futures(future):
    data = opened(frames=8, stills="none")
    system = system_of(data, masks=TubeConfig(future=future))
    samples = [data.test[i] for i in range(5)]
    found = continuation_energy(system, samples, 3, batch=2)
    inputs, grid = system.inputs.prepare(samples), system.grid
    places = grid[1] * grid[2]
    kinds = [2] if future else [0, 1]
    with torch.no_grad():
        for i in range(5):
            keep, ask = torch.arange(3 * places)[None], torch.arange(3 * places, 4 * places)[None]
            target = torch.nn.functional.layer_norm(system.target(inputs[i : i + 1]).values, (128,))[:, 3 * places :]
            context = system.encoder(inputs[i : i + 1], keep=Ids(keep))
            guesses = [system.predictor(context, Ids(ask), kind=kind) for kind in kinds]
            wanted = np.mean([float((guess - target).abs().mean()) for guess in guesses])
            assert found[i] == pytest.approx(wanted, abs=1e-5)


def test_every_system_of_clips_has_rows_and_shared_pasts_share_their_context():
    data = opened(frames=4, stills="frames")
    system = system_of(data, VJEPA21, VJEPA21Config)
    rows = continuation_rows(system, data.test.subset(np.arange(12)), "random init")
    wrong = ("another clip's", "nothing moves", "teleport", "vanish")
    assert [row.evaluator for row in rows] == [f"continuation: {name}" for name in wrong]
    for row in rows:
        assert row.features == "random init"
        assert 0 <= row.low <= row.value <= row.high <= 1
        assert row.detail["clips"] == 12
    samples = [data.test[i] for i in range(4)]
    one = continuation_energy(system, samples, 1)
    np.testing.assert_allclose(one, continuation_energy(system, samples, 1, batch=3), atol=1e-6)
    swapped = [{**sample, "clip": torch.cat([sample["clip"][:2], samples[0]["clip"][2:]])} for sample in samples]
    other = continuation_energy(system, swapped, 1)
    assert other[0] == pytest.approx(one[0], abs=1e-6)
    assert (np.abs(other - one)[1:] > 1e-6).all()


def test_rows_count_pairs_and_the_area():
    row = continuation_row("x", np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 3.0, 9.0]))
    assert row.value == (1 + 0 + 0.5 + 1) / 4
    above = [[w > t or (w == t) / 2 for t in (1, 2, 3, 4)] for w in (2, 1, 3, 9)]
    assert row.detail["auc"] == pytest.approx(np.mean(np.asarray(above, float)))


def test_mistakes():
    data = opened(frames=4, stills="none")
    system = system_of(data)
    for seen in (0, 2):
        with pytest.raises(UserError, match=f"seen {seen}: clips have 2 time steps of tokens; give 1 to 1"):
            continuation_energy(system, [data.test[0]], seen)
    with pytest.raises(UserError, match="System with tokens of another kind is none"):
        continuation_energy(System(), [data.test[0]], 1)
    with pytest.raises(UserError, match="VJEPA with tokens of 1 x 4 x 4 is none"):
        continuation_energy(system_of(opened(frames=2, stills="none")), [data.test[0]], 1)
    with pytest.raises(UserError, match="finite energy of each clip"):
        continuation_row("x", np.ones(2), np.array([1.0, np.nan]))


def test_the_verb_measures_it_without_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("jepakit.evaluation.frozen_features.MOST_TEST", 40)
    small = {"limit": 16, "frames": 4, "image_size": (16, 16), "steps": 1, "batch_size": 4, "threads": 1}
    small |= {"data": "bouncing-digits", "labels": "none", "stills": "none", "patch_size": 4, "predictor_dim": 24}
    jepakit.pretrain("v-jepa-2", out=tmp_path / "run", **small)
    rows = jepakit.evaluate(tmp_path / "run", evaluators=["continuation"])
    assert [row.features for row in rows] == ["encoder"] * 4 + ["random init"] * 4
    assert "--evaluators continuation" in json.loads((tmp_path / "run" / "evaluation.json").read_text())["command"]
    with pytest.raises(UserError, match="has no labels"):
        jepakit.evaluate(tmp_path / "run", evaluators=["continuation", "linear"])
    assert jepakit.report(tmp_path / "run").exists()
