"""A newcomer with a folder of mixed photographs, in an empty folder, one command after the other."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import jepakit
from tests.commands import run_command
from tests.modalities.photographs import make_photographs

pytestmark = pytest.mark.slow

FEW = ["--steps", "8", "--threads", "1", "--on-bad-file", "skip"]
PER_CLASS = 16
SOURCE = Path(jepakit.__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("newcomer")
    make_photographs(place / "photos", per_class=PER_CLASS)
    return place


def jepa(place: Path, *words: str, status: int = 0) -> str:
    """What a command says; it must end with `status` and without a traceback. The first of all is `python -m jepakit`."""
    if words[0] == "inspect":
        done = subprocess.run(
            [sys.executable, "-m", "jepakit", *words], cwd=place, capture_output=True, text=True, timeout=600,
            env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        ended, said = done.returncode, done.stdout + done.stderr
    else:
        forked = run_command(words, place)
        ended, said = forked.status, forked.said
    assert ended == status, said
    assert "Traceback" not in said, said
    assert "Warning" not in said, said
    return said


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def check_report(path: Path) -> None:
    page = path.read_text("utf-8")
    links = Links()
    links.feed(page)
    assert links.images > 0 or "<svg" in page
    assert not [link for link in links.found if not link.startswith(("data:", "#"))]


def test_inspect_counts_and_names_the_bad_files(place):
    said = jepa(place, "inspect", "photos")
    assert "torn.jpg" in said
    assert "fake.png" in said
    assert str(2 * PER_CLASS) in said
    assert (place / "inspection.png").stat().st_size > 1000


def test_pretrain_stops_at_bad_files_by_name(place):
    said = jepa(place, "pretrain", "i-jepa", "--data", "photos", "--out", "runs/strict", status=2)
    assert "photos/moons/torn.jpg" in said
    assert "photos/roofs/fake.png" in said
    assert "--on-bad-file skip" in said
    assert not (place / "runs").exists()


@pytest.mark.parametrize("system", ["i-jepa", "lejepa"])
def test_one_command_then_the_others(place, system):
    run = f"runs/{system}"
    said = jepa(place, "pretrain", system, "--data", "photos", "--out", run, *FEW)
    assert f"{system} on photos: " in said
    assert "parameters trained" in said
    assert "of memory" in said
    assert "random init" in said
    folder = place / run
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints", "config.yaml", "environment.json", "evaluation.json", "metrics.jsonl", "model.safetensors",
        "report.html",
    }  # fmt: skip
    check_report(folder / "report.html")
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        assert all(np.isfinite(v) for v in values.values() if isinstance(v, float)), line
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert {row["features"] for row in evaluation["rows"]} == {"encoder", "random init", "pixels", "pca"}
    assert all(0 <= row["value"] <= 1 for row in evaluation["rows"])
    assert evaluation["data"]["classes"] == ["moons", "roofs"]
    assert evaluation["data"]["train"] + evaluation["data"]["test"] == 2 * PER_CLASS

    jepa(place, "evaluate", run, "--evaluators", "linear", "--which", "encoder")
    again = json.loads((folder / "evaluation.json").read_text())
    assert {row["evaluator"] for row in again["rows"]} == {"linear"}
    assert again["which"] == "encoder"

    out = f"vectors/{system}.npy"
    said = jepa(place, "embed", run, "--data", "photos", "--out", out, "--on-bad-file", "skip")
    embeddings = np.load(place / out)
    assert f"{2 * PER_CLASS} embeddings of shape [{embeddings.shape[1]}]" in said
    assert embeddings.shape == (2 * PER_CLASS, 128)
    assert embeddings.dtype == np.float32
    assert np.isfinite(embeddings).all()
    with open(place / out.replace(".npy", ".csv"), newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["row"]) for row in rows] == list(range(2 * PER_CLASS))
    good = {str(path.relative_to(place)) for path in (place / "photos").rglob("*.*")} - {
        "photos/moons/torn.jpg", "photos/roofs/fake.png", "photos/notes.txt",
    }  # fmt: skip
    assert {row["path"] for row in rows} == good

    # Each row is the embedding of its file: alone, in a folder of its own, and through Python.
    one = place / f"one-{system}"
    one.mkdir()
    chosen = next(number for number, row in enumerate(rows) if row["path"].endswith("007.jpg"))
    (one / "it.jpg").write_bytes((place / rows[chosen]["path"]).read_bytes())
    alone = jepakit.embed(folder, data=one, out=one / "it.npy")
    np.testing.assert_allclose(alone[0], embeddings[chosen], rtol=1e-4, atol=1e-5)

    said = jepa(place, "export", run, "--out", f"exported/{system}")
    assert f"exported/{system}" in said
    encoder = jepakit.load(place / "exported" / system)
    image = torch.rand(2, 3, *encoder.inputs.image_size)
    torch.testing.assert_close(encoder.embed(image), jepakit.load(folder).embed(image))
    exported = jepakit.embed(place / "exported" / system, data=one, out=one / "again.npy")
    np.testing.assert_array_equal(exported, alone)

    (folder / "report.html").unlink()
    assert "report.html" in jepa(place, "report", run)
    check_report(folder / "report.html")
    assert "nothing is left to train" in jepa(place, "resume", run)
    more = jepa(place, "pretrain", system, "--data", "photos", "--init", run, "--out", f"{run}-more", *FEW)
    assert "Report: " in more
    assert not [path for path in place.rglob("*.writing")], "a temporary file was left"
