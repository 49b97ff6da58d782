"""What a tuned model is compared with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepakit.evaluation.evaluated_model import fresh_encoder
from jepakit.evaluation.evaluators.finetuned import always_the_same, is_cheap
from jepakit.evaluation.labels import Targets
from jepakit.evaluation.metrics import metrics_for
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.nn.vit import VisionTransformer, ViTConfig

INPUTS = ImageInputs(image_size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))


def test_answering_always_the_same_scores_the_share_of_the_largest_class_and_no_variance():
    classes = Targets(task="classification", train=np.array([0, 1, 1, 2]), test=np.array([1, 0, 1]), classes=("a", "b", "c"))
    assert metrics_for(classes)[0](always_the_same(classes), classes.test) == pytest.approx(2 / 3)
    numbers = Targets(task="regression", train=np.array([1.0, 3.0]), test=np.array([1.0, 2.0, 3.0]))
    assert metrics_for(numbers)[0](always_the_same(numbers), numbers.test) == 0
    labels = Targets(task="multilabel", train=np.array([[1.0, 0], [1, 1]]), test=np.array([[1.0, 0], [0, 1]]))
    assert always_the_same(labels).tolist() == [[1, 0.5], [1, 0.5]]


def test_a_fresh_encoder_is_of_the_same_shape_and_the_same_for_a_seed():
    encoder = VisionTransformer(ViTConfig(image_size=(8, 8), patch_size=4, channels=1, dim=16, depth=1, heads=2))
    first, second, other = (fresh_encoder(encoder, seed).state_dict() for seed in (0, 0, 1))
    name = "blocks.0.attn.qkv.weight"
    assert first.keys() == encoder.state_dict().keys()
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], encoder.state_dict()[name])


@pytest.mark.parametrize(("samples", "seen", "cheap"), [(10, 500, True), (10, 499, False), (5_000_000, 10**10, False)])
def test_training_from_random_weights_is_cheap_where_it_sees_no_more_and_fits_into_memory(samples, seen, cheap):
    class Train:
        def __len__(self):
            return samples

        def __getitem__(self, index):
            return {"image": torch.zeros(1, 8, 8, dtype=torch.uint8), "id": index}

    assert is_cheap(INPUTS, Train(), seen) == cheap
