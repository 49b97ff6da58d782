"""VICReg (Bardes, Ponce and LeCun, ICLR 2022, arXiv 2105.04906): variance, invariance, covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.collectives import sum_over_ranks
from jepakit.core.anticollapse.method import AntiCollapse
from jepakit.errors import check_range


@dataclass(frozen=True, kw_only=True)
class VICRegConfig:
    """Weights of the three terms in the paper's convention, 25 / 25 / 1.

    The covariance term divides the sum over pairs of dimensions by dim. Where a paper takes the *mean* over the
    dim (dim - 1) pairs (EB-JEPA: 80 to 100), its weight is dim - 1 times the one here.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        for option in ("invariance", "variance", "covariance"):
            check_range(f"vicreg.{option}", getattr(self, option), 0)


class VICReg(AntiCollapse):
    """The paper's loss of two branches, averaged over all pairs of views. Terms:

    invariance  mean over pairs of views, batch and dim of (z - z')^2; absent with one view, which is regularised alone;
    variance    mean over dim of max(0, 1 - sqrt(var + 1e-4)), summed over a pair's two branches;
    covariance  1 / dim * sum over i != j of cov_ij^2, summed over a pair's two branches.

    (The authors' released code halves the variance term; the formula, as here, does not.)
    Batch-size meaning: the weights do not depend on the batch N. The covariance term has a noise floor: an isotropic
    Gaussian of unit variance gives (dim - 1) / (N - 1) a branch in expectation, so N >= 2 dim is advisable.
    Rank-count meaning: mean and covariance are those of the joined batch of all ranks.
    """

    name = "VICReg"
    aligns_views = True

    def __init__(self, config: VICRegConfig):
        self.config = config

    def terms(self, views: Float[Tensor, "views batch dim"], step: int, count: int | Tensor) -> dict[str, Tensor]:
        number, _, dim = views.shape
        branches = min(number, 2)
        centred = views - sum_over_ranks(views.sum(1, keepdim=True)) / count
        covariance = sum_over_ranks(centred.mT @ centred) / (count - 1)
        variances = covariance.diagonal(dim1=1, dim2=2)
        terms = {
            "variance": branches * torch.relu(1 - torch.sqrt(variances + 1e-4)).mean(),
            "covariance": branches * (covariance.square().sum() - variances.square().sum()) / (dim * number),
        }
        if number > 1:
            # The mean over pairs of views from the distances to the views' centre: 2 V / (V - 1) of their mean square.
            squares = sum_over_ranks((views - views.mean(0)).square().sum())
            terms["invariance"] = 2 * squares / ((number - 1) * count * dim)
        loss = torch.stack([getattr(self.config, name) * term for name, term in terms.items()]).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}
