import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from jepakit.errors import UserError
from jepakit.evaluation.evaluate import BY_DEFAULT, Probe, evaluate_arrays, evaluate_features
from jepakit.evaluation.features import Features, baseline_features
from jepakit.evaluation.labels import low_shot_draws
from jepakit.evaluation.rows import Row


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].reshape(-1, 1, 8, 8), labels[order]
    return images[:1200], images[1200:], labels[:1200], labels[1200:]


@pytest.fixture(scope="module")
def rows(digits):
    train, test, y, y_test = digits
    return evaluate_features(baseline_features(train, test), y, y_test)


def found(rows, features, evaluator, metric="accuracy"):
    (row,) = [r for r in rows if (r.features, r.evaluator, r.metric) == (features, evaluator, metric)]
    return row


def test_every_evaluator_that_fits_on_every_kind_of_features(rows):
    asked = [(r.evaluator, r.features) for r in rows]
    assert asked == [(e, f) for e in ("linear", "low-shot-5", "low-shot-10", "knn-20") for f in ("pixels", "pca")]
    assert found(rows, "pixels", "linear").value > 0.95
    assert found(rows, "pixels", "knn-20").value > 0.95
    assert found(rows, "pixels", "low-shot-5").value == pytest.approx(0.83, abs=0.04)
    assert found(rows, "pixels", "low-shot-10").value > found(rows, "pixels", "low-shot-5").value


def test_rows_hold_intervals_and_what_they_are(rows):
    assert all(row.low < row.value < row.high for row in rows)
    assert found(rows, "pixels", "linear").interval == "95% Wilson over test samples"
    low_shot = found(rows, "pca", "low-shot-5")
    assert low_shot.interval == "mean ± sd over 5 draws"
    assert np.mean(low_shot.detail["draws"]) == pytest.approx(low_shot.value)
    assert low_shot.detail["train"] == 50
    assert [Row(**json.loads(json.dumps(row.to_dict()))) for row in rows] == rows


def test_later_features_hold_the_paired_difference_to_the_first(rows):
    assert "difference" not in found(rows, "pixels", "linear").detail
    for evaluator in ("linear", "low-shot-5"):
        pixels, pca = found(rows, "pixels", evaluator), found(rows, "pca", evaluator)
        difference = pca.detail["difference"]
        assert difference["of"] == "pixels - pca"
        assert difference["value"] == pytest.approx(pixels.value - pca.value)
        assert difference["low"] <= difference["value"] <= difference["high"]
        assert difference["high"] - difference["low"] < pca.high - pca.low + pixels.high - pixels.low


def test_the_draws_are_shared_by_all_features(digits, monkeypatch):
    train, test, y, y_test = digits
    drawn = []

    def spy(*arguments):
        drawn.append(low_shot_draws(*arguments))
        return drawn[-1]

    monkeypatch.setattr("jepakit.evaluation.linear.low_shot_draws", spy)
    evaluate_features(baseline_features(train, test), y, y_test, evaluators=["low-shot-1"])
    assert [d.tolist() for d in drawn[0]] == [d.tolist() for d in drawn[1]]


def test_the_seed_decides(digits):
    train, test, y, y_test = digits
    runs = [
        evaluate_features(baseline_features(train, test)[:1], y, y_test, None, ["low-shot-2"], s) for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_permuted_labels_give_chance_for_every_evaluator(digits):
    train, test, y, y_test = digits
    y = np.random.default_rng(1).permutation(np.concatenate([y, y_test]))
    features = baseline_features(train, test)[:1]
    for row in evaluate_features(features, y[:1200], y[1200:], evaluators=["linear", "knn-20", "low-shot-10"]):
        margin = 0.02 if row.evaluator == "low-shot-10" else 0.005  # one standard deviation is no 95 % interval
        assert row.low - margin <= 0.1 <= row.high + margin


def test_regression_and_multilabel():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 5))
    rows = evaluate_arrays(x, 3 * x[:, 0] + 0.1 * generator.normal(size=500))
    assert [(r.evaluator, r.metric) for r in rows] == [(e, m) for e in ("linear", "knn-20") for m in ("r2", "mae")]
    assert found(rows, "embeddings", "linear", "r2").value > 0.99
    assert found(rows, "embeddings", "linear", "mae").value == pytest.approx(0.08, abs=0.02)
    rows = evaluate_arrays(x, (x[:, :3] > 0.5).astype(int))
    assert [(r.evaluator, r.metric) for r in rows] == [(e, "mean_average_precision") for e in ("linear", "knn-20")]
    assert found(rows, "embeddings", "linear", "mean_average_precision").value > 0.95
    assert found(rows, "embeddings", "linear", "mean_average_precision").interval == "95% bootstrap over test samples"


