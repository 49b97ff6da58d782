"""Configs, options of the command line, and lines of metrics, as people mistype them and strangers forge them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import jepakit
from jepakit.cli import main
from jepakit.config import RunConfig, default_config, from_plain, read_config, section_types, to_plain, write_config
from jepakit.errors import UserError
from jepakit.files import read_metrics
from tests.robustness.mutations import mutations
from tests.robustness.oracle import check_all, check_message, outcome, refusal

SYSTEMS = ("i-jepa", "lejepa", "v-jepa-2.1", "llm-jepa", "lewm", "graph-jepa")


def sound(system: str = "i-jepa") -> dict[str, Any]:
    return {"format": 1, "jepakit": jepakit.__version__, **to_plain(default_config(system, "digits"))}


TEXT = yaml.safe_dump(sound(), sort_keys=False)


def texts() -> dict[str, str | bytes]:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    tags = [
        "!!python/object/apply:os.system ['echo x']",
        "!!python/object/new:os.system ['x']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1]",
        "!!python/object:jepakit.config.RunConfig {}",
        "!custom 3",
        "!!binary aGVsbG8=",
        "!!timestamp 2020-01-01",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!int '3'",
        "!!float 'x'",
        "!!map {}",
        "!<tag:yaml.org,2002:python/object/apply:os.system> [x]",
        "!!js/function 'x'",
        "! 3",
    ]
    cases: dict[str, str | bytes] = {f"the tag {tag}": TEXT.replace("seed: 0", f"seed: {tag}") for tag in tags}
    cases |= {f"a document with the tag {tag}": tag for tag in tags}
    cases |= {f"a key with the tag {tag}": TEXT.replace("  seed: 0", f"  {tag}: 0") for tag in tags[:6]}
    cases |= {
        "billion laughs": laughs + TEXT,
        "billion laughs as an option": TEXT.replace("training:", "training:\n  warmup: &a [*a, *a]"),
        "itself": "&a [*a]",
        "itself, a map": "&a {a: *a}",
        "merge": TEXT + "base: &b {seed: 1}\nother:\n  <<: *b\n",
        "merge alone": TEXT.replace("  seed: 0", "  <<: {seed: 0}"),
        "empty": "",
        "blank": "\n \n",
        "comment": "# nothing\n",
        "null": "null",
        "a word": "config",
        "a list": "- 1\n- 2\n",
        "two documents": TEXT + "---\n" + TEXT,
        "tabs": TEXT.replace("  seed", "\tseed"),
        "open quote": TEXT + 'x: "',
        "open bracket": TEXT + "x: [",
        "deep list": "x: " + "[" * 20_000,
        "deep map": "{a: " * 20_000,
        "deep and closed": "[" * 3000 + "]" * 3000,
        "wide": "x: [" + "1, " * 50_000 + "]",
        "long word": TEXT.replace("seed: 0", "seed: " + "x" * 1_000_000),
        "UTF-16": TEXT.encode("utf-16"),
        "Latin-1": (TEXT + "é: 1").encode("latin-1"),
        "binary": bytes(range(256)) * 4,
        "zeros": bytes(100),
        "a date": TEXT.replace("seed: 0", "seed: 2020-13-45"),
        "a date that is": TEXT.replace("seed: 0", "seed: 2020-10-05"),
        "sexagesimal": TEXT.replace("seed: 0", "warmup: 190:20:30.15"),
        "octal": TEXT.replace("seed: 0", "seed: 09"),
        "a key of a list": TEXT + "? [a, b]\n: 1\n",
        "a key of a map": TEXT + "? {a: b}\n: 1\n",
        "a key of a date": TEXT + "2020-01-01: 1\n",
        "numbers as keys": TEXT + "1: 1\ntrue: 2\nnull: 3\n",
        "many keys": TEXT + "".join(f"k{n}: 1\n" for n in range(5000)),
        "format 2": TEXT.replace("format: 1", "format: 2"),
        "format true": TEXT.replace("format: 1", "format: 'x'"),
        "no format": TEXT.replace("format: 1\n", ""),
        "no system": TEXT.replace("system: i-jepa\n", ""),
        "another system": TEXT.replace("system: i-jepa", "system: i-jepas"),
        "a system's options of another": TEXT.replace("system: i-jepa", "system: lejepa"),
        "a class": TEXT.replace("system: i-jepa", "system: os.system"),
        "a module": TEXT.replace("system: i-jepa", "system: jepakit.systems.i_jepa:IJEPA"),
        "a path": TEXT.replace("system: i-jepa", "system: ../../x.py"),
        "a list for a system": TEXT.replace("system: i-jepa", "system: [i-jepa]"),
        "_target_": TEXT.replace("  seed: 0", "  seed: 0\n  _target_: os.system"),
        "class_path": TEXT.replace("model:\n", "model:\n  class_path: os.system\n"),
        "JSON": json.dumps(sound()) + "}",
    }
    for section in ("dataset", "model", "training", "health"):
        cases[f"no {section} but a word"] = TEXT.replace(f"{section}:\n", f"{section}: x\nold_{section}:\n")
        cases[f"{section} twice"] = TEXT + f"{section}: {{}}\n"
    cases |= {
        f"{key} twice": TEXT.replace(f"  {key}:", f"  {key}: 1\n  {key}:", 1)
        for key in ("seed", "lr", "batch_size", "data", "steps", "health_every", "ema")
    }
    return cases


REFUSED = [pytest.param(text, id=name) for name, text in texts().items()]


def test_refused_text():
    check_all(REFUSED, check_refused_text)


def check_refused_text(text: str | bytes, folder: Path):
    (folder / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refusal(lambda: read_config(folder), "config.yaml")


def test_a_key_that_stands_twice_is_named(folder: Path):
    (folder / "config.yaml").write_text(TEXT.replace("  batch_size:", "  batch_size: 3\n  batch_size:"))
    message = str(refusal(lambda: read_config(folder), "'batch_size'"))
    assert "stands twice" in message
    assert "line" in message


DAMAGED = [pytest.param(content, id=damage) for damage, content in mutations(TEXT.encode(), seed=5, flips=90, header=400)]


def test_damaged_text():
    check_all(DAMAGED, check_damaged_text)


def check_damaged_text(content: bytes, folder: Path):
    """What is still a config is what a plain YAML reader finds in it, and comes back the same when written."""
    (folder / "config.yaml").write_bytes(content)
    config = outcome(lambda: read_config(folder), "config.yaml")
    if isinstance(config, RunConfig):
        plain = yaml.safe_load(content.decode("utf-8-sig"))
        for section, values in plain.items():
            if isinstance(values, dict) and section != "inputs":
                for name, value in values.items():
                    found = to_plain(getattr(getattr(config, section), name))
                    if isinstance(found, dict):  # a group that is cut short keeps its other defaults
                        found, value = {key: found[key] for key in value or ()}, value or {}
                    assert found == value or str(found) == str(value) or float(found) == float(value)
        write_config(folder / "again.yaml", config)
        assert read_config(folder / "again.yaml") == config


JUNK: list[Any] = [
    "x",
    "",
    "1",
    "nan",
    " ",
    "\0",
    "😀" * 100,
    -1,
    0,
    10**30,
    -(10**30),
    10**400,
    0.5,
    -0.5,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    1e-320,
    True,
    False,
    None,
    [],
    [1],
    [1, 2],
    [1, 2, 3],
    ["a"],
    [None],
    [[]],
    [float("nan")] * 2,
    [-1, -1],
    [0, 0],
    {},
    {"a": 1},
    {"name": "x"},
    {1: 2},
    {"_target_": "os.system"},
]


def options() -> dict[str, list[Any]]:
    """Every option of every system, in a different part of the junk each."""
    cases, turn = {}, 0
    for system in SYSTEMS:
        cases[system] = []
        plain = to_plain(default_config(system, "digits"))
        for section in section_types(system):
            if section in ("training", "health") and system != "i-jepa":
                continue  # the same for all
            for name in plain[section]:
                for junk in (JUNK[(turn + step) % len(JUNK)] for step in range(0, len(JUNK), 9)):
                    case = f"{system} {section}.{name} {ascii(junk)[:20]}"
                    cases[system].append(pytest.param(system, section, name, junk, id=case))
                turn += 1
    return cases


OPTIONS = options()


@pytest.mark.parametrize("system", OPTIONS)
def test_junk_for_an_option(system: str):
    check_all(OPTIONS[system], check_junk_for_an_option)


def check_junk_for_an_option(system: str, section: str, name: str, junk: Any, _: Path):
    kind = section_types(system)[section]
    base = to_plain(getattr(default_config(system, "digits"), section))
    config = outcome(lambda: from_plain(kind, {**base, name: junk}, section), section, name, *base)
    if not isinstance(config, UserError):
        found = to_plain(getattr(config, name))
        if isinstance(junk, dict):
            assert {key: found[key] for key in junk} == junk  # the rest keeps its defaults
        else:
            assert found == (float(junk) if isinstance(found, float) else junk)
        assert from_plain(kind, to_plain(config), section) == config


# --- The command line -----------------------------------------------------------------------------------------------------

NUMBERS = ["nan", "inf", "-inf", "1e999", "-1", "0", "1.5", "x", "", "1_000", "0x10", "１", "1e3", "9" * 400, "--", "None"]
NUMERIC = [
    "--steps",
    "--epochs",
    "--batch-size",
    "--lr",
    "--warmup",
    "--seed",
    "--clip",
    "--image-size",
    "--test-fraction",
    "--limit",
    "--ema",
    "--masks.targets",
]


def command_lines() -> list[list[str]]:
    lines: list[list[str]] = [
        ["pretrian"],
        ["Pretrain"],
        ["--data"],
        ["pretrain", ""],
        ["pretrain", "i-jepas"],
        ["pretrain"],
        ["pretrain", "i-jepa", "--out", "x"],
        ["pretrain", "os.system"],
        ["pretrain", "i-jepa", "--data", "digits"],
        ["pretrain", "--config"],
        ["pretrain", "--config", ""],
        ["pretrain", "--config", "/nowhere.yaml"],
        ["pretrain", "--config=/"],
        ["resume"],
        ["resume", "/nowhere"],
        ["resume", ""],
        ["resume", "a", "b"],
        ["evaluate"],
        ["evaluate", "/nowhere"],
        ["evaluate", "\0"],
        ["embed", "/nowhere"],
        ["embed", "/nowhere", "--data", "digits"],
        ["embed", "/nowhere", "--data", "digits", "--out", "x.txt"],
        ["embed", "/nowhere", "--data", "digits", "--out", "x.npy"],
        ["export", "/nowhere", "--out", "x"],
        ["export", "/nowhere"],
        ["report"],
        ["report", "/nowhere"],
        ["inspect"],
        ["inspect", "/nowhere"],
        ["inspect", "digit"],
        ["inspect", "digits", "--picture", "x.jpg"],
        ["inspect", "digits", "--system", "lewm"],
        ["inspect", "digits", "--system", "x"],
        ["list", "x"],
        ["list", "a", "b"],
        ["list", ""],
        ["\0"],
        ["😀"],
        ["a" * 10_000],
        ["pretrain", "i-jepa", "--" + "a" * 10_000],
        ["evaluate", "/dev/null"],
        ["resume", "/dev/null"],
        ["embed", "/dev/null", "--data", "digits", "--out", "x.npy"],
    ]
    begin = ["pretrain", "i-jepa", "--data", "digits", "--out", "{}"]
    unknown = [
        "--stepz",
        "--batch_sise",
        "--seed-",
        "--mask.targets",
        "--masks.targetz",
        "--Steps",
        "-s",
        "--",
        "--=",
        "--data.x",
        "---steps",
    ]
    lines += [[*begin, word, "3"] for word in unknown]
    lines += [[*begin, word] for word in ("extra", "--steps", "--size", "--lr", "--image-size")]
    lines += [
        [*begin, option, NUMBERS[(3 * place + n) % len(NUMBERS)]] for place, option in enumerate(NUMERIC) for n in (0, 5, 10)
    ]
    lines += [
        [*begin, option, "x"]
        for option in (
            "--size",
            "--target",
            "--schedule",
            "--precision",
            "--device",
            "--on-bad-file",
            "--parallel",
            "--loggers",
            "--anti-collapse",
        )
    ]
    lines += [[*begin, "--channels", number] for number in ("2", "0", "4", "-3", "x")]
    lines += [
        [*begin, "--image-size", *words] for words in (["1"], ["1", "2", "3"], ["0", "0"], ["7", "7"], ["-8", "8"], ["a", "b"])
    ]
    lines += [
        [*begin, "--steps", "5", "--epochs", "5"],
        [*begin, "--target", "frozen"],
        [*begin, "--encoder", "/nowhere"],
        [*begin, "--group-by", "path:0"],
    ]
    lines += [[*begin, "--labels", place] for place in ("/nowhere.npy", "/nowhere.csv", "x", "")] + [
        [*begin, "--init", "/nowhere"]
    ]
    return lines


LINES = [pytest.param(words, id=f"{number} {ascii(' '.join(words))[:70]}") for number, words in enumerate(command_lines())]
PARTS = 4  # of the command lines, each a test


@pytest.mark.parametrize("part", range(PARTS))
def test_command_line(part: int, monkeypatch):
    """Status 2 and a message, or (the options are fine) a run that would start: it is stopped there. Nothing is left behind."""
    started: list[Any] = []
    monkeypatch.setattr(
        "jepakit.verbs.pretrain.announce", lambda *given: started.append(given) or (_ for _ in ()).throw(KeyboardInterrupt)
    )
    check_all(LINES[part::PARTS], lambda words, folder: check_command_line(words, started, folder))


def check_command_line(words: list[str], started: list[Any], folder: Path):
    started.clear()
    heard = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
        try:
            status = main([word.format(folder / "run") for word in words])
        except SystemExit as ended:  # tyro prints what is wrong with the words themselves, as argparse does
            status = ended.code
            assert len(heard.getvalue()) > 20
    if started:
        config = started[0][1]
        assert isinstance(from_plain(type(config.training), to_plain(config.training), "training").seed, int)
        assert status == 130
    else:
        assert status == 2
        assert "Traceback" not in heard.getvalue()
    assert not list(folder.iterdir())


# --- Metrics --------------------------------------------------------------------------------------------------------------

LINE = {"kind": "train", "step": 10, "epoch": 0.5, "progress": 0.5, "loss": 1.25, "lr": 1e-3}
METRICS = "".join(json.dumps({**LINE, "step": 10 * n}) + "\n" for n in range(1, 9))


def metrics_files() -> dict[str, bytes]:
    middle = METRICS.splitlines(keepends=True)
    junk = {
        "a word": "x",
        "a list": "[1]",
        "a number": "5",
        "null": "null",
        "half a line": middle[0][:20],
        "no step": '{"loss": 1}',
        "a step of text": '{"step": "1"}',
        "a step of NaN": '{"step": NaN}',
        "a step of half": '{"step": 1.5}',
        "a step of true": '{"step": true}',
        "a step twice": '{"step": 1, "step": 2}',
        "deep": "[" * 100_000,
        "a huge number": '{"step": 1' + "0" * 5000 + "}",
        "zeros": "\0" * 50,
    }
    cases = {f"{name} in the middle": "".join([*middle[:4], text + "\n", *middle[4:]]).encode() for name, text in junk.items()}
    cases |= {f"{name} at the end": (METRICS + text).encode() for name, text in junk.items()}
    cases |= {damage: content for damage, content in mutations(METRICS.encode(), seed=6, flips=40, header=200)}
    return cases | {
        "Latin-1": METRICS.encode() + b"\xe9\n",
        "UTF-16": METRICS.encode("utf-16"),
        "empty": b"",
        "CRLF": METRICS.replace("\n", "\r\n").encode(),
    }


METRICS_FILES = [pytest.param(content, id=name) for name, content in metrics_files().items()]


def test_metrics():
    check_all(METRICS_FILES, check_metrics)


def check_metrics(content: bytes, folder: Path):
    """Every line but a torn last one is read as it stands, or named."""
    (folder / "metrics.jsonl").write_bytes(content)
    lines = outcome(lambda: read_metrics(folder / "metrics.jsonl"), "metrics.jsonl")
    if not isinstance(lines, UserError):
        written = [line for line in content.decode("utf-8-sig").replace("\r\n", "\n").split("\n") if line.strip()]
        assert len(lines) >= len(written) - 1
        assert lines == [json.loads(line) for line in written[: len(lines)]]


def test_messages_are_checked():
    """The oracle itself refuses what names nothing, has no remedy or fills the screen."""
    for message in ("x.png is bad", "Remove it", "x.png: remove it" + "!" * 5000):
        with pytest.raises(AssertionError):
            check_message(message, "x.png")


CASES = [*REFUSED, *DAMAGED, *(case for cases in OPTIONS.values() for case in cases), *LINES, *METRICS_FILES]
