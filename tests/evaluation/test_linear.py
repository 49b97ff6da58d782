import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from jepakit.evaluation.intervals import wilson
from jepakit.evaluation.labels import low_shot_draws, read_targets
from jepakit.evaluation.linear import (
    RIDGE_STRENGTHS,
    choose_strength,
    fit_classifier,
    fit_logistic,
    fit_ridge,
    linear_probe,
    low_shot_probe,
    standardise,
)
from jepakit.evaluation.streaming import Rows


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, train_size=1200, stratify=y, random_state=0)
    return torch.from_numpy(x_train), torch.from_numpy(x_test), read_targets(y_train, y_test)


def accuracy(scores, targets):
    return (scores.argmax(axis=1) == targets.test).mean()


def problem(n=120, dim=8, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = generator.normal(size=(n, dim)) @ generator.normal(size=(dim, dim)) + 2 * np.eye(classes, dim)[labels]
    return standardise(torch.from_numpy(x))[0], labels


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
def test_multinomial_regression_equals_scikit_learn(strength):
    x, labels = problem()
    fit = fit_logistic(x, F.one_hot(torch.from_numpy(labels)).double(), strength, tolerance=1e-9, iterations=3000)
    reference = LogisticRegression(C=1 / (strength * len(x)), tol=1e-10, max_iter=10_000).fit(x, labels)
    np.testing.assert_allclose(fit(x).softmax(1), reference.predict_proba(x), atol=1e-4)
    centred = fit.weight - fit.weight.mean(dim=1, keepdim=True)
    np.testing.assert_allclose(centred.T, reference.coef_, atol=1e-3)


def test_one_against_rest_equals_scikit_learn_for_each_label():
    x, _ = problem()
    y = (np.random.default_rng(1).normal(size=(120, 3)) + x[:, :3].numpy() > 0.5).astype(float)
    fit = fit_logistic(x, torch.from_numpy(y), 1e-2, link="sigmoid", tolerance=1e-9, iterations=3000)
    for label in range(3):
        reference = LogisticRegression(C=1 / (1e-2 * 120), tol=1e-10, max_iter=10_000).fit(x, y[:, label])
        np.testing.assert_allclose(fit(x)[:, label].sigmoid(), reference.predict_proba(x)[:, 1], atol=1e-4)


def test_the_gradient_vanishes_at_the_solution_also_without_preconditioning(monkeypatch):
    x, labels = problem()
    y = F.one_hot(torch.from_numpy(labels)).double()
    with_it = fit_logistic(x, y, 1e-2, tolerance=1e-8, iterations=5000)
    monkeypatch.setattr("jepakit.evaluation.linear.PRECONDITION_DIM", 0)
    without = fit_logistic(x, y, 1e-2, tolerance=1e-8, iterations=5000)
    torch.testing.assert_close(with_it.weight, without.weight, atol=1e-4, rtol=1e-3)
    weight = with_it.weight.clone().requires_grad_()
    loss = F.cross_entropy(x @ weight + with_it.bias, y) + 1e-2 / 2 * weight.square().sum()
    assert torch.autograd.grad(loss, weight)[0].abs().max() < 1e-5


def test_a_start_elsewhere_ends_at_the_same_place():
    x, labels = problem()
    y = F.one_hot(torch.from_numpy(labels)).double()
    start = fit_logistic(x, y, 1.0)
    ends = [fit_logistic(x, y, 1e-2, start=s, tolerance=1e-8, iterations=5000) for s in (None, start)]
    torch.testing.assert_close(ends[0](x), ends[1](x), atol=1e-4, rtol=1e-3)


def test_the_fit_in_the_row_space_is_exact():
    x, labels = problem(n=30, dim=200)
    y = F.one_hot(torch.from_numpy(labels)).double()
    narrow = fit_classifier(x, y, "softmax", lambda inner: 0.01 * (inner.shape[1] == 30) + 1e-9)
    direct = fit_logistic(x, y, narrow.strength, tolerance=1e-8, iterations=5000)
    assert narrow.strength > 0.005  # the choice was given 30 coordinates, not 200
    torch.testing.assert_close(narrow(x), direct(x), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(narrow.weight, direct.weight, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(("n", "dim"), [(80, 6), (30, 60)])
def test_ridge_and_its_leave_one_out_choice_equal_scikit_learn(n, dim):
    generator = np.random.default_rng(0)
    x = torch.from_numpy(generator.normal(size=(n, dim)) + 3)
    y = x[:, 0] * 2 + torch.from_numpy(generator.normal(size=n)) + 5
    fit = fit_ridge(x, y)
    reference = RidgeCV(alphas=[n * s for s in RIDGE_STRENGTHS]).fit(x, y)
    assert n * fit.strength == pytest.approx(reference.alpha_)
    np.testing.assert_allclose(fit(x)[:, 0], reference.predict(x), rtol=1e-6)


@pytest.fixture(params=[1, 7, 1000])
def block_rows(request, monkeypatch):
    """Rows of eight numbers in a block; nothing is held standardised, so that float32 is streamed."""
    monkeypatch.setattr("jepakit.evaluation.streaming.BLOCK_NUMBERS", 8 * request.param)
    monkeypatch.setattr("jepakit.evaluation.linear.IN_MEMORY", 0)
    return request.param


def test_streamed_logistic_regression_equals_scikit_learn(block_rows):
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    raw = (generator.normal(size=(120, 8)) @ generator.normal(size=(8, 8)) + 2 * np.eye(3, 8)[labels]).astype(np.float32)
    (x,) = standardise(raw)
    assert isinstance(x, Rows)
    codes = Rows(torch.from_numpy(labels), lambda rows: F.one_hot(rows, 3).float())
    fit = fit_logistic(x, codes, 1e-2, tolerance=1e-7, iterations=3000)
    scaled = StandardScaler().fit_transform(raw)
    reference = LogisticRegression(C=1 / (1e-2 * 120), tol=1e-10, max_iter=10_000).fit(scaled, labels)
    np.testing.assert_allclose(fit(x).softmax(1), reference.predict_proba(scaled), atol=5e-4)  # float32


@pytest.mark.parametrize(("n", "dim"), [(80, 8), (30, 60)])
def test_streamed_ridge_equals_scikit_learn(block_rows, n, dim):
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(n, dim)) + 3).astype(np.float32)
    y = x[:, 0] * 2 + generator.normal(size=n) + 5
    fit = fit_ridge(torch.from_numpy(x), torch.from_numpy(y))
    reference = RidgeCV(alphas=[n * s for s in RIDGE_STRENGTHS]).fit(x.astype(np.float64), y)
    assert n * fit.strength == pytest.approx(reference.alpha_)
    np.testing.assert_allclose(fit(torch.from_numpy(x))[:, 0], reference.predict(x), rtol=1e-5)
    plain = Ridge(alpha=n * 0.1).fit(x.astype(np.float64), y)
    alone = fit_ridge(torch.from_numpy(x), torch.from_numpy(y), [0.1])
    np.testing.assert_allclose(alone.weight[:, 0], plain.coef_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(80, 6), (20, 60)])
