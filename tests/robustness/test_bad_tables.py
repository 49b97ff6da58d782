"""Label files, tables of texts, JSON lines and TU text folders, as people write and break them."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jepakit.errors import UserError
from jepakit.modalities.graphs.collection import GraphDataConfig
from jepakit.modalities.graphs.data import GraphData, open_graphs
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import ImageData, open_images
from jepakit.modalities.texts.data import TextData, TextDataConfig, open_texts
from tests.robustness.mutations import mutations
from tests.robustness.oracle import check_all, outcome, refusal

PICTURES = ["a/0.png", "a/1.png", "b/0.png", "b/1 2.png", "b/é.png", "b/x,y.png"]


def photographs(folder: Path) -> Path:
    for picture in PICTURES:
        (folder / "data" / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 99).save(folder / "data" / picture)
    return folder / "data"


def table(rows: list[list[object]], **options: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, **options).writerows(rows)
    return text.getvalue().encode()


def rows(column: str, values: list[object]) -> list[list[object]]:
    return [["path", column], *([picture, value] for picture, value in zip(PICTURES, values, strict=True))]


CLASSES = ["u", "v", "u", "v", "w", "w"]


def sound_labels() -> dict[str, tuple[str, bytes, str, list[object]]]:
    """File name, content, task, and the value of each picture: class names, numbers, or sets of names."""
    plain = rows("label", CLASSES)
    shuffled = [plain[0], *random.Random(0).sample(plain[1:], len(PICTURES))]
    named = {
        "plain": table(plain),
        "shuffled": table(shuffled),
        "CRLF": table(plain, lineterminator="\r\n"),
        "old Mac line ends": table(plain, lineterminator="\r"),
        "byte order mark": b"\xef\xbb\xbf" + table(plain),
        "all quoted": table(plain, quoting=csv.QUOTE_ALL),
        "no last line end": table(plain).rstrip(),
        "empty lines": table(plain).replace(b"\n", b"\n\n  \n"),
        "more columns": table(
            [[*row, "note", "7"] if number else [*row, "remark", "page"] for number, row in enumerate(plain)]
        ),
        "unnamed columns": table([[*row, "", ""] for row in plain]),
        "an index column": table([[number if number else "", *row] for number, row in enumerate(plain)]),
        "capitals": table([["Path", "Label"], *plain[1:]]),
        "filename, class": table([["filename", "class"], *plain[1:]]),
        "spaces": table([[f" {cell} " for cell in row] for row in plain]),
        "paths with ./ and ../": table([plain[0], *([f"./x/../{path}", label] for path, label in plain[1:])]),
        "line breaks in cells": table([[*row, "two\nlines"] if number else [*row, "note"] for number, row in enumerate(plain)]),
        "odd line ends in cells": table(
            [[*row, "a\x0b\x1c\u2028\x85b"] if number else [*row, "note"] for number, row in enumerate(plain)]
        ),
    }
    cases = {name: ("x.csv", content, "classification", CLASSES) for name, content in named.items()}
    cases["tabs"] = ("x.tsv", table(plain, delimiter="\t"), "classification", CLASSES)
    cases["tabs, capitals"] = ("x.TSV", table(plain, delimiter="\t"), "classification", CLASSES)
    values = {
        "whole numbers": [3, 10, 3, 10, -2, -2],
        "leading zeros": ["01", "02", "01", "02", "03", "03"],
        "words and numbers": ["1", "b", "1", "b", "3", "3"],
        "names like 1_2": ["1_2", "3_4", "1_2", "3_4", "5_6", "5_6"],
        "names of signs": ["+-1", "--5", "+-1", "--5", "-", "-"],
        "dates": ["2020-01-01", "2020-01-02"] * 3,
        "one class": ["a"] * 6,
        "other digits": ["٣", "٤", "٣", "٤", "５", "５"],
        "superscripts": ["²", "³", "²", "³", "¹", "¹"],
        "emoji": ["😀", "🎉"] * 3,
        "markup": ["<script>", "[red]"] * 3,
        "true and false": ["True", "False"] * 3,
        "quotes": ['say "x"', "it's"] * 3,
        "versions": ["1.2.3", "1.2.4"] * 3,
    }
    cases |= {name: ("x.csv", table(rows("label", v)), "classification", [str(x) for x in v]) for name, v in values.items()}
    numbers = {"numbers": [0.5, 1, 2, -3.25, 1e-3, 7], "exponents": ["1e3", "-2E-4", ".5", "5.", "+1.5", "0"]}
    cases |= {name: ("x.csv", table(rows("label", v)), "regression", [float(x) for x in v]) for name, v in numbers.items()}
    several = ["x;y", "y", "", "x; z", ";x;", "z"]
    sets = [{part.strip() for part in cell.split(";")} - {""} for cell in several]
    cases["several"] = ("x.csv", table(rows("labels", several)), "multilabel", sets)
    return cases


SOUND = [pytest.param(*case, id=name) for name, case in sound_labels().items()]


def test_sound_labels():
    check_all(SOUND, check_sound_labels)


def check_sound_labels(name: str, content: bytes, task: str, values: list[object], folder: Path):
    (folder / name).write_bytes(content)
    data = outcome(lambda: labelled(folder, name), name)
    assert isinstance(data, ImageData), data
    assert data.task == task
    given = {
        os.path.relpath(path, folder / "data"): label for path, label in zip(data.train.paths, data.train.labels, strict=True)
    }
    assert set(given) == set(PICTURES)
    for picture, value in zip(PICTURES, values, strict=True):
        found = given[picture]
        if task == "classification":
            assert data.classes[found] == value
        elif task == "multilabel":
            assert {label for label, applies in zip(data.classes, found, strict=True) if applies} == value
        else:
            assert found == value


def labelled(folder: Path, name: str, group_by: str | None = None) -> ImageData:
    root = photographs(folder)
    config = ImageDataConfig(data=str(root), labels=str(folder / name), test_fraction=0.0, group_by=group_by)
    return open_images(config, 0)


def bad_labels() -> dict[str, bytes]:
    plain = rows("label", CLASSES)
    cases = {
        "empty": b"",
        "empty lines": b"\n\n  \n",
        "header only": b"path,label\n",
        "no path column": table([["image_id", "label"], *plain[1:]]),
        "no header": table(plain[1:]),
        "semicolons": table(plain, delimiter=";"),
        "tabs": table(plain, delimiter="\t"),
        "UTF-16": table(plain).decode().encode("utf-16"),
        "Latin-1": table(plain).decode().encode("latin-1"),
        "binary": bytes(range(256)),
        "zeros": bytes(100),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
        "a row twice": table([*plain, plain[1]]),
        "a row twice, another label": table([*plain, [plain[1][0], "w"]]),
        "a column twice": table([[*row, "other"] if number else [*row, "label"] for number, row in enumerate(plain)]),
        "a column in two cases": table([[*row, "other"] if number else [*row, "Label"] for number, row in enumerate(plain)]),
        "an unknown picture": table([*plain, ["a/9.png", "u"]]),
        "absolute path": table([*plain, ["/etc/passwd", "u"]]),
        "path that leaves": table([*plain, ["../../../etc/passwd", "u"]]),
        "empty path": table([*plain, ["", "u"]]),
        "NUL in a path": table([*plain, ["a/\0.png", "u"]]),
        "a cell too few": table([*plain[:3], [plain[3][0]], *plain[4:]]),
        "a cell too many": table([*plain[:3], [*plain[3], "x"], *plain[4:]]),
        "an open quote": table(plain).replace(b"b/1 2", b'"b/1 2'),
        "a huge cell": table([[*row, "x" * 200_000] if number else [*row, "note"] for number, row in enumerate(plain)]),
        "all labels empty": table(rows("label", [""] * 6)),
        "one label empty": table(rows("label", [*CLASSES[:5], ""])),
        "one label blank": table(rows("label", [*CLASSES[:5], "  "])),
        "NaN": table(rows("label", [0.5, 1, 2, 3, 4, "nan"])),
        "infinity": table(rows("label", [0.5, 1, 2, 3, 4, "-inf"])),
        "long numbers": table(rows("label", ["9" * 5000, "1", "9" * 5000, "1", "2", "2"])),
        "overflow": table(rows("label", [0.5, 1, 2, 3, 4, "1e999"])),
        "several, all empty": table(rows("labels", ["", ";", " ; ", "", "", ""])),
        "JSON": json.dumps({"a": 1}).encode(),
        "HTML": b"<!DOCTYPE html>\n<html>\n</html>",
        "backslashes": table([[str(cell).replace("/", "\\") for cell in row] for row in plain]),
        "no endings": table([plain[0], *([path.removesuffix(".png"), label] for path, label in plain[1:])]),
    }
    return cases | {f"without row {number}": table([*plain[:number], *plain[number + 1 :]]) for number in range(1, 7)}


BAD = [pytest.param(content, id=name) for name, content in bad_labels().items()]


def test_bad_labels():
    check_all(BAD, check_bad_labels)


def check_bad_labels(content: bytes, folder: Path):
    (folder / "x.csv").write_bytes(content)
    refusal(lambda: labelled(folder, "x.csv"), "x.csv", "labels", "NaN")


@pytest.mark.parametrize("what", ["missing.csv", "folder.csv", "pipe.csv", "dangling.csv", "x.txt", "x.json", "", "data"])
def test_no_label_file(what: str, folder: Path):
    (folder / "folder.csv").mkdir()
    (folder / "x.txt").write_bytes(table(rows("label", CLASSES)))
    os.mkfifo(folder / "pipe.csv")
    (folder / "dangling.csv").symlink_to(folder / "gone.csv")
    refusal(lambda: labelled(folder, what), what or "labels")


GROUPS = [
    "",
    "path",
    "path:",
    "path:-1",
    "path:1.5",
    "path:9",
    "path:٣",
    "path:²",
    "label",
    "colour",
    "Path",
    "path: 0",
    "PATH:0",
    "\0",
    "labels",
    "path:" + "9" * 5000,
]


def test_groups():
    check_all([pytest.param(group, id=ascii(group)[:20]) for group in GROUPS], check_groups)


def check_groups(group_by: str, folder: Path):
    (folder / "x.csv").write_bytes(table(rows("label", CLASSES)))
    data = outcome(lambda: labelled(folder, "x.csv", group_by), "group_by")
    assert isinstance(data, UserError) or group_by.lower() in ("path", "label")


@settings(max_examples=120, derandomize=True, database=None, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=6, max_size=6))
def test_any_labels(values: list[str]):
    """Whatever text stands in the label column: it is refused, or each picture has the label of its row."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            (folder / "x.csv").write_bytes(table(rows("label", values)))
        except UnicodeEncodeError:
            return  # half a surrogate pair cannot be written
        data = outcome(lambda: labelled(folder, "x.csv"), "x.csv", "labels")
        if isinstance(data, ImageData) and data.task == "classification":
            given = {
                os.path.relpath(path, folder / "data"): label
                for path, label in zip(data.train.paths, data.train.labels, strict=True)
            }
            for picture, value in zip(PICTURES, values, strict=True):
                assert data.classes[given[picture]] == value.replace("\r\n", "\n").replace("\r", "\n").strip()


