"""`pretrain` and `resume`, from words to run folder, without the evaluation and the report at the end."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import jepakit
from jepakit.cli import main
from jepakit.config import default_config, read_config
from jepakit.errors import UserError
from jepakit.interop.runs import Run
from jepakit.modalities.images.data import open_images
from jepakit.training import loop
from jepakit.training.checkpoints import read_checkpoint
from jepakit.training.health import HealthMonitor
from jepakit.training.run_folder import RunFolder
from jepakit.verbs import pretrain as verb
from jepakit.verbs.pretrain import decide, held_out_count

TINY = {
    "limit": 96,
    "steps": 6,
    "batch_size": 16,
    "log_every": 2,
    "health_every": 3,
    "checkpoint_every": 4,
    "health_samples": 8,
    "lidar_views": 2,
    "threads": 1,
    "precision": "float32",
    "device": "cpu",
    "augment": {"views": 2},
    "sigreg": {"slices": 16},
}


@pytest.fixture(autouse=True)
def ending(monkeypatch):
    """Counts how often the evaluation and the report were called instead of making them."""
    called = {"evaluate": 0, "report": 0}

    def count(name, result):
        def stub(run, **options):
            called[name] += 1
            if name == "evaluate":
                run.folder.evaluation.write_text("{}")
            return result

        return stub

    monkeypatch.setattr(verb, "evaluate", count("evaluate", ["a row"]))
    monkeypatch.setattr(verb, "report", count("report", "report.html"))
    return called


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder `photos` of 40 pictures in two classes, in the folder we stand in."""
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        folder = tmp_path / "photos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (10, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def words(**options):
    """Options as words of the command line."""
    flat = []
    for name, value in options.items():
        parts = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        for key, part in parts.items():
            flat += [f"--{key.replace('_', '-')}", str(part)]
    return flat


def untimed(folder):
    return [
        {name: value for name, value in line.items() if not name.startswith("time/")}
        for line in RunFolder(folder).read_metrics()
    ]


def test_a_run_leaves_everything_another_verb_needs(tmp_path, ending):
    done = jepakit.pretrain("lejepa", data="digits", out=tmp_path / "a" / "run", **TINY)
    assert done.outcome == loop.Outcome("finished", 6, done.outcome.verdict)
    assert done.rows == ["a row"]
    assert {path.name for path in done.out.iterdir()} == {
        "config.yaml", "metrics.jsonl", "checkpoints", "model.safetensors", "evaluation.json", "environment.json",
    }  # fmt: skip
    config = read_config(done.out)
    assert (config.dataset.image_size, config.dataset.channels) == ((8, 8), 1)
    assert (config.training.steps, config.training.workers) == (6, 0)
    assert config.inputs.image_size == (8, 8)
    kinds = [(line["kind"], line["step"]) for line in untimed(done.out)]
    assert kinds == [("health", 0), ("train", 2), ("health", 3), ("train", 4), ("train", 6), ("health", 6)]
    assert ending == {"evaluate": 1, "report": 1}


def test_what_is_left_out_is_said(pictures, tmp_path, capsys):
    damaged, *_ = sorted(pictures.rglob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:30])
    (pictures / "about.txt").write_text("no picture")
    jepakit.pretrain("lejepa", data=pictures, out=tmp_path / "run", on_bad_file="skip", **{**TINY, "limit": None})
    said = capsys.readouterr().err
    assert f"Left out, as they cannot be read: 1: {damaged}: " in said
    assert "Files passed over because they are not images: 1." in said


def test_without_labels_nothing_is_evaluated(tmp_path, ending):
    jepakit.pretrain("lejepa", data="digits", labels="none", out=tmp_path / "run", **TINY)
    assert ending == {"evaluate": 0, "report": 1}


def test_python_and_the_command_line_make_the_same_run(tmp_path):
    jepakit.pretrain("lejepa", data="digits", out=tmp_path / "python", **TINY)
    assert main(["pretrain", "lejepa", *words(data="digits", out=tmp_path / "line", **TINY)]) == 0
    assert read_config(tmp_path / "python") == read_config(tmp_path / "line")
    assert untimed(tmp_path / "python") == untimed(tmp_path / "line")


