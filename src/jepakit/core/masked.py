"""The masked shape: from the visible tokens of one thing, predict the embeddings of its hidden ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.core.batch import Batch, map_tensors
from jepakit.core.energies import Energy
from jepakit.core.latent import FreeEnergy
from jepakit.core.masked_batch import MaskedBatch
from jepakit.core.system import System
from jepakit.core.targets import Target
from jepakit.core.terms import MaskedForward, Term, pooled
from jepakit.errors import UserError, check_choice
from jepakit.nn.tokens import Ids, Tokens


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What a stream of samples brings to the loss: `weight` times the sum of its prediction and its terms."""

    weight: float = 1.0
    terms: Sequence[Term] = ()

    @property
    def reads_visible(self) -> bool:
        return any(term.reads_visible for term in self.terms)


class Masked(System):
    """Encoder sees the context, predictor is asked at the target blocks, target encoder sees everything.

    Batch: `inputs [batch, ...]` (a tensor or a dict of them), `context [batch, contexts, kept]`, its `context_lengths [batch,
    contexts]`, `targets [batch, blocks, predicted]`, its `target_lengths [batch, blocks]` (or `[batch, contexts, blocks,
    ...]`, where each context has blocks of its own), optionally `condition [batch, ...]` for the predictor, the `positions
    [batch, tokens, axes]` of all tokens (where they are not those of the target's) and, in the shape of `targets`, the
    `target_parts` to predict in parallel; `step`, and for a ramp `progress`. With named streams, one such batch for each
    name, and the numbers of no dimension beside them.

    Args:
        encoder, predictor: `encoder(inputs, keep) -> Tokens`, where neighbouring rows of `keep` may be of one sample (see
            `Ids.gather`), `predictor(context, queries, positions=...) -> predictions`, told the positions of all tokens
            (None where only the batch could tell them and does not); with a loss on visible tokens
            `predictor(..., visible=True) -> predictions, predictions at the context`.
        target: where the targets come from.
        target_sees: "all" tokens, or only those "asked" for, each block by itself (Graph-JEPA; for audio arXiv 2405.08679).
        own_ids: True where a number names another token in every sample (the parts of a graph), so that the energy with a
            partner asks for the partner's own targets; with a grid of tokens a place is the same in all.
        energy: distance of a prediction from its target; a `FreeEnergy` searches a latent z for each block, which the
            predictor is given as its condition (the batch then brings none).
        levels: depths of the encoder that are read and predicted, side by side on the channels, so that the energy is their
            mean; None: its output.
        target_norm: "layer" normalises each target token (parameter-free LayerNorm, each level by itself), "none" does not.
        terms: what stands beside the prediction in the loss (`core.terms`), in this order.
        projector: of the mean of a context's tokens, for terms that read contexts as views of their sample.
        streams: the named streams that a step learns from together, the main one first, each with terms of its own; None: one
            without a name.
        mask_tokens: how many the predictor has: a sample's contexts are asked with them in turn (V-JEPA: one for each kind of
            mask).
        momentum: of a target that follows the encoder, at the start and at the end of the training; it changes linearly.
            None: the target is not told.
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        target: Target,
        energy: Energy | FreeEnergy,
        *,
        levels: Sequence[int] | None = None,
        target_norm: Literal["layer", "none"] = "layer",
        target_sees: Literal["all", "asked"] = "all",
        own_ids: bool = False,
        terms: Sequence[Term] = (),
        projector: nn.Module | None = None,
        streams: Mapping[str, Stream] | None = None,
        mask_tokens: int = 1,
        momentum: tuple[float, float] | None = None,
    ):
        super().__init__()
        check_choice("target_norm", target_norm, ("layer", "none"))
        check_choice("target_sees", target_sees, ("all", "asked"))
        if streams is not None and terms:
            raise UserError("With several streams, terms belong to each stream: give them as Stream(terms=...).")
        self.encoder, self.predictor, self.target = encoder, predictor, target
        self.projector, self.momentum, self.mask_tokens = projector, momentum, mask_tokens
        self.measure, self.levels, self.target_norm = energy, levels, target_norm
        self.streams = {"": Stream(terms=terms)} if streams is None else dict(streams)
        self.target_sees, self.own_ids = target_sees, own_ids
        if isinstance(energy, FreeEnergy) and any(stream.reads_visible for stream in self.streams.values()):
            raise UserError("visible: a latent z is searched for what is hidden. Leave visible out, or the latent.")
        if target_sees == "asked" and any(stream.reads_visible for stream in self.streams.values()):
            raise UserError("visible needs targets of the tokens that the context sees: leave target_sees at 'all'.")
        self.joins_batch = any(term.joins_batch for stream in self.streams.values() for term in stream.terms)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One screen, the whole method: encode what is kept, predict what is hidden, compare; then the terms beside it."""
        numbers: dict[str, Tensor] = {}
        losses = []
        for name, stream, part in self._parts(batch):
            b = MaskedBatch.read(part)
            context, targets = self._contexts(b), self._targets(b)
            energy, at_visible = self._energies(b, context, targets, stream.reads_visible)
            made = MaskedForward(batch, name, b, context, targets, at_visible, self._pair_energy, self.projector)
            prediction = made.mean(energy, b.targets.valid, "prediction")
            for values, loss in (({"prediction": prediction}, prediction), *(term(made) for term in stream.terms)):
                numbers.update({f"{name}{key}": value for key, value in values.items()})
                losses.append(stream.weight * loss)
        return {"loss": torch.stack(losses).sum(), **numbers}

    def _parts(self, batch: Batch) -> Iterator[tuple[str, Stream, Batch]]:
        """The batch of each stream, and what its terms' names begin with."""
        for name, stream in self.streams.items():
            yield (f"{name}/", stream, batch[name]) if name else ("", stream, batch)

    def _main(self, batch: Batch) -> Batch:
        """The main stream's batch, which may come alone and without its name."""
        return batch if "inputs" in batch else batch[next(iter(self.streams))]

    def _contexts(self, b: MaskedBatch) -> Tokens:
        """Embeddings of the contexts, `[batch * contexts, kept, (levels,) dim]`."""
        options = {} if self.levels is None else {"levels": self.levels}
        return self.encoder(b.inputs, keep=b.context, **options)

    def _targets(self, b: MaskedBatch) -> Tokens:
        """Targets of all tokens, `[batch, tokens, levels * dim]`, or of those asked for, `[batch * contexts * blocks, ...]`."""
        if self.target_sees == "asked":
            tokens = self.target(b.inputs, keep=b.targets, levels=self.levels)
        else:
            tokens = self.target(b.inputs, levels=self.levels)
        values = tokens.values
        if self.target_norm == "layer":
            values = F.layer_norm(values if values.dtype == torch.float64 else values.float(), values.shape[-1:])
        return Tokens(values.flatten(2), tokens.positions)

    def _hidden(self, b: MaskedBatch, targets: Tokens) -> Tensor:
        """The targets asked for, `[batch * contexts * blocks, predicted, levels * dim]`."""
        return targets.values if self.target_sees == "asked" else b.targets.gather(targets.values)

    @property
    def _pair_energy(self) -> Energy:
        return self.measure if isinstance(self.measure, Energy) else self.measure.pair_energy

    def _energies(
        self, b: MaskedBatch, context: Tokens, targets: Tokens, visible: bool = False
    ) -> tuple[Float[Tensor, "rows predicted"], Tensor | None]:
        """Energy of every token asked for (with a latent z that of its block); where `visible`, also the predictions at the
        tokens that the context sees."""
        hidden, positions = self._hidden(b, targets), self._positions(b, targets)
        if isinstance(self.measure, Energy):
            predictions, at_visible = self._predict(b, context, positions, visible)
            return self.measure(predictions, hidden), at_visible

        def predict(values: Tensor, z: Tensor | None) -> Tensor:
            return self._predict(replace(b, condition=z), replace(context, values=values), positions)[0]

        energy = self.measure.energy(predict, context.values, hidden, b.targets.valid)
        return energy[:, None].expand(b.targets.valid.shape), None

    def _positions(self, b: MaskedBatch, targets: Tokens) -> Tensor | None:
        """Positions of all tokens: the batch's, or those of the targets where these are of all tokens."""
        return targets.positions if b.positions is None and self.target_sees == "all" else b.positions

    def _predict(
        self, b: MaskedBatch, context: Tokens, positions: Tensor | None, visible: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Every block from its context: blocks do not see each other. `[batch * contexts * blocks, ...]`"""
        lengths = None if context.lengths is None else b.each_block(context.lengths)
        repeated = Tokens(b.each_block(context.values), b.each_block(context.positions), lengths)
        options: dict[str, Any] = {name: x for name, x in (("condition", b.condition), ("parts", b.parts)) if x is not None}
        if self.mask_tokens > 1:
            kinds = torch.arange(b.contexts, device=context.values.device) % self.mask_tokens
            options["kind"] = kinds.repeat_interleave(b.blocks).repeat(len(repeated.values) // (b.contexts * b.blocks))
        if visible:
            return self.predictor(repeated, b.targets, positions=positions, visible=True, **options)
        return self.predictor(repeated, b.targets, positions=positions, **options), None

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        counts = {}
        for name, stream, part in self._parts(batch):
            b = MaskedBatch.read(part)
            counts[f"{name}prediction"] = b.targets.valid.sum()
            for term in stream.terms:
                counts |= {f"{name}{key}": count for key, count in term.counts(b).items()}
        return counts

    def encode(self, inputs: Any, keep: Ids | None = None) -> Tokens:
        """Tokens of the encoder that the target declares (`Target.encodes`): mostly its own, the one the papers evaluate."""
        encoder = self.encoders()["target"]
        return encoder(inputs) if keep is None else encoder(inputs, keep=keep)

    def encoders(self) -> dict[str, nn.Module]:
        return {"target": self.target.encoder if self.target.encodes == "target" else self.encoder, "encoder": self.encoder}

    def after_step(self, progress: float) -> dict[str, float]:
        return self.target.follow(self.momentum, progress)

    def views(self, batch: Batch) -> Float[Tensor, "batch views dim"]:
        """Mean-pooled context embeddings, one for each context mask."""
        b = MaskedBatch.read(self._main(batch))
        return rearrange(pooled(self._contexts(b)), "(b e) d -> b e d", e=b.contexts)

    def energy(self, batch: Batch, partners: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Mean energy of predicting, at sample i's hidden positions, the target embeddings of sample `partners[i]`.

        With `own_ids` at the partner's hidden positions instead. A sample of which nothing is asked has energy 0.
        """
        part = self._main(batch)
        moved = ("inputs", "targets", "target_lengths", "condition", "positions") if self.own_ids else ("inputs",)
        theirs = {name: map_tensors(lambda x: x[partners], part[name]) for name in moved if name in part}
        b, other = MaskedBatch.read(part), MaskedBatch.read({**part, **theirs})
        energy, _ = self._energies(other, self._contexts(b), self._targets(other))
        valid = other.targets.valid
        rows = {"r": b.contexts * b.blocks}
        energy, valid = (rearrange(x, "(b r) k -> b (r k)", **rows) for x in (torch.where(valid, energy, 0), valid))
        return energy.sum(1) / valid.sum(1).clamp_min(1)

