"""InfoNCE (van den Oord, Li and Vinyals 2018, arXiv 1807.03748), in the two-sided form of CLIP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from jepakit.collectives import gather_over_ranks, sum_over_ranks
from jepakit.core.anticollapse.method import AntiCollapse
from jepakit.errors import UserError, check_range


@dataclass(frozen=True, kw_only=True)
class InfoNCEConfig:
    """temperature: divides cosines (0.07 to 0.2 work); weight: on the whole (1 in the papers)."""

    temperature: float = 0.2
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"infonce.temperature must be above 0, got {self.temperature}; 0.07 to 0.2 are usual.")
        check_range("infonce.weight", self.weight, 0)


class InfoNCE(AntiCollapse):
    """Which of the other view's samples is mine? Cross-entropy over cosines / temperature, both ways, mean over pairs.

    Term: `infonce`. Negatives are the other samples of the *other* view, on all ranks.
    Batch-size meaning: the paper's convention. There are N - 1 negatives, N the global batch: collapsed embeddings cost
    log N, the loss cannot fall below log(1 + (N - 1) exp(-2 / temperature)), and information beyond log N is not asked
    for. Another batch size is another objective, whatever the weight.
    Rank-count meaning: W ranks of B samples are one process with W B.
    """

    name = "InfoNCE"
    aligns_views = True
    minimum_views = 2

    def __init__(self, config: InfoNCEConfig):
        self.config = config

    def terms(self, views: Float[Tensor, "views batch dim"], step: int, count: int | Tensor) -> dict[str, Tensor]:
        unit = F.normalize(views, dim=-1)
        everyone = gather_over_ranks(unit.transpose(0, 1)).transpose(0, 1)
        total = torch.zeros((), device=views.device, dtype=views.dtype)
        for a in range(len(views)):
            for b in range(len(views)):
                if a != b:
                    logits = unit[a] @ everyone[b].mT / self.config.temperature
                    matching = (unit[a] * unit[b]).sum(-1) / self.config.temperature
                    total = total + (torch.logsumexp(logits, dim=-1) - matching).sum()
        infonce = sum_over_ranks(total) / (count * len(views) * (len(views) - 1))
        return {"loss": self.config.weight * infonce, "infonce": infonce.detach()}