ANY_LABELS = range(120)

# --- Pairs of texts -------------------------------------------------------------------------------------------------------

PAIRS = [
    ("lines with a", ".*a.*"),
    ('quotes " and commas, too', "x|y"),
    ("zwei Wörter 😀", "\\w+"),
    ("four\nlines\nof\ntext", "(ab)*"),
] * 3
JSONL = "".join(json.dumps({"text": text, "code": code}) + "\n" for text, code in PAIRS).encode()
TEXT_CSV = table([["text", "code"], *PAIRS])


def text_files() -> dict[str, tuple[str, bytes]]:
    line = b'{"text": "a", "code": "b"}\n'
    lines = {
        "empty": b"",
        "blank": b"\n \n",
        "an array": b'[["a", "b"]]\n',
        "numbers": b"1\n2\n",
        "null": b"null\n",
        "cut": line + line[:-5],
        "no braces": line + b'"text": "a"',
        "deep": line + b"[" * 100_000 + b"]" * 100_000,
        "deep objects": line + b'{"text":' * 50_000,
        "a number of 5,000 digits": line + b'{"text": ' + b"9" * 5000 + b', "code": "x"}',
        "NaN": b'{"text": NaN, "code": "x"}',
        "a list for a text": b'{"text": ["a"], "code": "x"}',
        "true": b'{"text": true, "code": "x"}',
        "empty text": b'{"text": "", "code": "x"}',
        "blank text": b'{"text": " \\n", "code": "x"}',
        "no code": b'{"text": "a"}',
        "another case": b'{"Text": "a", "code": "x"}',
        "half a pair": b'{"text": "\\ud800", "code": "x"}\n' * 3,
        "UTF-16": JSONL.decode().encode("utf-16"),
        "Latin-1": '{"text": "é", "code": "x"}'.encode("latin-1"),
        "NUL": b'{"text": "a\\u0000b", "code": "x"}\n' * 3,
        "a name twice": b'{"text": "a", "text": "b", "code": "x"}\n' * 3,
        "control characters": b'{"text": "a\x01b", "code": "x"}\n',
        "long": b'{"text": "' + b"a " * 300 + b'", "code": "x"}\n' * 1,
    }
    tables = {
        "empty": b"",
        "header only": b"text,code\n",
        "a column twice": b"text,code,code\na,b,c\n",
        "a cell too few": b"text,code\na\n",
        "a cell too many": b"text,code\na,b,c\n",
        "semicolons": b"text;code\na;b\n",
        "open quote": b'text,code\na,"b\n' + b"c,d\n" * 3,
        "other columns": b"source,target\na,b\n",
        "huge cell": b"text,code\na," + b"x" * 200_000,
        "NUL": b"text,code\na\0,b\n",
        "empty cell": b"text,code\na,\n",
        "UTF-16": TEXT_CSV.decode().encode("utf-16"),
        "binary": bytes(range(256)),
    }
    cases = {f"jsonl, {name}": ("x.jsonl", content) for name, content in lines.items()}
    cases |= {f"csv, {name}": ("x.csv", content) for name, content in tables.items()}
    cases |= {f"jsonl, {damage}": ("x.jsonl", content) for damage, content in mutations(JSONL, seed=3, flips=25)}
    cases |= {f"csv, {damage}": ("x.csv", content) for damage, content in mutations(TEXT_CSV, seed=4, flips=25)}
    return cases


