"""A recurrent predictor of the dynamics shape: the state is the embedding, an action turns it into the next (PLDM)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.errors import UserError


class RecurrentPredictor(nn.Module):
    """`DynamicsPredictor` by a gated recurrent unit whose hidden state is the embedding itself and whose input is the action.

    After the unit comes the normalisation that ends the encoder too (EB-JEPA), so that predictions lie where embeddings do.
    It has no memory beyond the newest embedding: older observations are forgotten.
    """

    def __init__(self, dim: int, action: int):
        super().__init__()
        self.unit = nn.GRUCell(action, dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(
        self,
        embeddings: Float[Tensor, "batch time dim"],
        actions: Float[Tensor, "batch time action"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """At each t the prediction of embedding t + 1 from embedding t and action t."""
        time = embeddings.shape[1]
        stepped = self.advance(embeddings.flatten(0, 1), actions.flatten(0, 1), condition)
        return stepped.unflatten(0, (-1, time))

    def begin(
        self, embeddings: Float[Tensor, "batch time dim"], actions: Tensor, lengths: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """The newest embedding; of sample i the one at `lengths[i] - 1`."""
        if lengths is None:
            return embeddings[:, -1]
        return embeddings[torch.arange(len(embeddings), device=embeddings.device), lengths - 1]

    def advance(
        self, state: Float[Tensor, "batch dim"], action: Float[Tensor, "batch action"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch dim"]:
        """The embedding after one more action."""
        if condition is not None:
            raise UserError("This predictor was built without a condition and was given one.")
        return self.norm(self.unit(action, state))

    def embedding(self, state: Any) -> Tensor:
        """The state is the embedding."""
        return state
