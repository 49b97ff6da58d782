import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from jepakit.errors import UserError
from jepakit.evaluation.knn import KNNConfig, knn_scores, nearest

GENERATOR = np.random.default_rng(0)
BANK, QUERIES = (
    torch.from_numpy(GENERATOR.normal(size=(200, 6)) + 0.3),
    torch.from_numpy(GENERATOR.normal(size=(50, 6))),
)
CLASSES = GENERATOR.integers(0, 4, 200)
VALUES = GENERATOR.normal(size=200)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 7])
def test_majority_vote_equals_scikit_learn(metric, k):
    config = KNNConfig(k=k, metric=metric, vote="majority")
    reference = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(BANK, CLASSES)
    np.testing.assert_allclose(
        knn_scores(BANK, CLASSES, QUERIES, "classification", config), reference.predict_proba(QUERIES)
    )
    reference = KNeighborsRegressor(k, metric=metric, algorithm="brute").fit(BANK, VALUES)
    np.testing.assert_allclose(knn_scores(BANK, VALUES, QUERIES, "regression", config), reference.predict(QUERIES))
    several = knn_scores(BANK, np.stack([VALUES, -VALUES], axis=1), QUERIES, "regression", config)
    np.testing.assert_allclose(several, reference.predict(QUERIES)[:, None] * [1, -1])


def test_distance_weighted_vote_equals_scikit_learn():
    config = KNNConfig(k=7, metric="euclidean", vote="weighted")
    reference = KNeighborsClassifier(7, weights="distance", algorithm="brute").fit(BANK, CLASSES)
    np.testing.assert_allclose(
        knn_scores(BANK, CLASSES, QUERIES, "classification", config), reference.predict_proba(QUERIES)
    )


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_cosine_weighted_vote_equals_scikit_learn(temperature):
    config = KNNConfig(k=7, temperature=temperature)
    reference = KNeighborsClassifier(
        7, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature), algorithm="brute"
    ).fit(BANK, CLASSES)
    found = knn_scores(BANK, CLASSES, QUERIES, "classification", config)
    np.testing.assert_allclose(found, reference.predict_proba(QUERIES))


def test_multilabel_is_each_label_by_itself():
    labels = np.stack([CLASSES == 1, CLASSES == 2], axis=1).astype(float)
    both = knn_scores(BANK, labels, QUERIES, "multilabel")
    single = knn_scores(BANK, CLASSES, QUERIES, "classification")
    np.testing.assert_allclose(both, single[:, 1:3])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 9, 200])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_working_in_blocks_changes_nothing(metric, k, block, monkeypatch):
    values, positions = nearest(QUERIES, BANK, k, metric)
    monkeypatch.setattr("jepakit.evaluation.knn.BANK_BLOCK", block)
    monkeypatch.setattr("jepakit.evaluation.knn.QUERY_BLOCK", block)
    in_blocks, same = nearest(QUERIES, BANK, k, metric)
    torch.testing.assert_close(in_blocks, values)
    assert torch.equal(same, positions)


@pytest.mark.parametrize("block", [1, 7, 300])
@pytest.mark.parametrize("k", [1, 5, 40, 300])
def test_of_equally_near_ones_the_first_are_taken(block, k, monkeypatch):
    """Few different distances, all of them exact: a stable sort of everything is the reference."""
    bank = GENERATOR.integers(0, 3, (300, 2)).astype(np.float32)
    queries = GENERATOR.integers(0, 3, (20, 2)).astype(np.float32)
    distances = np.sqrt(((queries[:, None] - bank) ** 2).sum(-1))
    monkeypatch.setattr("jepakit.evaluation.knn.BANK_BLOCK", block)
    values, positions = nearest(queries, bank, k, "euclidean")
    expected = np.argsort(distances, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(distances, expected, axis=1))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_a_memory_map_in_blocks_equals_scikit_learn(tmp_path, block, monkeypatch):
    np.save(tmp_path / "bank.npy", BANK.numpy().astype(np.float32))
    bank = np.load(tmp_path / "bank.npy", mmap_mode="r")
    monkeypatch.setattr("jepakit.evaluation.knn.BANK_BLOCK", block)
    queries = QUERIES.numpy().astype(np.float32)
    reference = KNeighborsClassifier(7, metric="cosine", algorithm="brute").fit(bank, CLASSES)
    found = knn_scores(bank, CLASSES, queries, "classification", KNNConfig(k=7, vote="majority"))
    np.testing.assert_allclose(found, reference.predict_proba(queries))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_sample_is_its_own_nearest_and_order_does_not_matter(metric):
    values, positions = nearest(BANK, BANK, 2, metric)
    assert positions[:, 0].tolist() == list(range(200))
    order = torch.randperm(200)
    again, _ = nearest(BANK, BANK[order], 2, metric)
    torch.testing.assert_close(values, again)


def test_copies_in_the_bank_do_not_divide_by_zero():
    bank = torch.cat([QUERIES[:1], QUERIES[:1], BANK[:5]])
    scores = knn_scores(
        bank, np.array([1, 1, 0, 0, 0, 0, 0]), QUERIES[:1], "classification", KNNConfig(k=5, metric="euclidean")
    )
    np.testing.assert_allclose(scores, [[0, 1]], atol=1e-9)


def test_messages():
    with pytest.raises(UserError, match=r"knn-300 .* got 200. Ask for knn-200"):
        knn_scores(BANK, CLASSES, QUERIES, "classification", KNNConfig(k=300))
    with pytest.raises(UserError, match="Did you mean 'cosine'"):
        KNNConfig(metric="cosin")
    with pytest.raises(UserError, match="vote"):
        KNNConfig(vote="loud")
    with pytest.raises(UserError, match="300 neighbours"):
        nearest(QUERIES, BANK, 300)
    with pytest.raises(UserError, match="k must be at least 1"):
        KNNConfig(k=0)
    with pytest.raises(UserError, match="temperature"):
        KNNConfig(temperature=0)
