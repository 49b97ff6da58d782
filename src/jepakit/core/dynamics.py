"""The dynamics shape: from a state and an action, predict the embedding of the next observation; then imagine further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.core.anticollapse import AntiCollapse
from jepakit.core.batch import Batch, count_of, map_tensors
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.latent import ContinuousLatent, DiscreteLatent, FreeEnergy
from jepakit.core.state import State, tensors_of
from jepakit.core.system import PreparesWindows, System
from jepakit.core.targets import SharedTarget, Target
from jepakit.errors import UserError, check_choice, check_range
from jepakit.nn.tokens import Ids, Tokens


class DynamicsPredictor(Protocol):
    """What `Dynamics` asks of a predictor, a module: the same function taught on a whole window, and step by step.

    Embeddings are `[batch, time, dim]` (`[batch, time, tokens, dim]` where the encoder gives several tokens), actions
    `[batch, time, action]`: action t leads from observation t to t + 1. `condition` is whatever else decides the next state
    (a latent z, a goal, a body): `[batch, condition]`, one for all the steps of the call, or None.
    """

    def __call__(self, embeddings: Tensor, actions: Tensor, condition: Tensor | None = None) -> Tensor:
        """Teacher-forced: at each t the prediction of embedding t + 1 from the embeddings and actions up to t."""
        ...

    def begin(self, embeddings: Tensor, actions: Tensor, lengths: Tensor | None = None) -> Any:
        """The state (a tree, see `core.state`) after `time` observations and the `time - 1` actions between them; of sample
        i only the first `lengths[i]` are real."""

    def advance(self, state: Any, action: Tensor, condition: Tensor | None = None) -> Any:
        """The state after one more action `[batch, action]`: its embedding is the prediction."""

    def embedding(self, state: Any) -> Tensor:
        """The newest embedding in a state, observed or predicted: `[batch, dim]`."""
        ...

    # A predictor that has a quicker way through many actions than one `advance` after another says so by
    # `imagine(state, actions, condition, owner) -> (embeddings, last state)`, or None where it does not apply.


@dataclass(frozen=True, eq=False)
class States:
    """What a rollout passes through: the embedding after each action, and the whole state after the last."""

    embeddings: Float[Tensor, "batch horizon *tokens dim"]
    last: State


class ObservationEncoder(nn.Module):
    """Each observation of a window by itself: an encoder, how its tokens become one vector, and a projector of that vector.

    encoder: observations `[n, ...]` (a tensor or a dict of tensors) to Tokens, or to vectors `[n, width]`.
    pooling: "mean" of the tokens, or "flatten": all tokens of a fixed grid in a row, for small maps where *where* something
        is matters more than that it is there; "none": each token is projected, and an embedding is several.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module, pooling: Literal["mean", "flatten", "none"] = "mean"):
        super().__init__()
        check_choice("pooling", pooling, ("mean", "flatten", "none"))
        self.encoder, self.projector, self.pooling = encoder, projector, pooling

    def forward(self, inputs: Any) -> Tokens:
        """Windows `[batch, time, ...]` -> a token for each observation, `[batch, time, dim]`, at positions 0, 1, ...; with
        pooling "none" its tokens, `[batch, time, tokens, dim]`."""
        batch, time = tensors_of(inputs)[0].shape[:2]
        found = self.encoder(map_tensors(lambda tensor: tensor.flatten(0, 1), inputs))
        if isinstance(found, Tokens):
            several = found.values if self.pooling == "none" else found.values.flatten(1)
            found = found.mean() if self.pooling == "mean" else several
        embedded = self.projector(found).unflatten(0, (batch, time))
        return Tokens(embedded, torch.arange(time, device=embedded.device)[None, :, None].expand(batch, -1, -1))


