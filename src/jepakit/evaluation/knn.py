"""Exact nearest neighbours, and the kNN evaluator that votes with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jepakit.errors import UserError, check_choice, check_range
from jepakit.evaluation.labels import Task

Metric = Literal["cosine", "euclidean"]
Vote = Literal["weighted", "majority"]


@dataclass(frozen=True, kw_only=True)
class KNNConfig:
    """The defaults are the usual protocol (Wu et al. 2018; Caron et al. 2021) at k = 20, on features as they are.

    vote: "weighted" weights a neighbour by exp(cosine / temperature), or by 1 / distance under "euclidean";
        "majority" counts each neighbour once.
    """

    k: int = 20
    metric: Metric = "cosine"
    vote: Vote = "weighted"
    temperature: float = 0.07

    def __post_init__(self) -> None:
        check_range("k", self.k, low=1)
        check_choice("metric", self.metric, get_args(Metric))
        check_choice("vote", self.vote, get_args(Vote))
        check_range("temperature", self.temperature, low=1e-4)


def nearest(
    queries: Float[Tensor, "queries dim"], bank: Float[Tensor, "bank dim"], k: int, metric: Metric = "cosine"
) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
    """The k nearest of `bank` for each query, nearest first: cosines (or Euclidean distances) and positions.

    Exact. Works through the queries in parts, so that about 64 MiB of similarities exist at once.
    """
    if k > len(bank):
        raise UserError(f"{k} neighbours were asked for, but there are only {len(bank)} samples to choose from.")
    if metric == "cosine":
        queries, bank = F.normalize(queries, dim=1), F.normalize(bank, dim=1)
    values, positions = zip(*_parts(queries, bank, k, metric), strict=True)
    return torch.cat(values), torch.cat(positions)


def _parts(queries: Tensor, bank: Tensor, k: int, metric: Metric) -> Iterator[tuple[Tensor, Tensor]]:
    for part in queries.split(max(1, 2**24 // len(bank))):
        if metric == "cosine":
            yield torch.topk(part @ bank.T, k, dim=1)
        else:
            # the faster way by inner products loses the small distances, which are the ones that matter
            distances = torch.cdist(part, bank, compute_mode="donot_use_mm_for_euclid_dist")
            yield torch.topk(distances, k, dim=1, largest=False)


def knn_scores(
    train: Float[Tensor, "train dim"],
    targets: np.ndarray,
    test: Float[Tensor, "test dim"],
    task: Task,
    config: KNNConfig | None = None,
) -> np.ndarray:
    """Scores of the test samples from their neighbours in the train part.

    Classification: share of the vote `[test, classes]`; multilabel: `[test, labels]`; regression: the (weighted) mean
    of the neighbours' labels `[test]`. `targets` as in `Targets.train`.
    """
    config = config or KNNConfig()
    if config.k > len(train):
        raise UserError(f"knn-{config.k} needs as many training samples, got {len(train)}. Ask for knn-{len(train)}.")
    values, positions = nearest(test, train, config.k, config.metric)
    values = values.double()
    if config.vote == "majority":
        weights = torch.ones_like(values)
    elif config.metric == "cosine":
        weights = ((values - values[:, :1]) / config.temperature).exp()  # relative to the nearest: never overflows
    else:
        weights = values[:, :1].clamp_min(1e-12) / values.clamp_min(1e-12)
    weights = weights / weights.sum(dim=1, keepdim=True)
    labels = torch.as_tensor(targets, device=train.device)[positions]
    if task == "classification":
        scores = weights.new_zeros(len(test), int(targets.max()) + 1).scatter_add_(1, labels, weights)
    elif task == "multilabel":
        scores = torch.einsum("nk,nkl->nl", weights, labels.double())
    else:
        scores = (weights * labels.double()).sum(dim=1)
    return scores.cpu().numpy()
