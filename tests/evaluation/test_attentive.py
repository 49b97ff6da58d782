import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jepakit.errors import UserError
from jepakit.evaluation.attentive import AttentiveConfig, AttentiveProbe, attentive_probe, focal_loss, task_loss
from jepakit.evaluation.labels import read_targets
from jepakit.evaluation.linear import linear_probe
from jepakit.evaluation.metrics import METRICS
from jepakit.evaluation.pooling import pool
from jepakit.nn.attentive_pooler import AttentiveClassifier, AttentivePoolerConfig

QUICK = AttentiveConfig(epochs=8, learning_rates=(1e-2,), batch_size=64)


def needle(n, generator, tokens=12, dim=8, classes=3):
    """One token of a sample, at a random place, is marked and says the class; all others shout about any class."""
    x = generator.normal(size=(n, tokens, dim))
    labels = generator.integers(0, classes, n)
    x[..., 1 : 1 + classes] = 3 * np.eye(classes)[generator.integers(0, classes, (n, tokens))]
    x[..., 0] = 0
    place = generator.integers(0, tokens, n)
    x[np.arange(n), place, 0] = 4
    x[np.arange(n), place, 1 : 1 + classes] = 3 * np.eye(classes)[labels]
    return torch.from_numpy(x).float(), labels


@pytest.fixture(scope="module")
def haystack():
    generator = np.random.default_rng(0)
    (train, y), (test, y_test) = needle(1500, generator), needle(400, generator)
    return train, test, read_targets(y, y_test)


def test_attention_finds_what_the_mean_hides(haystack):
    train, test, targets = haystack
    scores, detail = attentive_probe(train, test, targets, QUICK)
    accuracy = METRICS["accuracy"]
    assert accuracy(scores, targets.test) > 0.9
    assert accuracy(linear_probe(pool(train), pool(test), targets)[0], targets.test) < 0.7
    assert detail["learning_rate"] == 1e-2
    assert 1 <= detail["epochs"] <= 8


@pytest.mark.parametrize(("blocks", "epochs"), [(1, 5), (2, 7)])
def test_published_probes_find_it_too(haystack, blocks, epochs):
    train, test, targets = haystack
    config = AttentiveConfig(learning_rates=(1e-6, 1e-2), weight_decays=(0.01,), epochs=epochs, heads=2)
    scores, detail = attentive_probe(train, test, targets, config, blocks=blocks)
    assert METRICS["accuracy"](scores, targets.test) > 0.9
    assert (detail["learning_rate"], detail["heads"], detail["train"], detail["chosen_on"]) == (1e-2, 2, 1500, 300)


