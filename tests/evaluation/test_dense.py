import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from jepakit.errors import UserError
from jepakit.evaluation.dense import DenseHead, evaluate_maps, patches, read_maps
from jepakit.evaluation.features import Features
from jepakit.evaluation.heads import HeadConfig
from jepakit.evaluation.metrics import METRICS

GENERATOR = np.random.default_rng(0)
QUICK = HeadConfig(learning_rates=(3e-2,), weight_decays=(0.01,), epochs=8, batch_size=16)


def planted(n, generator, grid=(2, 4, 4), dim=6):
    """Tokens whose first number says the class of their 2 x 2 pixels in both of their frames; the others are noise."""
    classes = generator.integers(0, 2, (n, *grid))
    tokens = generator.normal(size=(n, int(np.prod(grid)), dim))
    tokens[..., 0] = 4.0 * classes.reshape(n, -1) + generator.normal(size=tokens.shape[:2])
    maps = classes.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    return torch.from_numpy(tokens).float(), maps


@pytest.fixture(scope="module")
def parts():
    train, train_maps = planted(120, np.random.default_rng(1))
    test, test_maps = planted(40, np.random.default_rng(2))
    return train, train_maps, test, test_maps


def features(name, train, test):
    return Features(name, train.mean(1), test.mean(1), train, test)


def test_mean_iou_by_hand_and_as_scikit_learn_has_it():
    said, true = np.asarray([[0, 0, 1, 1], [2, 2, 2, 0]]), np.asarray([[0, 1, 1, 1], [2, 2, -1, 0]])
    # class 0: 2 of 3; class 1: 2 of 3; class 2: 2 of 2, as the third was not counted
    assert METRICS["mean_iou"](said, true) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert METRICS["token_accuracy"](said, true) == pytest.approx(6 / 7)
    said, true = GENERATOR.integers(0, 5, (2, 30, 64))
    expected = jaccard_score(true.ravel(), said.ravel(), average="macro")
    assert METRICS["mean_iou"](said, true) == pytest.approx(expected)
    weights = GENERATOR.integers(0, 3, (4, 30))
    for weight, found in zip(weights, METRICS["mean_iou"].function(said, true, weights.astype(float)), strict=True):
        again = jaccard_score(true.repeat(weight, axis=0).ravel(), said.repeat(weight, axis=0).ravel(), average="macro")
        assert found == pytest.approx(again)


def test_rmse_counts_known_pixels_only():
    said, true = np.asarray([[1.0, 2.0], [3.0, 9.0]]), np.asarray([[1.0, 4.0], [3.0, np.nan]])
    assert METRICS["rmse"](said, true) == pytest.approx((4 / 3) ** 0.5)


def test_a_head_is_a_linear_layer_drawn_out_between_centres():
    head = DenseHead(torch.zeros(3), torch.ones(3), outputs=2, grid=(2, 2, 2), size=(4, 4, 4))
    tokens = torch.randn(5, 8, 3)
    maps, own = head(tokens), head.tokens(tokens).reshape(5, 2, 2, 2, 2)  # batch, time, row, column, output
    assert maps.shape == (5, 2, 4, 4, 4)
    torch.testing.assert_close(maps[:, :, 0], maps[:, :, 1])  # frames of one token
    torch.testing.assert_close(maps[:, :, 2, 0, 0], own[:, 1, 0, 0])  # beyond the first centre: the token's own
    inside = 0.75 * own[:, 1, 0, 0] + 0.25 * own[:, 1, 0, 1]
    torch.testing.assert_close(maps[:, :, 2, 0, 1], inside)