def test_a_config_reproduces_its_run_and_options_override_it(tmp_path):
    jepakit.pretrain("lejepa", data="digits", out=tmp_path / "a", **{**TINY, "seed": 3})
    config = tmp_path / "a" / "config.yaml"
    assert main(["pretrain", "--config", str(config), "--out", str(tmp_path / "line")]) == 0
    jepakit.pretrain(config=config, out=tmp_path / "python")
    assert untimed(tmp_path / "line") == untimed(tmp_path / "python") == untimed(tmp_path / "a")
    assert read_config(tmp_path / "line") == read_config(tmp_path / "a")
    assert main(["pretrain", "lejepa", f"--config={config}", *words(out=tmp_path / "b", lr=1e-5, epochs=0.3)]) == 0
    changed = read_config(tmp_path / "b").training
    assert (changed.lr, changed.seed, changed.steps) == (1e-5, 3, 2)


def test_a_config_of_another_system_is_refused(tmp_path, capsys):
    jepakit.pretrain("lejepa", data="digits", out=tmp_path / "a", **TINY)
    assert main(["pretrain", "i-jepa", "--config", str(tmp_path / "a"), "--out", str(tmp_path / "b")]) == 2
    assert "is a run of 'lejepa', not of 'i-jepa'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def interrupt(monkeypatch, step, act):
    """Do something when the metrics line of a step is written."""
    write = RunFolder.append_metrics

    def append(folder, line):
        write(folder, line)
        if line["step"] == step:
            act()

    monkeypatch.setattr(RunFolder, "append_metrics", append)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_says_how_to_go_on_and_sets_the_status(tmp_path, monkeypatch, capsys, ending, number):
    jepakit.pretrain("lejepa", data="digits", out=tmp_path / "whole", **TINY)
    out = tmp_path / "run of [mine]"
    with monkeypatch.context() as patch:
        interrupt(patch, 3, lambda: os.kill(os.getpid(), number))
        assert main(["pretrain", "lejepa", *words(data="digits", out=out, **TINY)]) == 128 + number
    said = capsys.readouterr().err
    assert "Finishing this step and saving" in said
    assert f"Saved at step 3. Continue with: jepakit resume '{out}'\n" in said
    assert ending == {"evaluate": 1, "report": 1}
    assert main(["resume", str(out)]) == 0
    assert f"Resuming {out} at step 3 of 6." in capsys.readouterr().err
    assert untimed(out) == untimed(tmp_path / "whole")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert ending == {"evaluate": 2, "report": 2}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(tmp_path, monkeypatch, number):
    interrupt(monkeypatch, 2, lambda: [os.kill(os.getpid(), number) for _ in range(2)])
    try:
        status = main(["pretrain", "lejepa", *words(data="digits", out=tmp_path / "run", **TINY)])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 128 + number
    assert RunFolder(tmp_path / "run").list_checkpoints() == []


def test_resuming_a_finished_run_only_writes_its_report_again(tmp_path, capsys, ending):
    out = tmp_path / "run"
    jepakit.pretrain("lejepa", data="digits", out=out, **TINY)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert main(["resume", str(out)]) == 0
    assert "has finished at step 6 of 6: nothing is left to train" in capsys.readouterr().err
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert {p.name for p in before if before[p] != after[p]} <= {"metrics.jsonl"}
    assert all(before[p][0] == after[p][0] for p in before)
    assert ending == {"evaluate": 1, "report": 2}
    (out / "evaluation.json").unlink()  # as when it was killed while evaluating
    (out / "model.safetensors").unlink()
    assert main(["resume", str(out)]) == 0
    assert ending == {"evaluate": 2, "report": 3}
    assert (out / "model.safetensors").read_bytes() == before[out / "model.safetensors"][0]


def test_a_relative_folder_of_pictures_is_found_again_from_anywhere(pictures, tmp_path, monkeypatch):
    options = {**TINY, "workers": 0, "data": "photos", "out": "runs/a"}
    with monkeypatch.context() as patch:
        interrupt(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["pretrain", "lejepa", *words(**options)]) == 143
    assert yaml.safe_load((tmp_path / "runs/a/config.yaml").read_text())["dataset"]["data"] == str(pictures)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["resume", str(tmp_path / "runs/a")]) == 0


def test_changed_data_is_not_resumed(pictures, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["pretrain", "lejepa", *words(**TINY, workers=0, data="photos", out="run")]) == 143
    first = next(pictures.rglob("*.png"))
    first.rename(first.with_name("renamed.png"))
    assert main(["resume", "run"]) == 2
    assert "The data changed since this run began" in capsys.readouterr().err
    pictures.rename(tmp_path / "moved")
    assert main(["resume", "run"]) == 2
    assert "photos' is neither a path that exists" in capsys.readouterr().err