def test_a_published_probe_repeats_by_its_seed(haystack):
    train, test, targets = haystack
    config = AttentiveConfig(learning_rates=(1e-2,), weight_decays=(0.01,), epochs=1, max_samples=64)
    first, again, other = (attentive_probe(train, test, targets, config, seed, blocks=2)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_published_probe_has_the_released_shape(haystack, monkeypatch):
    train, test, targets = haystack
    made = []

    def spy(shape, outputs):
        made.append((shape, outputs))
        return AttentiveClassifier(shape, outputs)

    monkeypatch.setattr("jepakit.evaluation.attentive.AttentiveClassifier", spy)
    quick = AttentiveConfig(learning_rates=(1e-3,), weight_decays=(0.01,), epochs=1, max_samples=64)
    attentive_probe(train, test, targets, quick, blocks=4)
    assert made[0] == (AttentivePoolerConfig(dim=8, heads=8, blocks=3), 3)
    attentive_probe(train.repeat(1, 1, 6), test.repeat(1, 1, 6), targets, quick, blocks=1)
    assert made[-1] == (AttentivePoolerConfig(dim=48, heads=16, blocks=0, eps=1e-5), 3)
    with pytest.raises(UserError, match="heads 3 must divide"):
        attentive_probe(train, test, targets, AttentiveConfig(heads=3), blocks=1)


def test_the_focal_loss_is_its_formula_and_ranks_like_cross_entropy(haystack):
    logits, wanted = torch.randn(5, 3, dtype=torch.float64), torch.eye(5, 3, dtype=torch.float64)
    p = torch.sigmoid(logits)
    expected = torch.where(wanted > 0, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    torch.testing.assert_close(focal_loss(logits, wanted), expected)
    classes = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(
        task_loss(logits, classes, "classification", "focal"), focal_loss(logits, F.one_hot(classes).double()).sum(1)
    )
    train, test, targets = haystack
    config = AttentiveConfig(epochs=10, learning_rates=(1e-2,), batch_size=64, loss="focal")
    assert METRICS["accuracy"](attentive_probe(train, test, targets, config)[0], targets.test) > 0.9


def test_the_validation_part_rejects_a_hopeless_learning_rate(haystack):
    train, test, targets = haystack
    config = AttentiveConfig(epochs=4, learning_rates=(1e-7, 1e-2), batch_size=64)
    assert attentive_probe(train, test, targets, config)[1]["learning_rate"] == 1e-2


def test_the_seed_decides_and_the_global_generator_is_left_alone(haystack):
    train, test, targets = haystack
    config = AttentiveConfig(epochs=1, learning_rates=(1e-2,))
    before = torch.get_rng_state()
    first, again, other = (attentive_probe(train, test, targets, config, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_more_samples_than_the_limit_are_drawn_in_proportion(haystack):
    train, test, targets = haystack
    config = AttentiveConfig(epochs=1, learning_rates=(1e-2,), max_samples=300)
    assert attentive_probe(train, test, targets, config)[1]["train"] == pytest.approx(300, abs=2)


@pytest.mark.parametrize("task", ["regression", "several numbers", "multilabel"])
def test_other_tasks(task):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1200, 5, 6))
    signal = x[:, :, 0].mean(axis=1)
    several = np.stack([signal, 1 - signal], axis=1)
    labels = {"regression": 100 + 10 * signal, "several numbers": several * [1, 100], "multilabel": several > 0.3}[task]
    targets = read_targets(labels[:900], labels[900:], "multilabel" if task == "multilabel" else "regression")
    x = torch.from_numpy(x)
    config = AttentiveConfig(epochs=15, learning_rates=(1e-2,))
    scores, _ = attentive_probe(x[:900], x[900:], targets, config)
    metric = METRICS["mean_average_precision" if task == "multilabel" else "r2"]
    assert metric(scores, targets.test) > 0.8


def test_the_probe_is_cross_attention_of_a_learned_query():
    """Keys are never formed: equal to attention with keys = tokens, written the usual way."""
    probe = AttentiveProbe(torch.zeros(6), torch.ones(6), outputs=3, heads=2, width=4)
    tokens = torch.randn(5, 7, 6)
    seen = [
        F.scaled_dot_product_attention(probe.query[h].expand(5, 1, 6), tokens, tokens @ probe.value[h])[:, 0]
        for h in range(2)
    ]
    expected = probe.head(probe.norm(torch.cat(seen, dim=1)))
    torch.testing.assert_close(probe(tokens), expected)


def test_the_order_of_tokens_does_not_matter_and_constant_dimensions_are_silent():
    mean, std = torch.randn(6), torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, torch.inf])
    probe = AttentiveProbe(mean, std, outputs=3, heads=2, width=4)
    tokens = torch.randn(5, 7, 6)
    torch.testing.assert_close(probe(tokens), probe(tokens[:, torch.randperm(7)]))
    changed = tokens.clone()
    changed[..., 5] += 100
    torch.testing.assert_close(probe(tokens), probe(changed))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rates": ()}, "learning_rates"),
        ({"weight_decays": (-1.0,)}, "weight_decays"),
        ({"loss": "focal-loss"}, "Did you mean 'focal'"),
    ],
)
def test_messages(options, words):
    with pytest.raises(UserError, match=words):
        AttentiveConfig(**options)


def test_a_memory_map_in_blocks_gives_the_same(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    tokens = (generator.normal(size=(60, 4, 6)) + labels[:, None, None]).astype(np.float32)
    targets = read_targets(labels[:40], labels[40:])
    config = AttentiveConfig(heads=1, width=4, epochs=2)
    expected, detail = attentive_probe(torch.from_numpy(tokens[:40]), torch.from_numpy(tokens[40:]), targets, config)
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    monkeypatch.setattr("jepakit.evaluation.streaming.BLOCK_NUMBERS", 7 * 24)
    found, same = attentive_probe(mapped[:40], mapped[40:], targets, config)
    assert same == detail
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
