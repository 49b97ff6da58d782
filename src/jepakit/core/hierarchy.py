"""Two levels of a world: above a trained world model another one, whose steps are longer and whose actions are macro-actions.

LeCun, "A path towards autonomous machine intelligence", 2022, section 4.6 (H-JEPA). The level above sees what the level below
embeds, and predicts what a whole block of its actions leads to, told of it by a few numbers: a macro-action. What it imagines
are subgoals for the level below.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.core.anticollapse import AntiCollapse
from jepakit.core.batch import Batch
from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.energies import Energy


class MacroPredictor(nn.Module):
    """A `DynamicsPredictor` of blocks of actions, `[..., block]`: each is made into a macro-action, `[..., macro]`, and the
    predictor is told of that alone."""

    def __init__(self, macro: nn.Module, size: int, predictor: Any):
        super().__init__()
        self.macro, self.size, self.predictor = macro, size, predictor

    def forward(self, embeddings: Tensor, actions: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.predictor(embeddings, self.macro(actions), condition)

    def begin(self, embeddings: Tensor, actions: Tensor, lengths: Tensor | None = None) -> Any:
        # Batch normalisation has nothing to say of no actions at all.
        told = self.macro(actions) if actions.shape[1] else actions.new_zeros(len(actions), 0, self.size)
        return self.predictor.begin(embeddings, told, lengths)

    def advance(self, state: Any, action: Tensor, condition: Tensor | None = None) -> Any:
        return self.predictor.advance(state, self.macro(action), condition)

    def embedding(self, state: Any) -> Tensor:
        return self.predictor.embedding(state)

    @property
    def looks_back(self) -> int | None:
        """As of the predictor that is told macro-actions."""
        return getattr(self.predictor, "looks_back", None)


class SeenFromAbove(nn.Module):
    """The lower level's predictor, unchanged, whose embeddings are given as the level above embeds them."""

    def __init__(self, predictor: Any, view: nn.Module):
        super().__init__()
        self.predictor, self.view = predictor, view

    def begin(self, embeddings: Tensor, actions: Tensor, lengths: Tensor | None = None) -> Any:
        return self.predictor.begin(embeddings, actions, lengths)

    def advance(self, state: Any, action: Tensor, condition: Tensor | None = None) -> Any:
        return self.predictor.advance(state, action, condition)

    def imagine(
        self, state: Any, actions: Tensor, condition: Tensor | None = None, owner: Tensor | None = None
    ) -> tuple[Tensor, Any] | None:
        """The predictor's own quicker way, where it has one."""
        found = None
        if hasattr(self.predictor, "imagine"):
            found = self.predictor.imagine(state, actions, condition, owner)
        return None if found is None else (self.view(found[0]), found[1])

    def embedding(self, state: Any) -> Tensor:
        return self.view(self.predictor.embedding(state))

    @property
    def looks_back(self) -> int | None:
        """As of the lower level's predictor."""
        return getattr(self.predictor, "looks_back", None)


class Embedded(nn.Module):
    """Single observations, `[n, ...]`, to the embeddings of a frozen world model, `[n, dim]`; without gradient."""

    def __init__(self, model: Dynamics):
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, observations: Float[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        return self.model.encode(observations[:, None]).values[:, 0]

    def train(self, mode: bool = True) -> Embedded:
        super().train(mode)
        self.model.eval()
        return self


class Hierarchy(Dynamics):
    """A world model above a trained one. Batch: as of `Dynamics`, each action a whole block of the lower level's.

    Args:
        lower: the trained world model, which stays as it is. Each of its embeddings is of one observation.
        view: what the upper level makes of a lower embedding, `[..., lower dim] -> [..., dim]`; the identity leaves the upper
            level in the lower one's own space, where nothing can collapse.
        macro: blocks of the lower level's actions to macro-actions, `[..., block] -> [..., macro_size]`.
        predictor: a `DynamicsPredictor` that is told macro-actions.
        energy, anti_collapse, rollout: as of `Dynamics`; history is 1.
        macro_prior: what shapes the macro-actions of a batch, so that a planner knows where to search. SIGReg makes them
            Gaussian: independent, of mean 0 and deviation 1.
        renormalise: observations as this model's `inputs` normalise them, as the lower model's do.

    Attributes:
        above: the upper level by itself, a world model whose actions are macro-actions: what plans far are made in.
        below: the lower level as seen from above, whose embeddings can be compared with what `above` imagines.
        inputs, lower_inputs: what each level expects of its input; a subclass sets them.
    """

    inputs: Any
    lower_inputs: Any

    def __init__(
        self,
        lower: Dynamics,
        view: nn.Module,
        macro: nn.Module,
        macro_size: int,
        predictor: Any,
        energy: Energy,
        *,
        macro_prior: AntiCollapse,
        anti_collapse: AntiCollapse | None = None,
        rollout: float = 0.0,
        renormalise: nn.Module | None = None,
    ):
        seeing = Embedded(lower) if renormalise is None else nn.Sequential(renormalise, Embedded(lower))
        super().__init__(
            ObservationEncoder(seeing, view), MacroPredictor(macro, macro_size, predictor), energy, history=1, rollout=rollout,
            anti_collapse=anti_collapse,
        )  # fmt: skip
        self.macro_prior, self.macro_size, self.joins_batch = macro_prior, macro_size, True

    @property
    def lower_steps(self) -> int:
        """Steps of the lower level to one of the upper."""
        return self.inputs.action // self.lower_inputs.action

    @property
    def above(self) -> Dynamics:
        """See the class."""
        return Dynamics(self.encoder, self.predictor.predictor, self.measure, history=1).train(self.training)

    @property
    def below(self) -> Dynamics:
        """See the class."""
        encoder: Any = self.encoder
        lower = next(part.model for part in encoder.modules() if isinstance(part, Embedded))
        return Dynamics(lower.encoder, SeenFromAbove(lower.predictor, encoder.projector), lower.measure).eval()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Predict what each block leads to, from what it is as a macro-action; keep the macro-actions where they belong."""
        terms = super().step(batch)
        prior = self._regularise(self.predictor.macro(batch["actions"]), self.macro_prior, int(batch["step"]))
        loss = terms.pop("loss") + prior.pop("loss")
        return {"loss": loss, **terms, **{f"macro_{name}": term for name, term in prior.items()}}