def test_paths_are_made_absolute_and_names_are_left(pictures, tmp_path):
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"class{n % 2}/{n}.png,{n % 2}\n" for n in range(40)))
    config = default_config("lejepa", "photos").override(labels="a.csv")
    decided = decide(config, open_images(config.dataset, 0))
    assert (decided.dataset.data, decided.dataset.labels) == (str(pictures), str(tmp_path / "a.csv"))
    for data in ("digits",):
        (tmp_path / data).mkdir()  # a folder of the same name is not what was asked for
        config = default_config("lejepa", data).override(labels="none")
        decided = decide(config, open_images(config.dataset, 0))
        assert (decided.dataset.data, decided.dataset.labels) == (data, "none")


def test_weights_of_another_run_start_a_new_one(tmp_path, capsys):
    first = jepakit.pretrain("lejepa", data="digits", out=tmp_path / "a", **TINY)
    frozen = {**TINY, "lr": 0.0, "weight_decay": 0.0}
    jepakit.pretrain("lejepa", data="digits", out=tmp_path / "b", init=first.out, **frozen)
    mine, theirs = (
        read_checkpoint(RunFolder(tmp_path / n).list_checkpoints()[-1], torch.device("cpu"))["system"] for n in ("a", "b")
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if name.endswith(("weight", "bias")))
    other = {**TINY, "size": "tiny", "init": first.out}
    assert main(["pretrain", "lejepa", *words(data="digits", out=tmp_path / "c", **other)]) == 2
    said = capsys.readouterr().err
    assert re.search(r"a.model.safetensors (lacks|has).*weights of another model or size", said)
    assert not (tmp_path / "c").exists()
    assert main(["pretrain", "i-jepa", *words(data="digits", out=tmp_path / "c", init=first.out, steps=2)]) == 2
    assert "weights of another model" in capsys.readouterr().err


