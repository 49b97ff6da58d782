"""The paired shape: several views of one thing, each predicting the embedding that the views share."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.core.anticollapse import AntiCollapse
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.system import Batch, System
from jepakit.core.targets import SharedTarget, Target
from jepakit.errors import check_choice, check_range
from jepakit.nn.tokens import Ids, Tokens


class Projected(nn.Module):
    """An encoder, the mean of its tokens, and a projector: `images [n, ...] -> [n, projected]`."""

    def __init__(self, encoder: nn.Module, projector: nn.Module):
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, images: Tensor) -> Float[Tensor, "n projected"]:
        return self.projector(self.encoder(images).mean())


class Paired(System):
    """Each view's projected embedding predicts its partner: the centre of the views, or the mean of the other views.

    Batch: `views [batch, views, channels, height, width]`, `step`, and optionally `local_views` of another size, which
    predict the partner too but are no part of it.

    Args:
        network: encoder and projector.
        target: of the partner's views; None: the network itself, with gradient.
        energy: distance of a view's embedding from its partner.
        partner: "centre" is the mean of all (global) views, "others" leaves the view itself out.
        predictor: maps a projection before it is compared, None: nothing; asymmetric methods need one.
        anti_collapse: a loss on the projected views; None: nothing keeps them from collapsing (the negative control).
        invariance: weight of the energy; 0 leaves the aligning of views to `anti_collapse`.
    """

    joins_batch = True

    def __init__(
        self,
        network: Projected,
        energy: Energy,
        *,
        target: Target | None = None,
        partner: Literal["centre", "others"] = "centre",
        predictor: nn.Module | None = None,
        anti_collapse: AntiCollapse | None = None,
        invariance: float = 1.0,
    ):
        super().__init__()
        check_choice("partner", partner, ("centre", "others"))
        check_range("invariance", invariance, 0)
        self.network = network
        self.target = SharedTarget(network) if target is None else target
        self.predictor = nn.Identity() if predictor is None else predictor
        self.measure, self.partner = energy, partner
        self.anti_collapse, self.invariance = anti_collapse, invariance

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Embed every view, compare each with its partner, keep the whole from collapsing."""
        embedded = self._embed(batch["views"])
        shared = isinstance(self.target, SharedTarget) and self.target.differentiable
        targets = embedded if shared else self._embed(batch["views"], self.target)
        partners = self._partners(targets)
        if "local_views" in batch:
            local = self._embed(batch["local_views"])
            embedded = torch.cat([embedded, local])
            partners = torch.cat([partners, targets.mean(0).expand_as(local)])
        predictions = self.predictor(embedded.flatten(0, 1)).unflatten(0, embedded.shape[:2])
        terms = {"prediction": mean_over_tokens(self.measure(predictions, partners))}
        loss = self.invariance * terms["prediction"]
        if self.anti_collapse is not None:
            regulariser = self.anti_collapse(embedded, int(batch["step"]))
            loss = loss + regulariser.pop("loss")
            terms.update(regulariser)
        return {"loss": loss, **terms}

    def _embed(self, views: Tensor, network: nn.Module | None = None) -> Float[Tensor, "views batch projected"]:
        flat = (self.network if network is None else network)(views.flatten(0, 1))
        return rearrange(flat, "(b v) d -> v b d", v=views.shape[1])

    def _partners(self, targets: Float[Tensor, "views batch projected"]) -> Float[Tensor, "views batch projected"]:
        centre = targets.mean(0, keepdim=True)
        if self.partner == "centre":
            return centre.expand_as(targets)
        return (centre * len(targets) - targets) / (len(targets) - 1)

    def encode(self, inputs: Tensor, keep: Ids | None = None) -> Tokens:
        """Tokens of the encoder, before projection: the embeddings the papers evaluate."""
        encoder = self.network.encoder
        return encoder(inputs) if keep is None else encoder(inputs, keep=keep)

    def encoders(self) -> dict[str, nn.Module]:
        return {"target": self.network.encoder, "encoder": self.network.encoder}

    def views(self, batch: Batch) -> Float[Tensor, "batch views dim"]:
        """Mean-pooled encoder output of each view."""
        views = batch["views"]
        return self.encode(views.flatten(0, 1)).mean().unflatten(0, views.shape[:2])

    def energy(self, batch: Batch, partners: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Mean energy between each view of sample i and the mean of the *other* views of sample `partners[i]`."""
        views = batch["views"]
        predictions = self._embed(views)
        predictions = self.predictor(predictions.flatten(0, 1)).unflatten(0, predictions.shape[:2])
        targets = self._embed(views, self.target)
        others = (targets.sum(0, keepdim=True) - targets) / (len(targets) - 1)
        return self.measure(predictions, others[:, partners]).mean(0)
