"""The command line: help is quick and complete, mistakes are told in words and cost nothing."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import jepakit
from jepakit.cli import VERBS, main
from jepakit.commands import finetune_options, pretrain_options
from jepakit.config import SECTIONS, default_config, section_types
from jepakit.registry import SIZES, SYSTEMS
from jepakit.training.finetuning_config import FineTuningOptions


def run(*words):
    """Exit status of a command, however it ends."""
    try:
        return main([str(word) for word in words])
    except SystemExit as stopped:
        return stopped.code or 0


def flags(text):
    return set(re.findall(r"(?<![\w-])--([a-z][\w.-]*)", text))


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_help_names_every_verb_and_system(capsys, words):
    assert run(*words) == 0
    text = capsys.readouterr().out
    assert all(f"jepakit {verb}" in text for verb in VERBS)
    assert all(system in text for system in SYSTEMS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys, verb):
    assert run(verb, "--help") == 0
    shown = capsys.readouterr()
    assert f"jepakit {verb}" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_help_of_a_system_lists_each_option_with_its_meaning(capsys, system):
    assert run("pretrain", system, "--help") == 0
    text = capsys.readouterr().out
    config = default_config(system, "x")
    for section in SECTIONS:
        for field in dataclasses.fields(getattr(config, section)):
            assert re.search(rf"--(no-)?{field.name.replace('_', '-')}\b", text), field.name
    own = {
        "llm-jepa": "Language model", "graph-jepa": "Width of everything", "pldm": "Width of an embedding",
        "h-jepa": "Numbers of a macro-action", "v-jepa-2-ac": "frozen encoder",
        "pixel-world": "Width of the predictor",
    }  # fmt: skip
    assert own.get(system, "Encoder") in text


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list"], *(["list", k] for k in ("datasets", "sizes"))])
def test_help_and_list_import_no_torch(words):
    program = (
        f"import sys; from jepakit.cli import main; main({words!r}); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'tyro', 'yaml', 'sklearn', 'rich')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_list_names_what_there_is(capsys):
    for kind, names in (("systems", SYSTEMS), ("sizes", SIZES), ("datasets", ("digits",)), ("evaluators", ("linear",))):
        assert run("list", kind) == 0
        text = capsys.readouterr().out
        assert all(re.search(rf"^{name}\s", text, re.MULTILINE) for name in names)
    assert run("--version") == 0
    assert capsys.readouterr().out == f"jepakit {jepakit.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_a_closed_pipe_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # else nothing waits for the exit
    command = [sys.executable, "-m", "jepakit", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=kept)
    os.close(writer)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to stand in, with things to stumble over."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no picture")
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("format: 1\n")
    np.save(tmp_path / "few.npy", np.zeros((15, 8, 8), dtype=np.uint8))
    np.save(tmp_path / "some.npy", np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8))
    return tmp_path


P = "pretrain lejepa --out new"
MISTAKES = [
    ("pretran lejepa", r"'pretran' is not a verb. Did you mean 'pretrain'"),
    ("pretrain", r"needs a system: i-jepa, lejepa, .*jepakit pretrain i-jepa --data"),
    ("pretrain lejpa --data digits --out new", r"'lejpa' is not known. Did you mean 'lejepa'"),
    (f"{P} --data nowhere", r"'nowhere' is neither a path that exists nor a built-in"),
    (f"{P} --data digit", r"Did you mean 'digits'"),
    (f"{P} --data empty", r"empty.*(no|holds).*"),
    (f"{P} --data texts", r"texts"),
    (f"{P} --data file", r"file is a file that is not understood"),
    (f"{P} --data few.npy", r"12 images to train on; at least 16"),
    ("pretrain lejepa --data digits --out run", r"run already holds a run.*jepakit resume run.*another --out"),
    ("pretrain lejepa --data digits --out file", r"Cannot make the run folder file: .*file is a file"),
    ("pretrain lejepa --data digits --out file/new", r"Cannot make the run folder file/new"),
    (f"{P} --data digits --lr -1", r"lr must be at least 0, got -1"),
    (f"{P} --data digits --steps 5 --epochs 2", r"steps or epochs, not both"),
    (f"{P} --data digits --accumulate 2", r"accumulate 2.*whole batch"),
    (f"{P} --data digits --loggers wandbb", r"loggers: 'wandbb' is not known. Did you mean 'wandb'"),
    (f"{P} --data digits --init nowhere", r"nowhere"),
    (f"{P} --data digits --init run", r"run.config.yaml"),
    (f"{P} --data some.npy --keep-best knn", r"keep_best knn needs labels, and .*some.npy has none"),
    (f"{P} --config nowhere.yaml", r"nowhere.yaml does not exist"),
    ("pretrain i-jepa --data some.npy --out new --batch-size 64 --accumulate 64", r"accumulate 64: the 32 images"),
    ("resume nowhere", r"nowhere does not exist. A run folder holds config.yaml"),
    ("resume run", r"run.config.yaml: system: .*Valid: graph-jepa, h-jepa, i-jepa, lejepa"),
    ("report nowhere", r"nowhere does not exist. A run folder holds config.yaml"),
    ("evaluate nowhere", r"nowhere"),
    ("embed nowhere --data digits --out a.npy", r"nowhere"),
    ("embed run --data digits --out a.txt", r"--out a.txt: embeddings are written as .npy or .parquet. Use a.npy"),
    ("list systms", r"list: 'systms' is not known. Did you mean 'systems'"),
    ("list systems sizes", r"list takes one word"),
]


@pytest.mark.parametrize(("command", "told"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing_behind(place, capsys, command, told):
    before = sorted(place.rglob("*"))
    assert run(*command.split()) == 2
    shown = capsys.readouterr()
    assert re.search(told, shown.err), shown.err
    assert shown.err.startswith("jepakit: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(place.rglob("*")) == before


UNREADABLE = [
    (f"{P} --data digits --bath-size 3", r"Unrecognized options: --bath-size.*--batch-size"),
    (f"{P} --data digits --augment.vews 3", r"--augment.vews.*--augment.views"),
    (P, r"--data"),
    ("pretrain lejepa --data digits", r"--out"),
    (f"{P} --data digits --warmup fast", r"--warmup: could not convert string to float: 'fast'"),
    (f"{P} --data digits --steps 1.5", r"--steps.*1.5"),
    (f"{P} --data digits --device cdua", r"'cdua'.*--device.*'auto',\s+'cpu',\s+'cuda',\s+'mps'"),
    ("evaluate", r"run folder"),
    ("evaluate run --evalators linear", r"--evalators.*--evaluators"),
    ("embed run --out a.npy", r"--data"),
    ("resume", r"run folder"),
]


@pytest.mark.parametrize(("command", "told"), UNREADABLE, ids=[command for command, _ in UNREADABLE])
def test_an_option_that_cannot_be_read_names_itself_and_the_nearest(place, capsys, command, told):
    assert run(*command.split()) == 2
    shown = capsys.readouterr()
    text = re.sub(r"[│╭╮╰╯─]", " ", shown.err)
    assert re.search(told, text, re.DOTALL), text
    assert "Traceback" not in text
    assert not (place / "new").exists()


def test_python_and_the_command_line_have_the_same_verbs():
    import jepakit.pages.page  # the package must not hide the verb

    assert all(callable(getattr(jepakit, name)) for name in jepakit.__all__)
    python = {name.replace("_", "-") for name in jepakit.__all__}
    assert python - {"agent", "load", "register", "stream"} == set(VERBS)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("pretrain", "finetune", "plan-run", "list")])
def test_python_and_the_command_line_have_the_same_options(capsys, verb):
    """`source` and `opened` are objects, which only Python can give; what is positional is so in both."""
    parameters = list(inspect.signature(getattr(jepakit, verb)).parameters.values())
    options = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    assert len(parameters) - len(options) == {"pack": 2, "collect": 0}.get(verb, 1)
    assert run(verb, "--help") == 0
    shown = {flag.removeprefix("no-").replace("-", "_") for flag in flags(capsys.readouterr().out)}
    names = {flag.partition(".")[0] for flag in shown}  # attentive.epochs is a part of what Python takes as `attentive`
    assert names - {"help"} == {option.name for option in options} - {"source", "opened"}


def test_python_and_the_command_line_have_the_same_options_for_finetune():
    kinds = section_types("finetuned-images")
    line = {field.name for field in dataclasses.fields(finetune_options("finetuned-images"))}
    assert set(inspect.signature(jepakit.finetune).parameters) - {"run", "options", "data"} <= line
    hidden = {f.name for f in dataclasses.fields(kinds["model"])} - {f.name for f in dataclasses.fields(FineTuningOptions)}
    assert hidden == {"encoder", "answers"}  # what is found, or given by position


@pytest.mark.parametrize("system", SYSTEMS)
def test_python_and_the_command_line_have_the_same_options_for_pretrain(system):
    config = default_config(system, "x")
    line = set()
    for field in dataclasses.fields(pretrain_options(system)):
        section = field.name in SECTIONS
        line |= {f.name for f in dataclasses.fields(getattr(config, field.name))} if section else {field.name}
    named = set(inspect.signature(jepakit.pretrain).parameters) - {"system", "options"}
    assert named <= line
    assert all(config.section(option) is not None for option in line - named)
    assert {f.name for s in SECTIONS for f in dataclasses.fields(getattr(config, s))} <= line