def test_weights_of_an_unfinished_run_are_refused_in_words(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        main(["pretrain", "lejepa", *words(data="digits", out=tmp_path / "a", **TINY)])
    capsys.readouterr()
    for command in (
        ["pretrain", "lejepa", *words(data="digits", out=tmp_path / "b", init=tmp_path / "a", **TINY)],
        ["evaluate", str(tmp_path / "a")],
        ["embed", str(tmp_path / "a"), "--data", "digits", "--out", str(tmp_path / "a.npy")],
        ["export", str(tmp_path / "a"), "--out", str(tmp_path / "exported")],
    ):
        assert main(command) == 2
        assert "the run has not finished (jepakit resume)" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_memory_that_runs_out_while_measuring_is_told_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    def fail(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(verb, "measure_cost", fail)
    assert main(["pretrain", "i-jepa", *words(data="digits", out=tmp_path / "run", batch_size=64)]) == 2
    assert "Memory ran out at batch_size 64. Cut the step into pieces with --accumulate 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_collapse_that_ends_the_run_has_its_own_status(tmp_path, monkeypatch, capsys):
    measure = HealthMonitor.measure

    def collapsed(monitor, step, steps):
        verdict = {"health/verdict": "collapsed" if step else "start", "health/message": "all alike"}
        return {**measure(monitor, step, steps), **verdict}

    monkeypatch.setattr(HealthMonitor, "measure", collapsed)
    command = ["pretrain", "lejepa", "--stop-on-collapse", *words(data="digits", out=tmp_path / "run", **TINY)]
    assert main(command) == 3
    said = capsys.readouterr().err
    assert "health at step 3: collapsed — all alike" in said
    assert "Ended at step 3: collapsed." in said
    assert main(["resume", str(tmp_path / "run")]) == 3
    assert "has collapsed at step 3 of 6: nothing is left to train" in capsys.readouterr().err


def test_a_run_on_a_python_object_resumes_with_it(tmp_path, monkeypatch, capsys):
    datasets = pytest.importorskip("datasets")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    source = datasets.Dataset.from_dict({"image": [Image.fromarray(p) for p in pixels]})
    with monkeypatch.context() as patch:
        interrupt(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = jepakit.pretrain("lejepa", data=source, out=tmp_path / "run", **TINY)
    assert stopped.outcome.ended == "interrupted"
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "was trained on a data set object: jepakit.resume(" in capsys.readouterr().err
    assert jepakit.resume(tmp_path / "run", source=source).outcome.ended == "finished"


@pytest.mark.parametrize("count", [20, 25])
def test_a_batch_is_never_larger_than_what_is_trained_on(tmp_path, count):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 255, (count, 8, 8), dtype=np.uint8))
    config = default_config("lejepa", str(tmp_path / "a.npy"))
    images = open_images(config.dataset, 0)
    decided = decide(config, images)
    assert decided.training.batch_size == len(images.train) - held_out_count(decided, len(images.train))
    assert decided.training.steps == 1000
    pieces = decide(config.override(accumulate=4, batch_size=256), images).training
    assert pieces.batch_size % 4 == 0


def test_epochs_and_steps_are_decided_by_the_data():
    config = default_config("lejepa", "digits")
    images = open_images(config.dataset, 0)
    count = len(images.train)
    for epochs, batch in ((1.0, 128), (2.5, 64)):
        training = decide(config.override(epochs=epochs, batch_size=batch), images).training
        assert training.epochs is None
        assert training.steps == pytest.approx(epochs * count / batch, abs=1.0 + 0.1 * epochs * count / batch)
    huge = dataclasses.replace(images, train=images.train.subset(np.zeros(2_000_000, dtype=np.int64)))
    assert 1000 <= decide(config, huge).training.steps <= 10_000


def test_how_the_run_was_made_is_written_down(tmp_path, monkeypatch):
    command = ["pretrain", "lejepa", *words(data="digits", out=tmp_path / "my run", **TINY)]
    monkeypatch.setattr("sys.argv", ["/usr/bin/jepakit", *command])
    assert main() == 0
    environment = yaml.safe_load((tmp_path / "my run" / "environment.json").read_text())
    assert environment["command"].startswith("jepakit pretrain lejepa --data digits --out '")
    assert (environment["torch"], environment["threads"]) == (torch.__version__, 1)
    assert environment["device"].startswith("cpu (")
    assert environment["precision"] == "float32"
    assert environment["wall_s"] > 0


def test_nothing_held_out_is_trained_on_and_not_evaluated(pictures, ending):
    from jepakit.verbs.evaluate import evaluate

    options = {**TINY, "limit": None, "image_size": (8, 8)}
    done = jepakit.pretrain("lejepa", data="photos", out="everything", test_fraction=0.0, **options)
    assert (done.outcome.ended, done.rows) == ("finished", [])
    assert ending == {"evaluate": 0, "report": 1}
    with pytest.raises(UserError, match=r"photos holds nothing out to evaluate on: test_fraction is 0\. Give other data"):
        evaluate("everything")


@pytest.fixture
def teacher(untrained_run, tmp_path, monkeypatch):
    """The folder `teacher`: a LeJEPA run whose vision transformer has 4 x 4 tokens."""
    monkeypatch.chdir(tmp_path)
    return untrained_run(tmp_path / "teacher", "lejepa", "digits", backbone="vit", patch_size=2)


STUDENT = {name: value for name, value in TINY.items() if name not in ("augment", "sigreg")}


def test_a_frozen_teacher_comes_from_another_run_and_stays_in_this_one(teacher):
    weights = Run(teacher).system.network.encoder.state_dict()
    student = {"data": "digits", "patch_size": 2, "predictor_dim": 32, **STUDENT}
    jepakit.pretrain("i-jepa", out="student", target="frozen", encoder="teacher", **student)
    shutil.rmtree("teacher")
    system = Run("student").system
    assert all(torch.equal(t, weights[name]) for name, t in system.target.teacher.encoder.state_dict().items())
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(jepakit.load("student").embed(images), system.encoder(images).mean())
    jepakit.pretrain("i-jepa", out="again", config="student/config.yaml", encoder="student/encoder")
    lines = [untimed(run) for run in ("student", "again")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "frozen"}, "target frozen needs the teacher: give its run as --encoder RUN"),
        ({"encoder": "teacher"}, "is the teacher of target frozen, target 'ema': use --target frozen"),
        ({"target": "frozen", "encoder": "teacher", "patch_size": 4}, "has 4 x 4 tokens an image, this run has 2 x 2.*size 2"),
        ({"target": "frozen", "encoder": "teacher", "image_size": (16, 16)}, "was trained on 8 x 8 pixels.*--image-size 8 8"),
        ({"target": "frozen", "encoder": "teechar"}, "teechar"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(teacher, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        jepakit.pretrain("i-jepa", data="digits", out="student", **{"patch_size": 2, **STUDENT, **options})
    assert not (tmp_path / "student").exists()
