"""Alignment and uniformity on the unit sphere: how near two views of a sample lie, and how evenly samples spread.

Wang and Isola 2020, arXiv 2005.10242: alignment is the mean squared distance of the views, uniformity the logarithm of the mean
of exp(-2 d^2) over pairs of samples at distance d; both lower is better. Neither needs labels. An encoder that collapsed is
perfectly aligned, so the two are read together: a random encoder stands beside.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepakit.core.batch import map_tensors
from jepakit.core.system import System
from jepakit.evaluation.evaluated_model import EvaluatedModel
from jepakit.evaluation.evaluators.evaluator import EvaluationOptions, Evaluator, When
from jepakit.evaluation.frozen_features import some
from jepakit.evaluation.intervals import bootstrap
from jepakit.evaluation.metrics import Metric, Values, Weights
from jepakit.evaluation.rows import Row
from jepakit.modalities.modality import Data, Samples

SAMPLES = 500  # held-out ones at most: pairs grow with their square
BATCH = 100


def mean_distance(distances: Float[np.ndarray, "n"], _: object, weights: Weights) -> Values:
    """Mean squared distance of the two views of each sample."""
    return weights @ distances / weights.sum(axis=1)


def log_kernel_mean(kernels: Float[np.ndarray, "n n"], _: object, weights: Weights) -> Values:
    """Logarithm of the mean kernel over pairs of different samples."""
    others = kernels * (1 - np.eye(len(kernels)))
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    return np.log(((weights @ others) * weights).sum(axis=1) / pairs)


ALIGNMENT = Metric("alignment", mean_distance, "Alignment of views (lower is better)", higher_is_better=False)
UNIFORMITY = Metric("uniformity", log_kernel_mean, "Uniformity of samples (lower is better)", higher_is_better=False)


class Alignment(Evaluator):
    """Both metrics of the views that a system draws of held-out samples, trained and at random weights."""

    when: ClassVar[When] = "asked for"
    metrics: ClassVar[tuple[Metric, ...]] = (ALIGNMENT, UNIFORMITY)

    def fits(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> str | None:
        if model.system is None or model.system.answers is not None:
            return "alignment needs a pretrained run, which draws the views of its samples. Leave it out."
        return None

    def rows(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> list[Row]:
        samples = some(data.test, SAMPLES, model.seed)
        rows = []
        for name, system in model.systems.items():
            views = embed_views(system, samples, model.seed, model.device)
            apart = (views[:, 0] - views[:, 1]).square().sum(1).numpy()
            kernels = (-2 * torch.cdist(views[:, 0], views[:, 0]).square()).exp().numpy()
            for metric, scores in ((ALIGNMENT, apart), (UNIFORMITY, kernels)):
                interval = bootstrap(metric, scores, np.zeros(len(samples)), seed=model.seed)
                rows.append(Row.of(name, "alignment", metric, interval, {"test": len(samples)}))
        return rows

    @classmethod
    def heading(cls, evaluator: str) -> str:
        return "Views on the sphere"

    @classmethod
    def phrase(cls, evaluator: str) -> str:
        return "by its views on the sphere"


@torch.no_grad()
def embed_views(
    system: System, samples: Samples, seed: int, device: torch.device | None = None
) -> Float[Tensor, "samples 2 dim"]:
    """Embeddings of two views of each sample, of length 1, on the CPU."""
    collator, views = system.collator(seed, views=2), []
    for start in range(0, len(samples), BATCH):
        batch = collator([samples[i] for i in range(start, min(start + BATCH, len(samples)))])
        views.append(system.views(map_tensors(lambda tensor: tensor.to(device or "cpu"), batch)).double().cpu())
    return F.normalize(torch.cat(views), dim=-1)
