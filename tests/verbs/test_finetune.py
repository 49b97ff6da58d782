"""`finetune`, from a run to a tuned run that every other verb takes."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch

import jepakit
from jepakit.cli import main
from jepakit.config import read_config
from jepakit.errors import UserError
from jepakit.evaluation.evaluators import finetuned
from jepakit.evaluation.supervised import SupervisedConfig
from jepakit.files import read_json, write_json
from jepakit.interop.embedding import embed_samples
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.training.run_folder import RunFolder
from jepakit.verbs import pretrain

TINY = {
    "data": "digits", "limit": 120, "steps": 6, "batch_size": 32, "log_every": 2, "checkpoint_every": 2, "watch_every": 3,
    "watch_samples": 32, "keep_checkpoints": 9, "threads": 1, "precision": "float32", "device": "cpu",
}  # fmt: skip
SOME = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def pageless(monkeypatch):
    """No report at the end of each run, which takes longer than the run."""
    monkeypatch.setattr(pretrain, "report", lambda run, **options: "report.html")


@pytest.fixture(scope="module")
def finished(runs, tmp_path_factory):
    """Tuned runs by name; made once."""
    place, made = tmp_path_factory.mktemp("tuned"), {}

    def tuned(name):
        options = {
            "full": {}, "last-blocks": {"method": "last-blocks", "blocks": 2}, "lora": {"method": "lora"},
            "kept": {"predictor": "kept", "method": "last-blocks", "blocks": 0, "head": "attentive"},
        }[name]  # fmt: skip
        if name == "lora":
            pytest.importorskip("peft")
        if name not in made:
            made[name] = jepakit.finetune(runs["i-jepa"], out=place / name, **TINY, **options)
        return made[name]

    return tuned


def untimed(folder):
    lines = RunFolder(folder).read_metrics()
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


@pytest.mark.parametrize("name", ["full", "lora", "kept"])
def test_a_tuned_run_loads_answers_embeds_exports_and_has_a_report(finished, name, tmp_path):
    out = finished(name).out
    model = jepakit.load(out)
    found = model.predict(SOME)
    assert found.values.shape == (4, 10)
    assert found.names == [model.tuned.answers.classes[number] for number in found.values.argmax(1)]
    assert not any("lora" in key for key in model.state_dict())
    folder = model.save_pretrained(tmp_path / "exported")
    again = jepakit.load(folder)
    assert torch.equal(again.predict(SOME).values, found.values)
    assert torch.equal(again.embed(SOME), model.embed(SOME))
    assert (tmp_path / "exported" / "predictor.safetensors").exists() == (name == "kept")
    np.save(tmp_path / "x.npy", np.zeros((20, 8, 8), dtype=np.uint8))
    assert jepakit.embed(out, data=tmp_path / "x.npy", out=tmp_path / "a.npy").shape == (20, 128)
    assert jepakit.export(out, out=tmp_path / "timm", format="timm").exists()
    if name == "full":
        assert "What tuning gained" in jepakit.report(out).read_text("utf-8")
    assert read_config(out).model.method == {"full": "full", "lora": "lora", "kept": "last-blocks"}[name]


def test_the_result_holds_the_tuned_model_and_what_it_stands_beside(finished):
    rows = {row.features: row for row in finished("full").rows}
    assert rows.keys() == {"tuned", "frozen probe", "always the same"}  # so few steps are cheaper than a training
    assert all((row.evaluator, row.metric) == ("answers", "accuracy") for row in rows.values())
    assert rows["frozen probe"].detail["train"] == 120  # the labels that were tuned on, no more
    assert rows["tuned"].value - rows["frozen probe"].value == pytest.approx(rows["frozen probe"].detail["difference"]["value"])
    written = read_json(finished("full").out / "evaluation.json")["rows"]
    assert [row["features"] for row in written] == list(rows)


def test_evaluate_takes_a_tuned_run_and_trains_from_random_weights_where_asked(finished, tmp_path, monkeypatch):
    short = partial(finetuned.train_supervised, config=SupervisedConfig(epochs=1))
    monkeypatch.setattr(finetuned, "train_supervised", short)
    out = shutil.copytree(finished("last-blocks").out, tmp_path / "run")
    rows = jepakit.evaluate(out, evaluators=["knn-20"], supervised=True)
    assert {(row.features, row.evaluator) for row in rows} >= {
        ("encoder", "knn-20"), ("pretrained", "knn-20"), ("random init", "knn-20"), ("pixels", "knn-20"),
        ("tuned", "answers"), ("frozen probe", "answers"), ("from scratch", "answers"),
    }  # fmt: skip


def test_loss_and_score_are_watched_on_held_out_and_on_training_samples(finished):
    seen = [line for line in untimed(finished("full").out) if line["kind"] == "health"]
    assert [line["step"] for line in seen] == [0, 3, 6]
    assert seen[0]["held-out/loss"] < np.log(10)  # it begins as a probe
    assert all(0 <= line[f"{part}/accuracy"] <= 1 for line in seen for part in ("held-out", "training"))


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_killed_run_goes_on_to_the_same_end(finished, name, tmp_path):
    whole = finished(name).out
    out = shutil.copytree(whole, tmp_path / "run")
    for late in (out / "checkpoints" / "step-00000004", out / "checkpoints" / "step-00000006"):
        shutil.rmtree(late)
    for result in ("model.safetensors", "evaluation.json"):
        (out / result).unlink()
    jepakit.resume(out)
    assert untimed(out) == untimed(whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_checkpoint_on_the_way_can_be_asked(finished):
    out = finished("lora").out
    last = jepakit.load(out / "checkpoints" / "step-00000006").predict(SOME).values
    assert torch.allclose(last, jepakit.load(out).predict(SOME).values, atol=1e-5)


def test_a_config_and_the_command_line_make_the_same_run(finished, runs, tmp_path, capsys):
    whole = finished("last-blocks").out
    flat = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["finetune", str(runs["i-jepa"]), *flat, "--method", "last-blocks", "--blocks", "2", "--out"]
    assert main([*words, str(tmp_path / "line")]) == 0
    assert main(["finetune", "--config", str(whole / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    for name in ("line", "again"):
        assert read_config(tmp_path / name) == read_config(whole)
        assert (tmp_path / name / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert main(["pretrain", "--config", str(whole / "config.yaml"), "--out", str(tmp_path / "no")]) == 2
    assert "jepakit finetune --config" in capsys.readouterr().err


def test_what_was_tuned_may_go_and_its_licence_stays(runs, tmp_path):
    source = shutil.copytree(runs["i-jepa"], tmp_path / "source")
    write_json(source / "environment.json", {"licence": "cc-by-nc-4.0"})
    done = jepakit.finetune(source, out=tmp_path / "tuned", **TINY)
    shutil.rmtree(source)
    assert read_json(done.out / "environment.json")["licence"] == "cc-by-nc-4.0"
    assert read_config(done.out).model.encoder == str(source)
    model = jepakit.load(done.out)
    assert model.licence == "cc-by-nc-4.0"
    assert read_json(model.save_pretrained(tmp_path / "out") / "config.json")["licence"] == "cc-by-nc-4.0"
    twice = jepakit.finetune(done.out, out=tmp_path / "twice", **TINY)  # a tuned model's encoder, with a new head
    assert jepakit.load(twice.out).licence == "cc-by-nc-4.0"


def test_the_exported_encoder_of_a_run_is_tuned_too(runs, tmp_path):
    jepakit.export(runs["lejepa"], out=tmp_path / "out")
    done = jepakit.finetune(tmp_path / "out", out=tmp_path / "tuned", **TINY)
    assert read_config(done.out).inputs == jepakit.load(tmp_path / "out").inputs


def test_numbers_are_answered_in_their_own_unit(runs, tmp_path):
    images = open_images(ImageDataConfig(data="digits"), 0).train
    pixels = np.stack([images[n]["image"].numpy() for n in range(200)])
    np.save(tmp_path / "x.npy", pixels[:, 0])
    labels = 100 + 20 * pixels.mean(axis=(1, 2, 3)) / pixels.mean()
    np.save(tmp_path / "y.npy", labels + 0.25)
    data = {"data": tmp_path / "x.npy", "labels": str(tmp_path / "y.npy"), "limit": None}
    longer = {"steps": 60, "log_every": 30, "checkpoint_every": 60, "watch_every": 30}
    done = jepakit.finetune(runs["lejepa"], out=tmp_path / "tuned", **{**TINY, **data, **longer})
    values = {(row.features, row.metric): row.value for row in done.rows}
    assert values["tuned", "r2"] > 0.5
    assert values["always the same", "r2"] <= 1e-6
    found = jepakit.load(done.out).predict(SOME)
    assert found.values.shape == (4,)
    assert 60 < float(found.values.mean()) < 180
    with pytest.raises(UserError, match="answers with numbers"):
        _ = found.names


def test_mistakes_are_told_before_anything_is_trained(runs, tmp_path):
    out = tmp_path / "out"
    for given, options, told in (
        (runs["i-jepa"], {"data": "digits", "labels": "none"}, "digits has no labels to tune on"),
        (runs["lejepa"], {"data": "digits", "predictor": "kept"}, "predictor kept needs a predictor of masked tokens"),
        (runs["i-jepa"], {"data": "digits", "method": "loro"}, "Did you mean 'lora'"),
        (runs["i-jepa"], {"data": "digits", "image_size": (16, 16)}, r"reads 8 x 8 pixels .*Leave it out"),
        (runs["i-jepa"], {"data": "digits", "keep_best": "knn", "limit": 100}, "keep_best knn is of pretraining"),
        (runs["i-jepa"], {"data": "digits", "stop_on_collapse": True}, "'stop_on_collapse' is not an option"),
        (None, {"data": "digits"}, "finetune needs a run and labelled data"),
        (runs["i-jepa"], {}, "finetune needs a run and labelled data"),
        (None, {"config": runs["i-jepa"] / "config.yaml"}, "is a run of 'i-jepa'"),
    ):
        with pytest.raises(UserError, match=told):
            jepakit.finetune(given, out=out, **options)
        assert not out.exists()
    with pytest.raises(UserError, match="tuned on no labels"):
        jepakit.load(runs["i-jepa"]).predict(SOME)


def test_a_damaged_export_is_refused(finished, tmp_path):
    jepakit.export(finished("kept").out, out=tmp_path / "out")
    described = read_json(tmp_path / "out" / "config.json")
    for change, told in (
        ({"tuning": {"head": "linear"}}, "tuning must say head, predictor, answers"),
        ({"tuning": {**described["tuning"], "head": "linear"}}, r"head\.safetensors"),
        ({"predictor": {**described["predictor"], "grid": [0]}}, r"predictor\.grid"),
        ({"predictor": {**described["predictor"], "output_dim": 3}}, r"predictor\.safetensors has other shapes"),
    ):
        (tmp_path / "out" / "config.json").write_text(json.dumps({**described, **change}))
        with pytest.raises(UserError, match=told):
            jepakit.load(tmp_path / "out")


def test_the_kept_predictor_of_a_frozen_encoder_leaves_the_embeddings_alone(finished, runs):
    data = open_images(ImageDataConfig(data="digits"), 0).test.subset(range(8))
    before, after = jepakit.load(runs["i-jepa"]), jepakit.load(finished("kept").out)
    first, second = (embed_samples(model, model.inputs, data) for model in (before, after))
    assert torch.equal(first, second)
