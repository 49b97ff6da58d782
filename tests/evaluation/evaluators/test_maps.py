import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from jepakit.cli import main
from jepakit.config import default_config, write_config
from jepakit.errors import UserError
from jepakit.evaluation.attentive import AttentiveConfig
from jepakit.interop.runs import build_system
from jepakit.modalities.video.data import open_videos
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.evaluate import evaluate
from jepakit.verbs.pretrain import decide

SMALL = {"patch_size": 4, "predictor_dim": 24, "predictor_depth": 1, "stills": "none", "frames": 4, "image_size": (16, 16)}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr("jepakit.evaluation.frozen_features.MOST_TRAIN", 60)
    monkeypatch.setattr("jepakit.evaluation.frozen_features.MOST_TEST", 40)
    monkeypatch.setattr("jepakit.evaluation.evaluators.maps.MOST_MAPS", (60, 30))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of v-jepa-2 on bouncing digits at its random weights."""
    torch.manual_seed(0)
    config = default_config("v-jepa-2", "bouncing-digits").override(steps=1, labels="none", **SMALL)
    config = decide(config, open_videos(config.dataset, 0))
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "clips")
    folder.create()
    write_config(folder.config, config)
    folder.save_model(build_system(config))
    return folder.path


def test_the_digits_of_a_run_without_labels_are_segmented(run, monkeypatch):
    words = ["jepakit", "evaluate", str(run), "--labels", "mask", "--evaluators", "segmentation", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0
    found = json.loads((run / "evaluation.json").read_text())
    assert [(row["features"], row["metric"]) for row in found["rows"]] == [
        (features, metric) for features in ("encoder", "random init", "pixels") for metric in ("mean_iou", "token_accuracy")
    ]
    pixels = found["rows"][5]
    assert pixels["value"] > 0.9  # black and white: the raw patch says it
    assert pixels["detail"]["difference"]["of"] == "encoder - pixels"
    assert found["command"] == f"jepakit evaluate {run} --labels mask --evaluators segmentation"
    assert (found["data"]["train"], found["data"]["test"]) == (60, 30)


def test_maps_of_ones_own_are_read_in_the_datas_order(run, tmp_path):
    """Depth: how bright a pixel is. Twice as large, so that it is read at the encoder's size."""
    config = default_config("v-jepa-2", "bouncing-digits").override(steps=1, labels="none", **SMALL)
    data = open_videos(config.dataset, 0)
    clips = np.stack([data.train.clips.read(i)[:, 0] for i in range(5000)])
    np.save(tmp_path / "bright.npy", (clips / 255).astype(np.float32).repeat(2, axis=2).repeat(2, axis=3))
    rows = evaluate(run, labels=str(tmp_path / "bright.npy"), evaluators=["depth"], device="cpu")
    assert [(row.features, row.metric) for row in rows] == [(name, "rmse") for name in ("encoder", "random init", "pixels")]
    assert rows[2].value < 0.8 * (clips / 255).std()
    with pytest.raises(UserError, match=r"are of type float32; .* Ask for depth"):
        evaluate(run, labels=str(tmp_path / "bright.npy"), evaluators=["segmentation"], device="cpu")
    np.save(tmp_path / "few.npy", np.zeros((7, 4, 16, 16), np.uint8))
    with pytest.raises(UserError, match=r"few.npy has shape \[7, 4, 16, 16\]; a map .* for each of the clips"):
        evaluate(run, labels=str(tmp_path / "few.npy"), evaluators=["segmentation"], device="cpu")


def test_a_folder_of_maps_beside_pictures(untrained_run, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(40):
        half = rng.integers(8)
        picture = np.zeros((16, 16), np.uint8)
        picture[:, half : half + 8] = 200
        for folder, pixels in (("photos", picture), ("maps", (picture > 0).astype(np.uint8))):
            (tmp_path / folder / "a").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / "a" / f"{number:02d}.png")
    run = untrained_run(tmp_path / "run", "i-jepa", str(tmp_path / "photos"), patch_size=4)
    rows = evaluate(run, labels=str(tmp_path / "maps"), evaluators=["segmentation"], device="cpu")
    assert rows[-1].metric == "token_accuracy"
    assert rows[-1].value > 0.9
    evaluate(run, labels=str(tmp_path / "maps"), evaluators=["segmentation"], device="cpu", limit=9)
    assert json.loads((run / "evaluation.json").read_text())["data"]["train"] == 9
    (tmp_path / "maps" / "a" / "07.png").unlink()
    with pytest.raises(UserError, match=r"07.png and .*07.npy do not exist"):
        evaluate(run, labels=str(tmp_path / "maps"), evaluators=["segmentation"], device="cpu")


def test_other_labels_levels_and_what_comes_next(run):
    quick = {"evaluators": ["linear", "attentive-1"], "device": "cpu"}
    one = AttentiveConfig(learning_rates=(1e-3,), weight_decays=(0.01,), epochs=1, loss="focal")
    rows = evaluate(run, labels="velocity", levels=(1, 2), **quick, attentive=one)
    assert {row.metric for row in rows} == {"r2", "mae"}
    assert {row.features for row in rows if row.evaluator == "attentive-1"} == {"encoder", "random init"}
    rows = evaluate(run, labels="digit", seen=2, **quick, attentive=one)
    assert {row.features for row in rows if row.evaluator == "attentive-1"} == {"encoder", "with predictor", "random init"}
    assert {row.metric for row in rows} >= {"accuracy", "recall_at_5"}
    command = json.loads((run / "evaluation.json").read_text())["command"]
    assert command.endswith(
        "--labels digit --evaluators linear attentive-1 --seen 2 --attentive.learning-rates 0.001 "
        "--attentive.weight-decays 0.01 --attentive.epochs 1 --attentive.loss focal"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"evaluators": ["segmentation"]}, "measured by label maps. Give them: --labels maps.npy"),
        ({"evaluators": ["segmentation", "linear"], "labels": "mask"}, "not by linear, which can be asked for by itself"),
        ({"evaluators": ["segmentation", "depth"], "labels": "mask"}, "Ask for segmentation or depth"),
        ({"evaluators": ["segmentation"], "labels": "masks"}, 'Give one, or "mask"'),
        ({"evaluators": ["segmentation"], "labels": "mask", "seen": 2}, "Leave seen and ahead out"),
        ({"evaluators": ["segmentations"], "labels": "digit"}, "Did you mean 'segmentation'"),
        ({"labels": "digits"}, "Did you mean 'digit'"),
        ({"labels": "digit", "seen": 3}, "seen 3 is no multiple of a token's 2 frames"),
    ],
)
def test_messages(run, options, words):
    with pytest.raises(UserError, match=words):
        evaluate(run, device="cpu", **options)


