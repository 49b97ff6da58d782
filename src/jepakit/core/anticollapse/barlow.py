"""Barlow Twins (Zbontar, Jing, Misra, LeCun and Deny, ICML 2021, arXiv 2103.03230): the cross-correlation of two views'
embeddings is pushed towards the identity."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.collectives import sum_over_ranks
from jepakit.core.anticollapse.method import AntiCollapse
from jepakit.errors import check_range


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig:
    """redundancy: the paper's lambda, on the off-diagonal; weight: on the whole (1 in the paper)."""

    redundancy: float = 5e-3
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_range("barlow.redundancy", self.redundancy, 0)
        check_range("barlow.weight", self.weight, 0)


class BarlowTwins(AntiCollapse):
    """Mean over all pairs of views of sum_i (1 - C_ii)^2 + lambda sum over i != j of C_ij^2, C the cross-correlation.

    Terms: `diagonal` and `off_diagonal`, the two sums. Dimensions are standardised over the batch with the biased
    variance + 1e-5, as the authors' BatchNorm does.
    Batch-size meaning: the weights do not depend on the batch N. The off-diagonal sum has a noise floor of about
    dim (dim - 1) / N. Both sums grow with dim (the diagonal as dim, the rest as its square), the paper's convention.
    Rank-count meaning: statistics are those of the joined batch of all ranks.
    """

    name = "Barlow Twins"
    aligns_views = True
    minimum_views = 2

    def __init__(self, config: BarlowTwinsConfig):
        self.config = config

    def terms(self, views: Float[Tensor, "views batch dim"], step: int, count: int | Tensor) -> dict[str, Tensor]:
        centred = views - sum_over_ranks(views.sum(1, keepdim=True)) / count
        variance = sum_over_ranks(centred.square().sum(1, keepdim=True)) / count
        standard = centred * torch.rsqrt(variance + 1e-5)
        pairs = list(combinations(range(len(views)), 2))
        first, second = standard[[a for a, _ in pairs]], standard[[b for _, b in pairs]]
        correlation = sum_over_ranks(first.mT @ second) / count
        same = correlation.diagonal(dim1=1, dim2=2)
        diagonal = (1 - same).square().sum() / len(pairs)
        off_diagonal = (correlation.square().sum() - same.square().sum()) / len(pairs)
        loss = self.config.weight * (diagonal + self.config.redundancy * off_diagonal)
        return {"loss": loss, "diagonal": diagonal.detach(), "off_diagonal": off_diagonal.detach()}