TEXTS = [pytest.param(*case, id=name) for name, case in text_files().items()]


def test_texts():
    check_all(TEXTS, check_texts)


def check_texts(name: str, content: bytes, folder: Path):
    (folder / name).write_bytes(content)
    config = TextDataConfig(data=str(folder / name), test_fraction=0.0)
    data = outcome(lambda: open_texts(config, 0), name)
    if isinstance(data, TextData):
        given = [(data.train[i]["text"], data.train[i]["code"]) for i in range(len(data.train))]
        assert given == reference_pairs(name, content)
        batch = data.train[0]["text"].encode()  # what is read can be written
        assert batch.strip()


def reference_pairs(name: str, content: bytes) -> list[tuple[str, str]]:
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    if name.endswith("jsonl"):
        found = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        found = [
            row for row in csv.DictReader(io.StringIO(text), strict=True) if any((cell or "").strip() for cell in row.values())
        ]
    return [(str(row["text"]), str(row["code"])) for row in found]


# --- Graphs ---------------------------------------------------------------------------------------------------------------

GRAPHS = {
    "A": "1,2\n2,1\n2,3\n3,2\n4,5\n5,4\n6,7\n7,6\n8,9\n9,8\n9,10\n10,9\n",
    "graph_indicator": "1\n1\n1\n2\n2\n3\n3\n4\n4\n4\n",
    "graph_labels": "1\n-1\n1\n-1\n",
    "node_labels": "0\n1\n2\n0\n1\n2\n0\n1\n2\n0\n",
    "edge_labels": "0\n0\n1\n1\n0\n0\n2\n2\n0\n0\n1\n1\n",
    "node_attributes": "".join(f"{number / 7:.6f}, {-number}\n" for number in range(10)),
}


