"""A masked batch as the step reads it: contexts and blocks folded into the batch axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einops import repeat
from torch import Tensor

from jepakit.core.batch import Batch
from jepakit.nn.tokens import Ids


@dataclass(frozen=True)
class MaskedBatch:
    """Contexts and blocks lie context-major within a sample, so that neighbouring rows are of one sample."""

    inputs: Any  # a tensor or a dict of tensors, [batch, ...]
    context: Ids  # [batch * contexts, kept]
    targets: Ids  # [batch * contexts * blocks, predicted]
    parts: Tensor | None  # [batch * contexts * blocks, predicted]
    condition: Tensor | None  # [batch * contexts * blocks, width]
    positions: Tensor | None  # of all tokens, [batch, tokens, axes]
    contexts: int
    blocks: int

    @staticmethod
    def read(batch: Batch) -> MaskedBatch:
        kept, asked, lengths, parts = batch["context"], batch["targets"], batch["target_lengths"], batch.get("target_parts")
        contexts = kept.shape[1]
        if asked.ndim == 3:  # the same blocks for every context
            asked, lengths, parts = (
                None if x is None else repeat(x, "b m ... -> b e m ...", e=contexts) for x in (asked, lengths, parts)
            )
        blocks, condition = asked.shape[2], batch.get("condition")
        return MaskedBatch(
            inputs=batch["inputs"],
            context=Ids(kept.flatten(0, 1), batch["context_lengths"].flatten()),
            targets=Ids(asked.flatten(0, 2), lengths.flatten()),
            parts=None if parts is None else parts.flatten(0, 2),
            condition=None if condition is None else repeat(condition, "b ... -> (b r) ...", r=contexts * blocks),
            positions=batch.get("positions"),
            contexts=contexts,
            blocks=blocks,
        )

    def visible(self) -> Ids:
        """The context once for each of its blocks, `[batch * contexts * blocks, kept]`."""
        lengths = None if self.context.lengths is None else self.each_block(self.context.lengths)
        return Ids(self.each_block(self.context.values), lengths)

    def each_block(self, x: Tensor) -> Tensor:
        return x if self.blocks == 1 else repeat(x, "n ... -> (n m) ...", m=self.blocks)
