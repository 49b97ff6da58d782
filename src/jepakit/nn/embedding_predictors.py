"""Predictors of the dynamics shape whose state is the embedding itself: an action turns it into the next (PLDM)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.errors import UserError


class EmbeddingPredictor(nn.Module):
    """`DynamicsPredictor` without memory beyond the newest embedding: older observations are forgotten.

    It ends with the normalisation that ends the encoder too (EB-JEPA), so that predictions lie where embeddings do;
    `normalised` False leaves it out, for embeddings that end otherwise.
    condition: width of a further condition (a latent z), which stands beside each action; 0: there is none.
    """

    looks_back: ClassVar[int] = 1  # observations that a state is made of

    def __init__(self, dim: int, condition: int = 0, normalised: bool = True):
        super().__init__()
        self.condition = condition
        self.norm = nn.LayerNorm(dim, elementwise_affine=False) if normalised else nn.Identity()

    def change(
        self, state: Float[Tensor, "batch dim"], action: Float[Tensor, "batch action"]
    ) -> Float[Tensor, "batch dim"]:
        """The embedding after one more action (the condition beside it), before it is normalised."""
        raise NotImplementedError

    def forward(
        self,
        embeddings: Float[Tensor, "batch time dim"],
        actions: Float[Tensor, "batch time action"],
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """At each t the prediction of embedding t + 1 from embedding t and action t, all under one condition."""
        time = embeddings.shape[1]
        given = None if condition is None else condition.repeat_interleave(time, dim=0)
        stepped = self.advance(embeddings.flatten(0, 1), actions.flatten(0, 1), given)
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
        """The embedding after one more action. Errors: a condition where the predictor has none, or none where it has one."""
        if condition is not None and not self.condition:
            raise UserError("This predictor was built without a condition and was given one.")
        if condition is None and self.condition:
            raise UserError(f"This predictor needs a condition [batch, {self.condition}] and was given none.")
        return self.norm(self.change(state, action if condition is None else torch.cat([action, condition.to(action)], dim=1)))

    def embedding(self, state: Any) -> Tensor:
        """The state is the embedding."""
        return state


class RecurrentPredictor(EmbeddingPredictor):
    """A gated recurrent unit whose hidden state is the embedding and whose input is the action (EB-JEPA)."""

    def __init__(self, dim: int, action: int, condition: int = 0):
        super().__init__(dim, condition)
        self.unit = nn.GRUCell(action + condition, dim)

    def change(
        self, state: Float[Tensor, "batch dim"], action: Float[Tensor, "batch action"]
    ) -> Float[Tensor, "batch dim"]:
        return self.unit(action, state)


class ResidualPredictor(EmbeddingPredictor):
    """Two hidden layers, of the embedding's width or another, see embedding and action; what they say is added to the first.

    As many operations as the recurrent unit, but two layers deep: where the action's effect depends on several things at once
    (a wall, and its door), it takes fewer updates to learn.
    """

    def __init__(self, dim: int, action: int, condition: int = 0, *, hidden: int | None = None, normalised: bool = True):
        super().__init__(dim, condition, normalised)
        hidden = hidden or dim
        self.layers = nn.Sequential(
            nn.Linear(dim + action + condition, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )

    def change(
        self, state: Float[Tensor, "batch dim"], action: Float[Tensor, "batch action"]
    ) -> Float[Tensor, "batch dim"]:
        return state + self.layers(torch.cat([state, action], dim=1))


PREDICTORS: dict[str, type[RecurrentPredictor | ResidualPredictor]] = {
    "recurrent": RecurrentPredictor,
    "residual": ResidualPredictor,
}
