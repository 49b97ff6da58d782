"""Pixel world: what a world model is without a latent space, the honest opposite of `pldm` at its size.

No paper's method but the comparison that the field's claim needs (LeCun 2022: predict in representation space, as much of what
is seen cannot be predicted and need not be). Encoder and predictor are `pldm`'s, of the same sizes, and so is the
task: from the first observation of a window the predictor runs through all its actions. A decoder mirrors the encoder.

perception "pixels": each imagined state is decoded, and the loss is the squared error of the pictures. It plans in them: the
    embedding of a state is its picture, the one observed or the one decoded, and a plan's cost is the distance of decoded
    pictures from the picture of the goal.
perception "reconstruction": the encoder learns to be decoded, and from nothing else; the predictor learns the dynamics of the
    embeddings it finds, whose gradient stops before the encoder. It plans in embeddings, as `pldm` does.

Where observations are vectors, those are decoded and compared. Pixels are normalised, a channel each.

    jepakit pretrain pixel-world --data two-rooms-flicker --out runs/pixels
    jepakit pretrain pixel-world --data two-rooms-flicker --perception reconstruction --out runs/reconstruction

Not trained to the end yet: `python recipes/why_latent.py` is the comparison, on a background that nobody can predict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.core.batch import Batch, count_of
from jepakit.core.dynamics import Dynamics, ObservationEncoder, States
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.state import State
from jepakit.errors import check_choice, check_range
from jepakit.modalities.modality import Modality
from jepakit.modalities.trajectories.inputs import TRAJECTORIES, TrajectoryInputs
from jepakit.modalities.trajectories.window_collator import WindowCollator
from jepakit.nn.embedding_predictors import PREDICTORS
from jepakit.nn.impala import check_widths, observation_decoder, observation_encoder


@dataclass(frozen=True, kw_only=True)
class PixelWorldConfig:
    """The choices of a pixel world; sizes are `pldm`'s."""

    embedding: int = 512
    """Width of the predictor's state."""
    predictor: Literal["recurrent", "residual"] = "residual"
    """A gated recurrent unit, or three layers whose output is added to the embedding."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Of the stages of the convolutional encoder, and in reverse of the decoder; for vectors two layers of 8 times the last."""
    perception: Literal["pixels", "reconstruction"] = "pixels"
    """What the encoder learns from: the pictures that actions lead to, or its own picture alone."""

    def __post_init__(self) -> None:
        check_range("embedding", self.embedding, 2)
        check_choice("predictor", self.predictor, PREDICTORS)
        check_choice("perception", self.perception, ("pixels", "reconstruction"))
        check_widths(self.widths)