def test_several_outputs_are_as_many_ridges(shape):
    generator = np.random.default_rng(0)
    x = torch.from_numpy(generator.normal(size=shape))
    y = torch.stack([x[:, 0], torch.from_numpy(generator.normal(size=len(x)))], dim=1)
    together, apart = fit_ridge(x, y), [fit_ridge(x, y[:, output]) for output in range(2)]
    torch.testing.assert_close(together.weight, torch.cat([one.weight for one in apart], dim=1))
    torch.testing.assert_close(together.bias, torch.cat([one.bias for one in apart]))
    assert together.strength == apart[1].strength > apart[0].strength
    targets = read_targets(y[10:], y[:10])
    assert linear_probe(x[10:], x[:10], targets)[0].shape == (10, 2)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_a_streamed_probe_scores_as_one_in_memory(task, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 8)).astype(np.float32) + 5
    signal = x[:, :3] - 5 + 0.5 * generator.normal(size=(300, 3))
    y = {"classification": signal.argmax(1), "multilabel": (signal > 0).astype(int), "regression": signal[:, 0]}[task]
    targets = read_targets(y[:200], y[200:], task)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected, detail = linear_probe(x[:200], x[200:], targets)
    monkeypatch.setattr("jepakit.evaluation.streaming.BLOCK_NUMBERS", 8 * 7)
    monkeypatch.setattr("jepakit.evaluation.linear.IN_MEMORY", 0)
    scores, same = linear_probe(mapped[:200], mapped[200:], targets)
    assert same == detail
    np.testing.assert_allclose(scores, expected, atol=0.01 * np.abs(expected).max())
    if task == "classification":
        draws = [low_shot_probe(mapped[:200], mapped[200:], targets, 5, draws=1)[0][0] for _ in range(2)]
        np.testing.assert_array_equal(*draws)


