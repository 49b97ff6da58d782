"""The paired shape: several views of one thing, of one modality or of two, that predict each other's embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.core.anticollapse import AntiCollapse
from jepakit.core.batch import Batch, count_of
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.system import System
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


@dataclass(frozen=True)
class Comparison:
    """What a batch of pairs comes down to; samples are the second axis everywhere.

    predictions, partners: what is compared with what.
    embedded: every view, for the anti-collapse loss.
    """

    predictions: Float[Tensor, "compared batch dim"]
    partners: Float[Tensor, "compared batch dim"]
    embedded: Float[Tensor, "views batch dim"]


class Paired(System):
    """Predictions from some views of a sample are to lie at its partners, from others; nothing else may collapse.

    A subclass says in `compare` what is compared: the views of one kind that `Views` takes, or two modalities.

    Args:
        energy: distance of a prediction from its partner.
        anti_collapse: a loss on all views; None: nothing keeps them from collapsing.
        invariance: weight of the energy; 0 leaves the aligning of views to `anti_collapse`.
    """

    def __init__(self, energy: Energy, *, anti_collapse: AntiCollapse | None = None, invariance: float = 1.0):
        super().__init__()
        check_range("invariance", invariance, 0)
        self.measure, self.anti_collapse, self.invariance = energy, anti_collapse, invariance

    def compare(self, batch: Batch) -> Comparison:
        """The views of a batch, embedded and paired."""
        raise NotImplementedError

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Embed every view, compare it with its partner, keep the whole from collapsing."""
        return self.score(self.compare(batch), batch)

    def score(self, compared: Comparison, batch: Batch) -> dict[str, Tensor]:
        """The loss of what was compared and its terms; the count of `prediction` is that of all comparisons."""
        energies = self.measure(compared.predictions, compared.partners)
        terms = {"prediction": mean_over_tokens(energies, count=count_of(batch, "prediction"))}
        loss = self.invariance * terms["prediction"]
        if self.anti_collapse is not None:
            regulariser = self.anti_collapse(compared.embedded, int(batch["step"]))
            loss = loss + regulariser.pop("loss")
            terms.update(regulariser)
        return {"loss": loss, **terms}

    def views(self, batch: Batch) -> Float[Tensor, "batch views dim"]:
        """The views as they are compared."""
        return self.compare(batch).embedded.transpose(0, 1)

    def energy(self, batch: Batch, partners: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Mean energy between the predictions of sample i and the partners of sample `partners[i]`."""
        compared = self.compare(batch)
        return self.measure(compared.predictions, compared.partners[:, partners]).mean(0)


class Views(Paired):
    """Each view's projected embedding predicts its partner: the centre of the views, or the mean of the other views.

    Batch: `views [batch, views, channels, height, width]`, `step`, and optionally `local_views` of another size, which
    predict the partner too but are no part of it.

    Args:
        network: encoder and projector.
        target: of the partner's views; None: the network itself, with gradient.
        momentum: of a target that follows the network, at the start and at the end of the training; it changes linearly. None:
            the target is not told.
        energy: distance of a view's embedding from its partner.
        partner: "centre" is the mean of all (global) views, "others" leaves the view itself out.
        predictor: maps a projection before it is compared, None: nothing; asymmetric methods need one.
        anti_collapse: a loss on the projected views; None: nothing keeps them from collapsing (the negative control).
        invariance: weight of the energy; 0 leaves the aligning of views to `anti_collapse`.
    """

    joins_batch = True  # batch statistics of the projector, and those of the anti-collapse loss

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
        momentum: tuple[float, float] | None = None,
    ):
        super().__init__(energy, anti_collapse=anti_collapse, invariance=invariance)
        check_choice("partner", partner, ("centre", "others"))
        self.network, self.partner, self.momentum = network, partner, momentum
        self.target = SharedTarget(network) if target is None else target
        self.predictor = nn.Identity() if predictor is None else predictor

    def compare(self, batch: Batch) -> Comparison:
        """Each view with its partner; local views with the centre."""
        embedded = self._embed(batch["views"])
        shared = isinstance(self.target, SharedTarget) and self.target.differentiable
        targets = embedded if shared else self._embed(batch["views"], self.target)
        partners = self._partners(targets)
        if "local_views" in batch:
            local = self._embed(batch["local_views"])
            embedded = torch.cat([embedded, local])
            partners = torch.cat([partners, targets.mean(0).expand_as(local)])
        predictions = self.predictor(embedded.flatten(0, 1)).unflatten(0, embedded.shape[:2])
        return Comparison(predictions, partners, embedded)

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

    def after_step(self, progress: float) -> dict[str, float]:
        return self.target.follow(self.momentum, progress)

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