def graph_files() -> dict[str, dict[str, str | bytes | None]]:
    """Which file is replaced by what (None: it is not there)."""
    cases: dict[str, dict[str, str | bytes | None]] = {"sound": {}}
    cases |= {f"no {what}": {what: None} for what in GRAPHS}
    cases |= {f"empty {what}": {what: ""} for what in GRAPHS}
    for what, text in GRAPHS.items():
        first, rest = text.split("\n", 1)
        columns = first.count(",") + 1
        for name, value in {
            "a word": "x",
            "NaN": "nan",
            "infinity": "inf",
            "half": "1.5",
            "zero": "0",
            "minus one": "-1",
            "huge": "1e300",
            "2^63": "9223372036854775808",
            "10^12": "1000000000000",
            "a million": "1000000",
            "hexadecimal": "0x1",
            "underscore": "1_0",
            "nothing": "",
        }.items():
            cases[f"{what} starts with {name}"] = {what: ",".join([value] * columns) + "\n" + rest}
        cases |= {
            f"{what}: a column more": {what: "".join(f"{line},1\n" for line in text.splitlines())},
            f"{what}: a line less": {what: rest},
            f"{what}: a line more": {what: text + first + "\n"},
            f"{what}: uneven": {what: text + first + ",1\n"},
            f"{what}: semicolons": {what: text.replace(",", ";") + "1;1\n"},
            f"{what}: Latin-1": {what: (text + "é").encode("latin-1")},
            f"{what}: binary": {what: bytes(range(256))},
            f"{what}: a comment": {what: "# " + text},
            f"{what}: an empty line": {what: text.replace("\n", "\n\n", 1)},
        }
        cases |= {f"{what}: {damage}": {what: content} for damage, content in mutations(text.encode(), seed=len(what), flips=4)}
    return cases


