import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from jepakit.errors import UserError
from jepakit.evaluation.evaluate import evaluate_features
from jepakit.evaluation.supervised import SupervisedConfig, train_supervised
from jepakit.nn.tokens import Tokens


class TinyEncoder(nn.Module):
    """Images [b, 1, 8, 8] to 4 tokens of 16 dimensions."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def forward(self, images):
        values = self.body(images).flatten(2).transpose(1, 2)
        return Tokens(values, torch.zeros(*values.shape[:2], 2))


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = torch.from_numpy(x).float().view(-1, 1, 8, 8) / 8 - 1
    return x[:1000], y[:1000], x[1000:], y[1000:]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return TinyEncoder()


QUICK = SupervisedConfig(epochs=12, learning_rate=1e-2)


def test_labels_teach_the_encoder_and_the_callers_one_is_left_alone(digits, encoder):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features, (row,) = train_supervised(encoder, *digits, config=QUICK)
    assert (row.features, row.evaluator, row.metric) == ("supervised", "direct", "accuracy")
    assert row.value > 0.85
    assert row.low < row.value < row.high
    assert row.detail == {"epochs": row.detail["epochs"], "train": 900, "test": 797}
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert features.name == "supervised"
    assert features.train.shape == (1000, 16)
    (probed,) = evaluate_features([features], digits[1], digits[3], evaluators=["knn-10"])
    assert probed.value > 0.85


def test_the_seed_decides_and_the_global_generator_is_left_alone(digits, encoder):
    config = SupervisedConfig(epochs=1)
    before = torch.get_rng_state()
    runs = [train_supervised(encoder, *digits, config=config, seed=s)[0].test for s in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(before, torch.get_rng_state())


def test_it_stops_when_the_validation_part_gets_no_better(digits, encoder):
    """Random labels: nothing to learn, so that the best epoch comes early and patience ends the run."""
    epochs = []
    noise = np.random.default_rng(0).integers(0, 2, 1000)

    def watch(images, epoch, positions):
        epochs.append(epoch)
        return images

    config = SupervisedConfig(epochs=60, learning_rate=1e-2, patience=3)
    _, (row, *_) = train_supervised(encoder, digits[0], noise, digits[2], noise[:797], config=config, augment=watch)
    assert max(epochs) + 1 == row.detail["epochs"] + 3 < 60


def test_augmentation_sees_training_batches_with_epoch_and_position(digits, encoder):
    images, labels, *test = digits
    seen = []

    def blank(batch, epoch, positions):
        assert torch.equal(batch, images[positions])
        seen.append((epoch, len(batch)))
        return torch.zeros_like(batch)

    _, (row,) = train_supervised(encoder, images, labels, *test, config=SupervisedConfig(epochs=2), augment=blank)
    assert sum(size for epoch, size in seen if epoch == 1) == 900
    assert row.value < 0.3  # learned from blank pictures


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_other_tasks(digits, encoder, task):
    images, y, test_images, y_test = digits
    labels = [
        1000.0 + part if task == "regression" else np.stack([part < 5, part == 0], axis=1) for part in (y, y_test)
    ]
    features, rows = train_supervised(encoder, images, labels[0], test_images, labels[1], task=task, config=QUICK)
    assert features.test.shape == (797, 16)
    assert [r.metric for r in rows] == (["r2", "mae"] if task == "regression" else ["mean_average_precision"])
    assert rows[0].value > 0.5


def test_messages(digits, encoder):
    images, labels, test_images, test_labels = digits
    with pytest.raises(UserError, match="1000 train samples but 5 train labels"):
        train_supervised(encoder, images, labels[:5], test_images, labels[:797])
    with pytest.raises(UserError, match="797 test samples but 3 test labels"):
        train_supervised(encoder, images, labels, test_images, test_labels[:3])
    with pytest.raises(UserError, match="epochs must be at least 1"):
        SupervisedConfig(epochs=0)
    with pytest.raises(UserError, match="validation_fraction"):
        SupervisedConfig(validation_fraction=0.9)


class OfDicts(nn.Module):
    """The same encoder for an input of two tensors."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs):
        assert set(inputs) == {"image", "offset"}
        return self.encoder(inputs["image"] - inputs["offset"][:, None, None, None])


def test_an_input_of_several_tensors_is_trained_on_as_one_of_one(digits, encoder):
    images, labels, test_images, test_labels = digits
    config = SupervisedConfig(epochs=1)
    both = [{"image": part + 3, "offset": torch.full((len(part),), 3.0)} for part in (images, test_images)]
    plain, _ = train_supervised(encoder, *digits, config=config)
    features, _ = train_supervised(OfDicts(encoder), both[0], labels, both[1], test_labels, config=config)
    torch.testing.assert_close(features.test, plain.test, atol=1e-3, rtol=1e-3)