class Dynamics(System):
    """A world model: embeds each observation and predicts the next embedding from what was seen and done.

    Batch: `inputs [batch, time, ...]` or whatever tree of tensors the encoder reads (several sensors), `actions [batch,
    time - 1, action]`, `step`.

    Args:
        encoder: `encoder(inputs) -> Tokens` of whole windows: an embedding for each time step, `[batch, time, dim]` or with
            several tokens a step `[batch, time, tokens, dim]`. It must not see ahead: what it says of a step depends on that
            step (`ObservationEncoder`) and earlier ones.
        predictor: a module that answers as `DynamicsPredictor`; what its state is, is its own affair.
        energy: distance of a prediction from its target; a `FreeEnergy` searches a latent z, one for each window, which
            the predictor is given as its condition.
        target: of the embeddings that are predicted; None: the encoder itself, gradient flowing into both sides.
        history: observations that are taught at once and that a rollout starts from; None: all but the last.
        anti_collapse: a loss on the embeddings of each time step by itself, over the batch. Never on time and batch in one
            axis: what follows in an episode is alike, and the test would take that for a shape of the distribution.
        rollout: weight of the energy of predictions fed back into the predictor, for the observations after
            `history + 1`; 0 teaches single steps only.
    """

    predictor: Any  # a module, and a `DynamicsPredictor`
    latent_scale: Tensor  # of a continuous latent only: how large its numbers are where they matter, as far as is known

    inputs: PreparesWindows

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        energy: Energy | FreeEnergy,
        *,
        target: Target | None = None,
        history: int | None = None,
        anti_collapse: AntiCollapse | None = None,
        rollout: float = 0.0,
    ):
        super().__init__()
        check_range("rollout", rollout, 0)
        if history is not None:
            check_range("history", history, 1)
        if rollout > 0 and isinstance(energy, FreeEnergy):
            raise UserError("rollout: a latent z is searched for single steps only. Leave rollout at 0, or the latent out.")
        self.encoder, self.predictor = encoder, predictor
        self.target = SharedTarget(encoder) if target is None else target
        latent = energy.latent if isinstance(energy, FreeEnergy) else None
        self.latent = latent if isinstance(latent, DiscreteLatent | ContinuousLatent) else None
        self.free_energy = energy if isinstance(energy, FreeEnergy) and self.latent is not None else None
        self.measure = energy.pair_energy if isinstance(energy, FreeEnergy) else energy
        if isinstance(self.latent, ContinuousLatent):
            self.register_buffer("latent_scale", torch.ones(self.latent.dim))
        self.history, self.rollout_weight = history, rollout
        self.anti_collapse = anti_collapse
        self.joins_batch = anti_collapse is not None

    @property
    def world_model(self) -> Dynamics:
        """Itself."""
        return self

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Embed every observation, predict each next one, compare, keep every time step from collapsing."""
        frames = self.encoder(batch["inputs"]).values
        shared = isinstance(self.target, SharedTarget) and self.target.differentiable
        targets = frames if shared else self.target(batch["inputs"]).values
        energy = self._energies(frames, batch["actions"], targets)
        terms = {"prediction": mean_over_tokens(energy, count=count_of(batch, "prediction"))}
        loss = terms["prediction"]
        if self.rollout_weight > 0:
            further = self._rollout_energies(frames, batch["actions"], targets)
            terms["rollout"] = mean_over_tokens(further, count=count_of(batch, "rollout"))
            loss = loss + self.rollout_weight * terms["rollout"]
        if self.anti_collapse is not None:
            regulariser = self._regularise(frames, self.anti_collapse, int(batch["step"]))
            loss = loss + regulariser.pop("loss")
            terms.update(regulariser)
        return {"loss": loss, **terms}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions of single steps and of further ones."""
        actions = batch["actions"]
        taught = self._taught(actions)
        numbers = {"prediction": taught, "rollout": actions.shape[1] - taught}
        return {name: torch.tensor(len(actions) * n, device=actions.device) for name, n in numbers.items()}

    def _taught(self, actions: Tensor) -> int:
        """Steps that are taught: as many as there are observations in the history."""
        return actions.shape[1] if self.history is None else min(self.history, actions.shape[1])

    def _energies(self, frames: Tensor, actions: Tensor, targets: Tensor) -> Float[Tensor, "batch taught"]:
        """Energy of every teacher-forced prediction."""
        if actions.shape[1] != frames.shape[1] - 1:
            raise UserError(
                f"{frames.shape[1]} observations have {frames.shape[1] - 1} actions between them, the batch has "
                f"{actions.shape[1]}. The action after the last observation is not part of a window."
            )
        taught = self._taught(actions)
        seen, done, after = frames[:, :taught], actions[:, :taught], targets[:, 1 : taught + 1]
        if self.free_energy is not None:
            energy = self.free_energy.energy(lambda s, z: self.predictor(s, done, z), seen, after)
            return energy[:, None].expand(-1, taught)
        return self._each_step(self.predictor(seen, done), after)

    def _each_step(self, predictions: Tensor, targets: Tensor) -> Float[Tensor, "batch steps"]:
        """Energy of each predicted observation, the mean over its tokens where it has several."""
        energy = self.measure(predictions, targets)
        return energy if energy.dim() == 2 else energy.mean(2)

    def _rollout_energies(self, frames: Tensor, actions: Tensor, targets: Tensor) -> Float[Tensor, "batch further"]:
        """Energy of the predictions that stand on predictions: from the second after the history."""
        taught = self._taught(actions)
        if actions.shape[1] == taught:
            raise UserError(
                f"rollout: windows of {frames.shape[1]} observations end with the single steps after a history of {taught}. "
                "Give longer windows (horizon of at least 2), or leave rollout at 0."
            )
        state = State(self.predictor.begin(frames[:, :taught], actions[:, : taught - 1]))
        predictions = self._imagine(state, actions[:, taught - 1 :], None).embeddings[:, 1:]
        return self._each_step(predictions, targets[:, taught + 1 :])

    @staticmethod
    def _regularise(frames: Tensor, method: AntiCollapse, step: int) -> dict[str, Tensor]:
        """The method on each time step's batch of embeddings, averaged over time."""
        steps = (frames if frames.dim() == 3 else frames.mean(2)).transpose(0, 1)
        if not method.aligns_views:
            return method(steps, step)
        # Its views would be pulled together, and states that follow each other are to stay different.
        each = [method(one[None], step) for one in steps]
        return {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}

    def observe(self, history: Batch) -> State:
        """The state after what was seen and done.

        Args:
            history: `inputs` as in a batch, newest last, `actions [batch, time - 1, action]` between them, and where
                samples have seen different numbers of observations (the start of an episode) `lengths [batch]`: the first
                `lengths[i]` are real, what follows is padding.
        """
        self._check_mode()
        frames = self.encoder(history["inputs"]).values
        return State(self.predictor.begin(frames, history["actions"], history.get("lengths")))

    def futures(self, samples: int = 16, seed: int = 0) -> Float[Tensor, "samples latent"] | None:
        """The z's under which to imagine what may come, each to be one rollout's condition: every code of a discrete latent,
        draws from the prior of a continuous one; None where there is no latent, and one future."""
        return None if self.latent is None else self.latent.draw(samples, seed, getattr(self, "latent_scale", None))

    def predict(
        self, state: State, action: Float[Tensor, "batch action"], condition: Tensor | None = None
    ) -> State:
        """The state after one more action. The condition is the predictor's: a latent z, for example. None: nothing, or of a
        model with a latent the z of its first guess."""
        self._check_mode()
        return State(self.predictor.advance(state.tree, action, self._condition(action, condition)))

    def rollout(
        self,
        state: State,
        actions: Float[Tensor, "rows horizon action"],
        condition: Tensor | None = None,
        owner: Int[Tensor, "rows"] | None = None,
        last: bool = False,
    ) -> States:
        """`predict` for each action in turn; `condition` is `[rows, condition]` for all or `[rows, horizon, condition]`, None
        as in `predict`.

        owner: the sample of the state that each row of actions starts from, for many candidates; None: row i from sample i.
        last: answer with the embedding after the last action only, `[rows, 1, *tokens, dim]`.
        """
        self._check_mode()
        return self._imagine(state, actions, self._condition(actions, condition), owner, last)

    def imagined(
        self, history: Batch, actions: Float[Tensor, "batch horizon action"]
    ) -> Float[Tensor, "batch horizon *tokens dim"]:
        """What actions lead to after a history, as embeddings that those of `encode` can be compared with."""
        return self.rollout(self.observe(history), actions).embeddings

    def embedding(self, state: State) -> Float[Tensor, "batch *tokens dim"]:
        """What a cost looks at: the embedding of the newest observation, seen or predicted."""
        return self.predictor.embedding(state.tree)

    def _imagine(
        self, state: State, actions: Tensor, condition: Tensor | None, owner: Tensor | None = None, last: bool = False
    ) -> States:
        if not actions.shape[1]:
            raise UserError("A rollout needs at least one action, got a horizon of 0.")
        if hasattr(self.predictor, "imagine") and (condition is None or condition.dim() == 2):
            whole = self.predictor.imagine(state.tree, actions, condition, owner)
            if whole is not None:
                return States(whole[0][:, -1:] if last else whole[0], State(whole[1]))
        if owner is not None:
            state = state.index(owner)
        embeddings = []
        for t in range(actions.shape[1]):
            given = condition[:, t] if condition is not None and condition.dim() == 3 else condition
            state = State(self.predictor.advance(state.tree, actions[:, t], given))
            if not last or t == actions.shape[1] - 1:
                embeddings.append(self.embedding(state))
        return States(torch.stack(embeddings, dim=1), state)

    def _condition(self, actions: Tensor, given: Tensor | None) -> Tensor | None:
        """What was given, or the first guess of a latent for each row of actions."""
        if given is not None or self.latent is None:
            return given
        return self.latent.guess().to(actions).expand(len(actions), -1)

    def _check_mode(self) -> None:
        if self.training:
            raise UserError(
                "This world model is in training mode, where batch normalisation lets the samples (and candidates) of a batch "
                "change each other's predictions. Call eval() on it before observing, predicting or planning."
            )

    def encode(self, inputs: Any, keep: Ids | None = None) -> Tokens:
        """Embeddings of the observations of windows `[batch, time, ...]`, by the target's encoder."""
        return self.target(inputs, keep=keep)

    def encoders(self) -> dict[str, nn.Module]:
        return {"target": self.target.encoder, "encoder": self.encoder}

    def views(self, batch: Batch) -> Float[Tensor, "batch views dim"]:
        """Newest embeddings of `views [batch, views, time, ...]`: one state seen several times, as the collator drew it."""
        batched, views = tensors_of(batch["views"])[0].shape[:2]
        newest = self.target(map_tensors(lambda tensor: tensor.flatten(0, 1), batch["views"])).values[:, -1]
        return (newest if newest.dim() == 2 else newest.mean(1)).unflatten(0, (batched, views))

    def energy(self, batch: Batch, partners: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Mean energy of what sample i's observations and actions predict with what sample `partners[i]` saw instead."""
        targets = self.target(batch["inputs"]).values
        return self._energies(self.encoder(batch["inputs"]).values, batch["actions"], targets[partners]).mean(1)