def test_segmentation_finds_what_tokens_say_and_noise_does_not(parts):
    train, train_maps, test, test_maps = parts
    noise = features("noise", train[..., 1:], test[..., 1:])
    rows = evaluate_maps([features("tokens", train, test), noise], train_maps, test_maps, (2, 4, 4), config=QUICK)
    found = {(row.features, row.metric): row for row in rows}
    assert {row.evaluator for row in rows} == {"segmentation"}
    assert found["tokens", "token_accuracy"].value > 0.95
    assert found["tokens", "mean_iou"].value > 0.8
    assert found["noise", "token_accuracy"].value < 0.6
    assert found["tokens", "mean_iou"].low < found["tokens", "mean_iou"].value < found["tokens", "mean_iou"].high
    difference = found["noise", "mean_iou"].detail["difference"]
    assert difference["of"] == "tokens - noise"
    assert difference["low"] > 0.2
    again = evaluate_maps([features("tokens", train, test)], train_maps, test_maps, (2, 4, 4), config=QUICK)
    assert again == rows[:2]


def test_unlabelled_pixels_neither_teach_nor_count(parts):
    train, train_maps, test, test_maps = parts
    wrong, hidden = train_maps.copy(), test_maps.copy()
    wrong[:, :, :, :4] = 255
    hidden[:, :, :, :4] = -1
    rows = evaluate_maps([features("tokens", train, test)], wrong, hidden, (2, 4, 4), config=QUICK)
    assert rows[1].metric == "token_accuracy"
    assert rows[1].value > 0.95


def test_depth_is_read_in_its_unit(parts):
    train, train_maps, test, test_maps = parts
    depths, wanted = (5.0 + 10 * maps.astype(np.float32) for maps in (train_maps, test_maps))
    depths[0, 0, 0, 0] = np.nan
    (row,) = evaluate_maps([features("tokens", train, test)], depths, wanted, (2, 4, 4), config=QUICK)
    assert (row.evaluator, row.metric) == ("depth", "rmse")
    assert row.value < 0.75 * wanted.std()


def test_pictures_have_no_time():
    tokens, maps = planted(60, GENERATOR, grid=(1, 4, 4))
    one = features("tokens", tokens[:40], tokens[40:])
    rows = evaluate_maps([one], maps[:40, 0], maps[40:, 0], (4, 4), config=QUICK)
    assert rows[1].value > 0.9


def test_patches_are_what_lies_under_a_token():
    clips = torch.randn(2, 3, 4, 6, 8)
    found = patches(clips, (2, 3, 4))
    assert found.shape == (2, 24, 3 * 2 * 2 * 2)
    torch.testing.assert_close(found[1, 12 + 4 + 2], clips[1, :, 2:4, 2:4, 4:6].reshape(-1))  # time 1, row 1, column 2
    torch.testing.assert_close(patches(clips[:, :, 0], (3, 4))[0, 11], clips[0, :, 0, 4:6, 6:8].reshape(-1))
    with pytest.raises(UserError, match="does not divide"):
        patches(clips, (3, 3, 4))


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (np.zeros((4, 8)), np.zeros((4, 8)), "must be"),
        (np.zeros((4, 8, 8)), np.zeros((4, 8, 9)), "alike in both parts"),
        (np.zeros((4, 8, 8), int), np.zeros((4, 8, 8), int), "hold 1 classes"),
        (np.arange(256).reshape(4, 8, 8) % 2, np.full((4, 8, 8), 7), "Classes 7 are in the test maps"),
        (np.full((4, 8, 8), np.nan), np.zeros((4, 8, 8)), "no two numbers that differ"),
    ],
)
def test_maps_that_cannot_be_learned(train, test, words):
    with pytest.raises(UserError, match=words):
        read_maps(train, test)


def test_tokens_that_do_not_fit(parts):
    train, train_maps, test, test_maps = parts
    with pytest.raises(UserError, match="needs 64 tokens a sample, got 32"):
        evaluate_maps([features("tokens", train, test)], train_maps, test_maps, (4, 4, 4))
    with pytest.raises(UserError, match="got none"):
        evaluate_maps([Features("pooled", train[:, 0], test[:, 0])], train_maps, test_maps, (2, 4, 4))
    with pytest.raises(UserError, match="4 frames cannot be shared among 3"):
        evaluate_maps([features("tokens", train, test)], train_maps, test_maps, (3, 4, 4))
    with pytest.raises(UserError, match="120 and 40 samples but 119 and 40"):
        evaluate_maps([features("tokens", train, test)], train_maps[1:], test_maps, (2, 4, 4))
