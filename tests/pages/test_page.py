"""The page as a whole: complete, self-contained, safe against what data may be called, honest about what is missing."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jepakit.errors import UserError
from jepakit.evaluation.document import worded
from jepakit.files import read_metrics
from jepakit.pages.data import ReportData, series
from jepakit.pages.figures import gallery, nearest_neighbours
from jepakit.pages.page import write_report

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"&amp;"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements, texts and the balance of tags, as a browser's tokeniser sees them."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def read(path):
    return Page(path.read_text("utf-8"))


def write(folder, data):
    return read(write_report(folder / "report.html", data))


def training(steps=120):
    lines = []
    for step in range(10, steps + 1, 10):
        lines.append(
            {"kind": "train", "step": step, "progress": step / steps, "loss": 1 / step, "loss/sigreg": 2.0, "lr": 1e-3}
        )
        lines.append(
            {"kind": "health", "step": step, "health/rankme": 9.0, "health/cosine": 0.1, "health/verdict": "healthy"}
        )
    return lines


def evaluation(features=("encoder", "random init", "pixels", "pca", "supervised")):
    return {
        "format": 2,
        "data": {"name": "digits", "train": 1437, "test": 360, "classes": ["a"] * 10},
        "rows": [
            worded({
                "features": name,
                "evaluator": "low-shot-5",
                "metric": "accuracy",
                "value": 0.9 - 0.1 * i,
                "low": 0.88 - 0.1 * i,
                "high": 0.92 - 0.1 * i,
                "interval": "mean ± sd over 5 draws",
            })
            for i, name in enumerate(features)
        ],
    }


def full(**changed):
    digits = load_digits()
    embeddings = digits.data[:100] - digits.data[:100].mean(axis=0)
    ids, ranked = gallery(nearest_neighbours(embeddings, np.arange(3), 4))
    generator = np.random.default_rng(0)
    given = {
        "name": "digits",
        "folder": "runs/digits",
        "config": {"system": "i-jepa", "dataset": {"data": "digits", "image_size": (8, 8)}},
        "environment": {"command": "jepakit pretrain i-jepa --data digits", "torch": "2.13.0", "wall_s": 75.0},
        "metrics": training(),
        "evaluation": evaluation(),
        "images": digits.images[ids][:, None] / 16,
        "tokens": generator.normal(size=(3, 16, 32)),
        "grid": (4, 4),
        "masks": [([0, 1, 2], [[5, 6], [9, 10]])] * 3,
        "neighbours": ranked,
        "labels": digits.target[ids],
        "classes": [str(i) for i in range(10)],
        "embeddings": embeddings[:45],
        "embedding_labels": digits.target[:45],
    }
    return ReportData(**given | changed)


def test_a_full_run_has_every_part_and_misses_none(tmp_path):
    page = write(tmp_path, full())
    assert page.open == []
    titles = [attributes["id"] for attributes in page.named("section")]
    assert titles == ["results", "curves", "hidden", "colours", "neighbours", "map", "run"]
    assert not [attributes for _, attributes in page.elements if attributes.get("class") == "missing"]
    assert "Healthy: beats random init and raw pixels at 5 labels a class." in page.text
    assert "0.880 – 0.920" in page.text
    assert "mean ± sd over 5 draws (5 labels a class)" in page.text
    assert "1 min 15 s" in page.text
    assert "jepakit pretrain i-jepa --data digits" in page.text
    assert "jepakit pretrain --config runs/digits/config.yaml" in page.text
    assert (tmp_path / "report.html").stat().st_size < 500_000


def test_an_empty_run_says_what_is_missing_and_what_adds_it(tmp_path):
    page = write(tmp_path, ReportData(name="my run", folder="runs/my run"))
    assert "Nothing to judge yet" in page.text
    for verb in ("evaluate", "resume", "report"):
        assert f"jepakit {verb} 'runs/my run'" in page.text
    assert "'runs/my run/config.yaml'" in page.text


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    page = write(tmp_path, full())
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for link in (attributes.get("src"), attributes.get("href")):
            assert link is None or link.startswith(("data:image/", "#"))
    policy = [a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    style = (tmp_path / "report.html").read_text("utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_names_cannot_inject_html(tmp_path):
    hostile = evaluation(("encoder", EVIL))
    hostile["data"]["name"] = EVIL
    hostile["rows"][0]["interval"] = EVIL
    metrics = [*training(), {"kind": "health", "step": 130, "health/verdict": "collapsed", "health/message": EVIL}]
    metrics[0] |= {f"loss/{EVIL}": 1.0}
    page = write(
        tmp_path,
        full(
            name=EVIL,
            folder=EVIL,
            config={"system": EVIL, EVIL: [EVIL]},
            environment={"command": EVIL, EVIL: EVIL},
            evaluation=hostile,
            metrics=metrics,
            classes=[EVIL] * 10,
        ),
    )
    benign = write(tmp_path, full(evaluation=evaluation(("encoder",))))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in benign.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.open == []
    assert page.texts.count(EVIL) >= 5
    assert EVIL in [a["alt"] for a in page.named("img")]


def test_file_names_that_are_not_unicode_can_be_written(tmp_path):
    assert "bad ? name" in write(tmp_path, ReportData(name=os.fsdecode(b"bad \xff name"))).text


def test_every_picture_has_words(tmp_path):
    page = write(tmp_path, full())
    assert all(attributes["alt"] for attributes in page.named("img"))
    drawn = [attributes for attributes in page.named("svg") if attributes.get("class") != "window"]
    assert all(attributes["aria-label"] for attributes in drawn)


def test_neighbours_of_the_same_class_are_marked_and_counted(tmp_path):
    data = full()
    hits = sum(data.labels[row[0]] == data.labels[other] for row in data.neighbours for other in row[1:])
    page = write(tmp_path, data)
    assert f"{hits} of 12 share the label" in page.text
    assert len([a for a in page.named("li") if a.get("class") == "same"]) == hits
    assert len([a for a in page.named("li") if a.get("class") == "other"]) == 12 - hits


def test_without_labels_nothing_is_marked(tmp_path):
    page = write(tmp_path, full(labels=None, classes=None, embedding_labels=None))
    assert "share the label" not in page.text
    assert "There are no labels, so the points have no colours." in page.text


def test_regression_and_several_classes(tmp_path):
    data = full()
    values = np.linspace(0, 1, len(data.images))
    page = write(tmp_path, full(labels=values, embedding_labels=np.linspace(0, 1, 45)))
    assert "share the label" not in page.text
    assert "ranges of the label" in page.text
    page = write(tmp_path, full(labels=values[:, None] * [1.0, 2.0], embedding_labels=np.eye(45)[:, :2]))
    assert "Labels of several numbers have no single colour" in page.text
    many = np.eye(10, dtype=np.int64)[data.labels]
    page = write(tmp_path, full(labels=many, embedding_labels=np.ones((45, 10), dtype=np.int64)))
    assert "several classes each have no single colour" in page.text


def test_more_classes_than_colours(tmp_path):
    page = write(tmp_path, full(embedding_labels=np.arange(45), classes=[f"class {i}" for i in range(45)]))
    assert "The first 20 of 45 classes are coloured." in page.text


def test_a_collapsed_run_is_told_in_every_part(tmp_path):
    metrics = training()
    metrics[-1] |= {"health/verdict": "collapsed", "health/cosine": 1.0, "health/message": "all alike"}
    data = full(metrics=metrics, tokens=np.ones((3, 16, 32)), embeddings=np.ones((45, 8)))
    page = write(tmp_path, data)
    assert "Collapsed at step 120: all alike" in page.text
    assert "out of range" in page.text
    assert "nothing to colour" in page.text
    assert "no map to draw" in page.text


def test_a_run_without_numbers_survives(tmp_path):
    metrics = training()
    for line in metrics:
        line |= {key: float("nan") for key in ("loss", "health/rankme") if key in line}
    page = write(tmp_path, full(metrics=metrics, tokens=np.full((3, 16, 32), np.nan)))
    assert "Diverged at step 10" in page.text
    assert "12 values are not a number, first at step 10." in page.text


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    page = write(tmp_path, full(metrics=training()[:10]))
    assert "42% of the training is done. Continue with jepakit resume runs/digits" in page.text


def status(tmp_path, key, *values, **changed):
    """What the page says of a signal with these values: "in range", "out of range" or nothing."""
    lines = [{"kind": "health", "step": i, key: value} for i, value in enumerate(values)]
    page = write(tmp_path, full(metrics=lines, **changed))
    return [text for text in page.texts if text in ("in range", "out of range")]


def test_ranges_are_those_of_the_monitor(tmp_path):
    assert status(tmp_path, "health/cosine", 0.5, 0.94) == ["in range"]
    assert status(tmp_path, "health/cosine", 0.5, 0.96) == ["out of range"]
    assert status(tmp_path, "health/cosine", 0.97, 0.98) == ["in range"]  # a random encoder was no better
    assert status(tmp_path, "health/std", 0.08, 0.05) == ["in range"]
    assert status(tmp_path, "health/std", 1.0, 0.05) == ["out of range"]
    assert status(tmp_path, "health/energy_margin", 0.0) == ["out of range"]
    assert status(tmp_path, "health/pairs_below", 0.5) == ["out of range"]
    assert status(tmp_path, "health/sigreg", 40.0) == []


def test_the_rank_is_judged_by_what_can_be_measured(tmp_path):
    assert status(tmp_path, "health/rankme", 3.0) == ["out of range"]  # of 64: below 3.2
    assert status(tmp_path, "health/rankme", 3.0, config={"health": {"health_samples": 32}}) == ["in range"]
    assert status(tmp_path, "health/rankme", 3.0, embeddings=None, tokens=None) == ["in range"]
    assert status(tmp_path, "health/rankme", 20.0, 9.0) == ["out of range"]  # less than half of the start


def test_lidar_says_on_what_it_was_measured_and_when_it_is_noise(tmp_path):
    line = {"kind": "health", "step": 1, "health/lidar": 9.0, "health/lidar_n": 256, "health/lidar_q": 8}
    said = write(tmp_path, full(metrics=[line])).text
    assert "Measured on 256 samples in 8 views each." in said
    assert "one of noise" not in said
    assert "one of noise" in write(tmp_path, full(metrics=[line | {"health/lidar_noise": True}])).text


def test_chance_is_drawn_for_single_classes_only(tmp_path):
    line = {"kind": "health", "step": 1, "health/knn": 0.5}
    assert "chance" in write(tmp_path, full(metrics=[line])).texts
    numbers = np.linspace(0, 1, len(full().images))
    assert "chance" not in write(tmp_path, full(metrics=[line], labels=numbers)).texts


def test_commands_of_the_run_and_of_its_evaluation(tmp_path):
    evaluated = evaluation() | {"command": "jepakit evaluate runs/digits", "which": "target", "pooling": "mean"}
    page = write(tmp_path, full(evaluation=evaluated, environment={"command": "python"}))
    assert "started from Python" in page.text
    assert "Its evaluation:jepakit evaluate runs/digits" in page.text
    assert "Encoder: target; pooling: mean." in page.text


def test_what_was_asked_before_is_folded_below(tmp_path):
    before = evaluation(("encoder",)) | {"command": "jepakit evaluate runs/digits --labels odd.csv", "step": 200}
    before["rows"][0]["value"] = 0.123
    page = write(tmp_path, full(evaluation=evaluation() | {"earlier": [before]}))
    assert "Earlier, after 200 steps: jepakit evaluate runs/digits --labels odd.csv" in page.text
    assert "0.123" in page.text
    assert "0.123" not in write(tmp_path, full()).text


def test_missing_baselines_are_named(tmp_path):
    page = write(tmp_path, full(evaluation=evaluation(("encoder", "random init"))))
    assert "Not measured: raw pixels, PCA of pixels." in page.text
    assert "jepakit evaluate runs/digits --supervised" in page.text


def test_views_stand_in_for_masks(tmp_path):
    data = full()
    page = write(tmp_path, full(masks=None, views=np.repeat(data.images[:2, None], 5, axis=1)))
    assert "it compares views" in page.text
    assert len([a for a in page.named("img") if a["alt"].startswith("View ")]) == 10


def test_a_page_of_photographs_stays_below_three_megabytes(tmp_path):
    generator = np.random.default_rng(0)
    data = ReportData(
        name="noise",
        images=generator.random((72, 3, 160, 160)),
        tokens=generator.normal(size=(8, 196, 16)),
        grid=(14, 14),
        masks=[(range(0, 196, 2), [range(40), range(50, 90)])] * 6,
        neighbours=np.arange(72).reshape(8, 9),
        metrics=training(100_000),
        embeddings=generator.normal(size=(45, 16)),
    )
    write_report(tmp_path / "report.html", data)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "report.html"
    write_report(path, ReportData(name="old"))
    old = path.read_bytes()

    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        write_report(path, ReportData(name="new"))
    assert path.read_bytes() == old
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_the_same_data_gives_the_same_page(tmp_path):
    first = write_report(tmp_path / "a.html", full()).read_bytes()
    assert write_report(tmp_path / "b.html", full()).read_bytes() == first


def test_metrics_are_read_up_to_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    lines = training()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tra', "utf-8")
    assert read_metrics(path) == lines
    path.write_text('{"kind": "train"\n{"kind": "train"}\n', "utf-8")
    with pytest.raises(UserError, match="line 1"):
        read_metrics(path)


def test_series_reads_numbers_of_one_kind():
    lines = [
        {"kind": "train", "step": 1, "loss": 2},
        {"kind": "train", "step": 2, "loss": "much"},
        {"kind": "train", "step": 3},
        {"kind": "health", "step": 4, "loss": 1.0},
        {"kind": "train", "step": 5, "loss": float("inf")},
    ]
    steps, values = series(lines, "train", "loss")
    assert steps.tolist() == [1, 5]
    assert values.tolist() == [2, float("inf")]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"images": None}, "tokens is given without images"),
        ({"grid": None}, "tokens is given without grid"),
        ({"grid": (3, 4)}, "do not fill the grid 3 x 4"),
        ({"tokens": np.zeros((99, 16, 2))}, "99 entries"),
        ({"neighbours": np.asarray([[0, 999]])}, "ids 0 to 999"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        full(**changed)