GRAPH_CASES = [pytest.param(change, id=name) for name, change in graph_files().items()]


def test_graphs():
    check_all(GRAPH_CASES, check_graphs)


def check_graphs(change: dict[str, str | bytes | None], folder: Path):
    files = {**GRAPHS, **change}
    for what, content in files.items():
        if content is not None:
            (folder / f"X_{what}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    data = outcome(lambda: open_graphs(GraphDataConfig(data=str(folder), test_fraction=0.0), 0), str(folder), "X_", "graph")
    if not isinstance(data, GraphData):
        return
    numbers = {what: reference_numbers(content) for what, content in files.items() if content is not None}
    graph_of = numbers["graph_indicator"][:, 0]
    graphs = [data.train[i]["graph"] for i in range(len(data.train))]
    assert sum(map(len, graphs)) == len(graph_of)
    for number, graph in enumerate(graphs, start=1):
        nodes = np.flatnonzero(graph_of == number)
        assert len(graph) == len(nodes)
        wanted = {tuple(edge) for edge in numbers["A"].reshape(-1, 2) - 1 if edge[0] in nodes}
        both = {(a, b) for a, b in wanted} | {(b, a) for a, b in wanted}
        assert {(nodes[a], nodes[b]) for a, b in graph.edges.T} == both
        if "node_labels" in numbers:
            np.testing.assert_array_equal(graph.labels, numbers["node_labels"][nodes, 0])
        if "node_attributes" in numbers:
            np.testing.assert_allclose(graph.attributes, numbers["node_attributes"][nodes], rtol=1e-5)
        if "graph_labels" in numbers:
            assert float(data.classes[data.train.labels[number - 1]]) == numbers["graph_labels"][number - 1, 0]


def reference_numbers(content: str | bytes) -> np.ndarray:
    text = content.decode() if isinstance(content, bytes) else content
    found = [[float(cell) for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    return np.array(found).reshape(len(found), -1)


CASES = [*SOUND, *BAD, *GROUPS, *ANY_LABELS, *TEXTS, *GRAPH_CASES]
