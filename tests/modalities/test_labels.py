from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.modalities.labels import array_labels, folder_labels, read_table

PICTURES = ["a/1.png", "a/2.png", "b/ü.png"]


def table(tmp_path: Path, text: str, name: str = "labels.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_table(str(tmp_path / name), tmp_path, PICTURES)


def test_rows_in_any_order_find_their_pictures(tmp_path):
    text = f"\ufeffPath, Label\nb/ü.png,dog\n{tmp_path / 'a' / '1.png'},cat\n./a/2.png,dog\n\n"
    labels = table(tmp_path, text).labels()
    assert labels.task == "classification"
    assert labels.classes == ["cat", "dog"]
    assert labels.values.tolist() == [0, 1, 1]


def test_paths_may_be_relative_to_the_csv(tmp_path):
    (tmp_path / "tables").mkdir()
    rows = "file,label\n" + "".join(f"../{picture},{index}\n" for index, picture in enumerate(PICTURES))
    assert table(tmp_path, rows, "tables/labels.csv").labels().values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("cells", "task", "values", "classes"),
    [
        (("10", "9", "10"), "classification", [1, 0, 1], ["9", "10"]),
        (("1.5", "-2", "3e1"), "regression", [1.5, -2.0, 30.0], None),
        (("1.5", "x", "2"), "classification", [0, 2, 1], ["1.5", "2", "x"]),
    ],
)
def test_kinds_of_labels(tmp_path, cells, task, values, classes):
    rows = "".join(f"{picture},{cell}\n" for picture, cell in zip(PICTURES, cells, strict=True))
    labels = table(tmp_path, "path,label\n" + rows).labels()
    assert (labels.task, labels.values.tolist(), labels.classes) == (task, values, classes)


def test_several_labels_a_picture(tmp_path):
    labels = table(tmp_path, "path,labels\na/1.png,red; round\na/2.png,\nb/ü.png,round\n").labels()
    assert (labels.task, labels.classes) == ("multilabel", ["red", "round"])
    assert labels.values.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_tabs_and_groups(tmp_path):
    read = table(tmp_path, "path\tpatient\na/1.png\tp1\na/2.png\tp2\nb/ü.png\tp1\n", "labels.tsv")
    assert read.labels() is None
    assert read.groups("Patient") == ["p1", "p2", "p1"]
    assert read.take([2, 1]).groups("patient") == ["p1", "p2"]
    with pytest.raises(UserError, match="Did you mean 'patient'"):
        read.groups("patients")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\nx,1\n", "one of them must be 'path'"),
        ("", "columns"),
        ("path,label\na/1.png,1\na/2.png,1\n", r"no row for b/ü\.png.*--labels none"),
        ("path,label\na/1.png,1\na/2.png,1\nb/ü.png,1\na/1.png,2\n", r"more than one row for a/1\.png"),
        (
            "path,label\na/1.png,1\na/2.png,1\nb/ü.png,1\nc/9.png,2\nc/8.png,2\n",
            r"rows c/9\.png, c/8\.png have no picture",
        ),
        ("path,label\na/1.png,1\na/2.png\nb/ü.png,1\n", "line 3 has 1 cells, the header 2"),
        ("path,label\na/1.png,1\na/2.png,\nb/ü.png,1\n", "1 of 3 cells .* empty"),
        ("path,label\na/1.png,1.5\na/2.png,nan\nb/ü.png,1\n", "NaN"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        table(tmp_path, text).labels()


def test_unreadable_tables(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_table(str(tmp_path / "gone.csv"), tmp_path, PICTURES)
    (tmp_path / "latin.csv").write_bytes("path,label\nü,1".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_table(str(tmp_path / "latin.csv"), tmp_path, PICTURES)


def test_folders():
    assert folder_labels(["cat/x/1.png", "dog/2.png", "cat/3.png"]).values.tolist() == [0, 1, 0]
    assert folder_labels(["cat/1.png", "cat/2.png"]) is None
    assert folder_labels(["cat/1.png", "dog/2.png", "3.png"]) is None


def test_arrays():
    assert array_labels(np.array([7, 3, 7])).classes == ["3", "7"]
    assert array_labels(np.array(["b", "a"])).values.tolist() == [1, 0]
    assert array_labels(np.array([[0.5], [2.0]])).task == "regression"
    assert array_labels(np.array([[0.5, 1.0], [2.0, 3.0]])).task == "regression"
    assert array_labels(np.eye(3)).task == "multilabel"
    assert array_labels(np.array([True, False])).task == "classification"
    for wrong in (np.full((2, 2), 2), np.zeros((2, 2, 2)), np.array([None, 1])):
        with pytest.raises(UserError, match="not understood"):
            array_labels(wrong)