def test_tokens_of_anybody_go_to_all_five_evaluators():
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 2
    tokens = generator.normal(size=(300, 4, 6)) + labels[:, None, None]
    rows = evaluate_arrays(tokens, np.array(["cat", "dog"])[labels], name="mine")
    assert [row.evaluator for row in rows] == list(BY_DEFAULT)
    assert all(row.value > 0.9 for row in rows)
    assert {row.features for row in rows} == {"mine"}
    assert rows[0].detail["test"] == 60


def test_a_test_part_of_ones_own():
    generator = np.random.default_rng(0)
    labels = np.arange(100) % 2
    x = generator.normal(size=(100, 6)) + 20 * np.eye(2, 6)[labels]
    options = {"test_embeddings": torch.from_numpy(x[80:]), "test_labels": 1 - labels[80:]}  # all wrong, and so it says
    (row,) = evaluate_arrays(x[:80], labels[:80], evaluators=["knn-1"], **options)
    assert row.value == 0
    assert (row.detail["train"], row.detail["test"]) == (80, 20)


def test_features_without_tokens_are_left_out_of_the_attentive_probe():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 4, 3)), np.arange(60) % 2
    features = [Features("plain", x[:40, 0], x[40:, 0]), Features("tokens", x[:40, 0], x[40:, 0], x[:40], x[40:])]
    rows = evaluate_features(features, y[:40], y[40:], evaluators=["attentive"])
    assert [row.features for row in rows] == ["tokens"]
    assert "difference" not in rows[0].detail


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("liner", "Did you mean 'linear'"),
        ("knn", "Did you mean 'knn-20'"),
        ("lowshot-5", "Did you mean 'low-shot-5'"),
        ("knn-0", "Did you mean 'knn-20'"),
        ("atentive", "Did you mean 'attentive'"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_evaluator(name, words):
    with pytest.raises(UserError, match=f"evaluators: '{name}' is not known. {words}"):
        Probe.parse(name)


SMALL, CODES = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2


@pytest.mark.parametrize(
    ("features", "train", "test", "options", "words"),
    [
        ([Features("f", SMALL, SMALL)], CODES[:9], CODES, {}, "'f': 20 train samples but 9 train labels"),
        ([Features("f", SMALL, SMALL)], CODES, CODES[:9], {}, "'f': 20 test samples but 9 test labels"),
        ([Features("f", SMALL, SMALL)], CODES, CODES, {"evaluators": ["low-shot-11"]}, "ask for low-shot-10"),
        ([Features("f", SMALL, SMALL)], CODES, CODES, {"evaluators": ["knn-21"]}, "ask for knn-20"),
        ([Features("f", SMALL, SMALL)], CODES, CODES, {"evaluators": ["attentive"]}, "no features come with tokens"),
        ([Features("f", SMALL, SMALL)], SMALL[:, 0], SMALL[:, 0], {"evaluators": ["low-shot-1"]}, "task is regression"),
        ([Features("f", SMALL, SMALL)] * 2, CODES, CODES, {}, "different names"),
        ([], CODES, CODES, {}, "at least one"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_said_with_the_remedy(features, train, test, options, words):
    with pytest.raises(UserError, match=words):
        evaluate_features(features, train, test, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": CODES[:5]}, "20 embeddings but 5 labels"),
        ({"labels": CODES, "test_fraction": 1.0}, "between 0 and 1"),
        ({"labels": CODES, "test_labels": CODES}, "together"),
        ({"labels": CODES, "embeddings": SMALL[:, 0]}, r"\[samples, dim\]"),
        ({"labels": CODES, "embeddings": np.full((20, 3), np.nan)}, "NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        evaluate_arrays(**({"embeddings": SMALL} | options))


def test_the_defaults_leave_out_what_the_labels_do_not_allow():
    rows = evaluate_features([Features("f", SMALL, SMALL)], CODES[:], CODES)
    assert [row.evaluator for row in rows] == ["linear", "low-shot-5", "low-shot-10", "knn-20"]
    rows = evaluate_features([Features("f", SMALL[:14], SMALL)], CODES[:14], CODES)
    assert [row.evaluator for row in rows] == ["linear", "low-shot-5"]
