"""What labels ask of a model, and how wrong its answers are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jepakit.errors import UserError
from jepakit.training.answers import Answers


class Part(SimpleNamespace):
    def __len__(self):
        return len(self.labels)


def data(train, test, task, classes=None):
    parts = [Part(labels=np.asarray(labels)) for labels in (train, test)]
    return SimpleNamespace(name="things", task=task, classes=classes, train=parts[0], test=parts[1])


def test_classes_keep_the_names_and_the_order_of_the_data():
    found = Answers.of(data([0, 1, 2, 1], [2, 0], "classification", ["cat", "dog", "owl"]))
    assert (found.task, found.outputs, found.classes) == ("classification", 3, ("cat", "dog", "owl"))
    scores = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(found.values(scores).sum(1), torch.ones(2))
    expected = F.cross_entropy(scores, torch.tensor([0, 2]), reduction="none")
    assert torch.equal(found.losses(scores, torch.tensor([0, 2])), expected)


@pytest.mark.parametrize("numbers", [1, 2])
def test_a_regression_is_learned_in_standard_deviations_and_answered_in_the_labels_unit(numbers):
    labels = np.random.default_rng(0).normal(50.0, 7.0, size=(40, numbers)).squeeze()
    found = Answers.of(data(labels, labels[:8], "regression"))
    assert (found.outputs, found.classes) == (numbers, ())
    right = (torch.as_tensor(labels[:8]).reshape(8, -1) - torch.tensor(found.mean)) / torch.tensor(found.scale)
    assert found.losses(right.double(), torch.as_tensor(labels[:8])).abs().max() < 1e-9
    assert torch.allclose(found.values(right.double()), torch.as_tensor(labels[:8]))
    means = found.losses(torch.zeros(40, numbers).double(), torch.as_tensor(labels))
    assert means.mean() == pytest.approx(1.0)


def test_a_multilabel_answer_is_a_probability_for_each_label():
    labels = [[1, 0, 1], [0, 1, 0], [1, 1, 1]]
    found = Answers.of(data(labels, labels, "multilabel", ["a", "b", "c"]))
    assert found.outputs == 3
    assert torch.equal(found.values(torch.zeros(2, 3)), torch.full((2, 3), 0.5))
    losses = found.losses(torch.zeros(3, 3), torch.tensor(labels))
    assert torch.allclose(losses, torch.full((3,), float(np.log(2))))


def test_labels_that_cannot_be_learned_are_told():
    with pytest.raises(UserError, match="things has no labels to tune on"):
        Answers.of(data([0], [0], None))
    with pytest.raises(UserError, match="at least two classes"):
        Answers.of(data([0, 0], [0], "classification", ["a"]))
    with pytest.raises(UserError, match=r"answers\.classes: 2 outputs need as many, got 1"):
        Answers(task="classification", outputs=2, classes=("a",))
    with pytest.raises(UserError, match=r"answers\.scale must be above 0"):
        Answers(task="regression", outputs=1, mean=(0.0,), scale=(0.0,))
    with pytest.raises(UserError, match=r"answers\.outputs"):
        Answers(task="classification", outputs=0)
