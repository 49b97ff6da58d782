"""The masked shape: from the visible tokens of one thing, predict the embeddings of its hidden ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.core.anticollapse import AntiCollapse
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.system import Batch, System
from jepakit.core.targets import Target
from jepakit.errors import check_choice, check_range
from jepakit.nn.tokens import Ids, Tokens


@dataclass(frozen=True)
class MaskedBatch:
    """A masked batch with contexts and blocks folded into the batch axis, context-major within a sample."""

    images: Tensor
    context: Ids  # [batch * contexts, kept]
    targets: Ids  # [batch * blocks, predicted]
    contexts: int
    blocks: int

    @staticmethod
    def read(batch: Batch) -> MaskedBatch:
        kept, predicted = batch["context"], batch["targets"]
        return MaskedBatch(
            images=batch["image"],
            context=Ids(kept.flatten(0, 1), batch["context_lengths"].flatten()),
            targets=Ids(predicted.flatten(0, 1), batch["target_lengths"].flatten()),
            contexts=kept.shape[1],
            blocks=predicted.shape[1],
        )


class Masked(System):
    """Encoder sees the context, predictor is asked at the target blocks, target encoder sees everything.

    Batch: `image [batch, channels, height, width]`, `context [batch, contexts, kept]`, its `context_lengths [batch,
    contexts]`, `targets [batch, blocks, predicted]`, its `target_lengths [batch, blocks]`, `step`.

    Args:
        encoder, predictor: `encoder(images, keep) -> Tokens`, `predictor(context, queries) -> predictions`.
        target: where the targets come from.
        energy: distance of a prediction from its target.
        target_norm: "layer" normalises each target token (parameter-free LayerNorm), "none" leaves it.
        anti_collapse, projector: a loss on the projected mean of a context's tokens; an image's contexts are its views.
        invariance: weight of the squared distance of an image's projected contexts from their mean; for a method that
            does not align views itself.
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        target: Target,
        energy: Energy,
        *,
        target_norm: Literal["layer", "none"] = "layer",
        anti_collapse: AntiCollapse | None = None,
        projector: nn.Module | None = None,
        invariance: float = 0.0,
    ):
        super().__init__()
        check_choice("target_norm", target_norm, ("layer", "none"))
        check_range("invariance", invariance, 0)
        self.encoder, self.predictor, self.target = encoder, predictor, target
        self.projector = projector
        self.measure, self.target_norm = energy, target_norm
        self.anti_collapse, self.invariance = anti_collapse, invariance
        self.joins_batch = anti_collapse is not None

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One screen, the whole method: encode what is kept, predict what is hidden, compare, keep from collapsing."""
        b = MaskedBatch.read(batch)
        context = self._contexts(b)
        energy, valid = self._energies(b, self._predict(b, context), self._targets(b, b.images))
        terms = {"prediction": mean_over_tokens(energy, valid)}
        loss = terms["prediction"]
        if self.anti_collapse is not None:
            views = rearrange(self._project(context.mean()), "(b e) d -> e b d", e=b.contexts)
            regulariser = self.anti_collapse(views, int(batch["step"]))
            loss = loss + regulariser.pop("loss")
            terms.update(regulariser)
            if self.invariance > 0:
                terms["alignment"] = mean_over_tokens((views - views.mean(0)).square().mean(-1))
                loss = loss + self.invariance * terms["alignment"]
        return {"loss": loss, **terms}

    def _contexts(self, b: MaskedBatch) -> Tokens:
        return self.encoder(repeat(b.images, "b ... -> (b e) ...", e=b.contexts), keep=b.context)

    def _energies(self, b: MaskedBatch, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of every predicted token and which are real, both `[batch * contexts * blocks, predicted]`."""
        energy = self.measure(predictions, repeat(targets, "(b m) k d -> (b e m) k d", m=b.blocks, e=b.contexts))
        return energy, repeat(b.targets.valid, "(b m) k -> (b e m) k", m=b.blocks, e=b.contexts)

    def _targets(self, b: MaskedBatch, images: Tensor) -> Float[Tensor, "batch_blocks predicted dim"]:
        tokens = self.target(images).values
        if self.target_norm == "layer":
            tokens = F.layer_norm(tokens.float(), tokens.shape[-1:])
        return b.targets.gather(repeat(tokens, "b ... -> (b m) ...", m=b.blocks))

    def _predict(self, b: MaskedBatch, context: Tokens) -> Float[Tensor, "batch_contexts_blocks predicted dim"]:
        """Every block by itself from every context: blocks do not see each other."""

        def each_block(x: Tensor) -> Tensor:
            return repeat(x, "n ... -> (n m) ...", m=b.blocks)

        def each_context(x: Tensor) -> Tensor:
            return repeat(x, "(b m) ... -> (b e m) ...", m=b.blocks, e=b.contexts)

        lengths = None if context.lengths is None else each_block(context.lengths)
        repeated = Tokens(each_block(context.values), each_block(context.positions), lengths)
        asked = None if b.targets.lengths is None else each_context(b.targets.lengths)
        return self.predictor(repeated, Ids(each_context(b.targets.values), asked))

    def _project(self, pooled: Tensor) -> Tensor:
        return pooled if self.projector is None else self.projector(pooled)

    def weight(self, batch: Batch) -> float:
        return float(batch["target_lengths"].sum())

    def encode(self, inputs: Tensor, keep: Ids | None = None) -> Tokens:
        """Tokens of the target encoder, the one the papers evaluate."""
        return self.target(inputs, keep=keep)

    def encoders(self) -> dict[str, nn.Module]:
        return {"target": self.target.encoder, "encoder": self.encoder}

    def views(self, batch: Batch) -> Float[Tensor, "batch views dim"]:
        """Mean-pooled context embeddings, one for each context mask."""
        b = MaskedBatch.read(batch)
        context = self._contexts(b)
        return rearrange(context.mean(), "(b e) d -> b e d", e=b.contexts)

    def energy(self, batch: Batch, partners: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Mean energy of predicting, at sample i's hidden positions, the target embeddings of sample `partners[i]`."""
        b = MaskedBatch.read(batch)
        context = self._contexts(b)
        energy, valid = self._energies(b, self._predict(b, context), self._targets(b, b.images[partners]))
        per_sample = rearrange(torch.where(valid, energy, 0), "(b em) k -> b (em k)", b=len(b.images)).sum(1)
        return per_sample / rearrange(valid, "(b em) k -> b (em k)", b=len(b.images)).sum(1)