def test_the_strength_follows_the_noise():
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    clear = torch.from_numpy(generator.normal(size=(400, 20)) + 8 * labels[:, None])
    noise = torch.from_numpy(generator.normal(size=(400, 20)))
    y = F.one_hot(torch.from_numpy(labels)).double()
    strong, weak = (choose_strength(standardise(x)[0], y, labels, "softmax", 0) for x in (noise, clear))
    assert strong >= 10 * weak


def test_the_strength_of_a_part_is_scaled_to_the_whole(monkeypatch):
    generator = np.random.default_rng(0)
    labels = np.arange(1000) % 2
    x = torch.from_numpy(generator.normal(size=(1000, 5)))
    y = F.one_hot(torch.from_numpy(labels)).double()
    monkeypatch.setattr("jepakit.evaluation.linear.SELECTION_ROWS", 100)
    assert choose_strength(x, y, labels, "softmax", 0) == pytest.approx(1.0 * 80 / 1000)  # noise: the strongest, 1


def test_standardisation_uses_training_statistics_and_silences_constants():
    train = torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, 10.0]])
    test = torch.tensor([[5.0, 9.0, 5.0]])
    x, x_test = standardise(train, test)
    torch.testing.assert_close(x, torch.tensor([[-1.0, 0.0, -1.0], [1.0, 0.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(x_test, torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64))


def test_the_full_probe_on_digits(digits):
    train, test, targets = digits
    scores, detail = linear_probe(train, test, targets)
    assert accuracy(scores, targets) == pytest.approx(0.970, abs=0.015)
    assert 1e-5 <= detail["strength"] <= 1


def test_low_shot_probes_on_digits(digits):
    """Reference numbers of the field's small benchmark: pixels .828 ± .029, PCA-32 .722 ± .022 (other draws)."""
    train, test, targets = digits
    pca = PCA(32).fit(train)
    reduced = [torch.from_numpy(pca.transform(part)) for part in (train, test)]
    pixels = np.mean([accuracy(s, targets) for s in low_shot_probe(train, test, targets, 5)[0]])
    pca_32 = np.mean([accuracy(s, targets) for s in low_shot_probe(*reduced, targets, 5)[0]])
    assert pixels == pytest.approx(0.828, abs=0.03)
    assert pca_32 == pytest.approx(0.74, abs=0.03)
    assert pixels - pca_32 > 0.04


def test_the_low_shot_protocol_is_scikit_learns_default(digits):
    train, test, targets = digits
    scores, _ = low_shot_probe(train, test, targets, 5, draws=1, seed=3)
    x, x_test = standardise(train, test)
    (chosen,) = low_shot_draws(targets.train, 5, 1, 3)
    reference = LogisticRegression(max_iter=1000).fit(x[chosen], targets.train[chosen])
    assert (scores[0].argmax(1) == reference.predict(x_test)).mean() > 0.99


def test_permuted_labels_give_chance(digits):
    """Nothing of the test part leaks into the fit, the penalty or the standardisation."""
    train, test, targets = digits
    y = np.random.default_rng(0).permutation(np.concatenate([targets.train, targets.test]))
    shuffled = read_targets(y[:1200], y[1200:])
    scores, _ = linear_probe(train, test, shuffled)
    found = wilson(int((scores.argmax(1) == shuffled.test).sum()), 597, level=0.99)
    assert found.low <= 0.1 <= found.high


def test_the_test_part_does_not_touch_the_fit(digits):
    train, test, targets = digits
    other = torch.cat([test[:100], 1000 * torch.randn(497, 64, dtype=test.dtype)])
    first, second = (
        linear_probe(train[:300], part, read_targets(targets.train[:300], targets.test))[0] for part in (test, other)
    )
    np.testing.assert_allclose(first[:100], second[:100], rtol=1e-9)


def test_float32_and_float64_features_agree(digits):
    train, test, targets = digits
    first, second = (linear_probe(train.to(d), test.to(d), targets)[0] for d in (torch.float32, torch.float64))
    assert (first.argmax(1) == second.argmax(1)).mean() > 0.99