class PixelWorld(Dynamics):
    """The state is the predictor's, and where pictures are planned in the newest picture: `{"latent", "picture"}`."""

    Config: ClassVar[type] = PixelWorldConfig
    modality: ClassVar[Modality] = TRAJECTORIES
    inputs: TrajectoryInputs
    data_defaults: ClassVar[dict[str, Any]] = {"history": 1, "horizon": 4, "frame_skip": 4}
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 64, "weight_decay": 1e-5, "clip": 2.0}

    def __init__(self, config: PixelWorldConfig, inputs: TrajectoryInputs, seed: int = 0):
        encoder, width = observation_encoder(inputs.shape, config.widths)
        norm = nn.LayerNorm(config.embedding, elementwise_affine=False)
        super().__init__(
            ObservationEncoder(encoder, nn.Sequential(nn.Linear(width, config.embedding), norm)),
            PREDICTORS[config.predictor](config.embedding, inputs.action),
            Energy(name="l2"),
            history=inputs.history,
        )
        self.decoder = observation_decoder(config.embedding, inputs.shape, config.widths)
        self.config, self.inputs = config, inputs

    @staticmethod
    def peak_lr(config: PixelWorldConfig) -> float:
        """That of `pldm`."""
        return 1e-3

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Imagine the pictures that actions lead to and compare; or decode what is seen, and imagine its embeddings."""
        if self.config.perception == "pixels":
            loss = mean_over_tokens(self._imagined_energies(batch), count=count_of(batch, "prediction"))
            return {"loss": loss, "prediction": loss}
        frames = self.encoder(batch["inputs"]).values
        decoded = self.measure(self.decode(frames), batch["inputs"].flatten(2))
        terms = {
            "reconstruction": mean_over_tokens(decoded, count=count_of(batch, "reconstruction")),
            "prediction": mean_over_tokens(self._imagined_energies(batch, frames), count=count_of(batch, "prediction")),
        }
        return {"loss": terms["reconstruction"] + terms["prediction"], **terms}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Observations that are predicted, and all of them."""
        samples, time = batch["inputs"].shape[:2]
        numbers = {"prediction": time - self.inputs.history, "reconstruction": time}
        return {name: torch.tensor(samples * n, device=batch["inputs"].device) for name, n in numbers.items()}

    def decode(self, embeddings: Float[Tensor, "*samples dim"]) -> Float[Tensor, "*samples numbers"]:
        """The observations that embeddings stand for, flattened."""
        return self.decoder(embeddings.flatten(0, -2)).flatten(1).unflatten(0, embeddings.shape[:-1])

    def _imagined_energies(
        self, batch: Batch, frames: Tensor | None = None, partners: Tensor | None = None
    ) -> Float[Tensor, "batch further"]:
        """Energy of what is imagined after the history with what was seen then, or a partner saw: pictures, or embeddings
        through which no gradient flows."""
        history, actions, seen = self.inputs.history, batch["actions"], batch["inputs"]
        pixels = self.config.perception == "pixels"
        if pixels:  # the encoder sees no more than a history
            frames = self.encoder(seen[:, :history]).values
        else:
            frames = (self.encoder(seen).values if frames is None else frames).detach()
        after = (seen.flatten(2) if pixels else frames)[:, history:]
        start = State(self.predictor.begin(frames[:, :history], actions[:, : history - 1]))
        imagined = super()._imagine(start, actions[:, history - 1 :], None).embeddings
        found = self.decode(imagined) if pixels else imagined
        return self.measure(found, after if partners is None else after[partners])

    def energy(self, batch: Batch, partners: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Mean energy of what sample i imagines with what sample `partners[i]` saw."""
        return self._imagined_energies(batch, partners=partners).mean(1)

    def observe(self, history: Batch) -> State:
        """See `Dynamics.observe`; the state holds the newest observation, too, where it is planned in."""
        state = super().observe(history)
        if self.config.perception == "reconstruction":
            return state
        newest = self.predictor.begin(history["inputs"].flatten(2), history["actions"], history.get("lengths"))
        return State({"latent": state.tree, "picture": newest})

    def imagined(self, history: Batch, actions: Float[Tensor, "batch horizon action"]) -> Float[Tensor, "batch horizon dim"]:
        """See `Dynamics.imagined`: of the encoder's embeddings, in whatever it plans."""
        self._check_mode()
        return super()._imagine(super().observe(history), actions, None).embeddings

    def predict(self, state: State, action: Float[Tensor, "batch action"], condition: Tensor | None = None) -> State:
        """See `Dynamics.predict`."""
        if self.config.perception == "reconstruction":
            return super().predict(state, action, condition)
        latent = super().predict(State(state.tree["latent"]), action, condition).tree
        return State({"latent": latent, "picture": self.decode(latent)})

    def embedding(self, state: State) -> Float[Tensor, "batch dim"]:
        """The newest picture, observed or decoded, flattened; the newest embedding where perception is by reconstruction."""
        return state.tree["picture"] if isinstance(state.tree, dict) else super().embedding(state)

    def _imagine(
        self, state: State, actions: Tensor, condition: Tensor | None, owner: Tensor | None = None, last: bool = False
    ) -> States:
        """As `Dynamics._imagine`; no picture is decoded that is not asked for."""
        if not isinstance(state.tree, dict):
            return super()._imagine(state, actions, condition, owner, last)
        latents = super()._imagine(State(state.tree["latent"]), actions, condition, owner, last)
        pictures = self.decode(latents.embeddings)
        return States(pictures, State({"latent": latents.last.tree, "picture": pictures[:, -1]}))

    def collator(self, seed: int, views: int | None = None) -> WindowCollator:
        return WindowCollator(self.inputs, seed, views)
