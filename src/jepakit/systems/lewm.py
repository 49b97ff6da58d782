"""LeWorldModel: predict the embedding of the next observation from the last few and the actions; SIGReg keeps it Gaussian.

Maes et al. 2026, arXiv 2603.19312. Two terms, no teacher, no stop-gradient, no reward: the squared distance of predicted and
next embedding, and SIGReg on the embeddings of each time step over the batch. Encoder and predictor each end in a projector
with batch normalisation, without which a final layer norm would keep the embeddings from becoming Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from jepakit.core.anticollapse import SIGReg, SIGRegConfig
from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.energies import Energy
from jepakit.core.system import Batch
from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.modality import Modality, sample_draws, sample_facts
from jepakit.modalities.trajectories import TRAJECTORIES, TrajectoryInputs
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.dynamics_predictor import CausalPredictor, DynamicsPredictorConfig
from jepakit.nn.mlp import projection_head
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class LeWMConfig:
    """The choices of LeWorldModel."""

    size: Literal["nano", "tiny", "small", "base", "large", "huge", "giant"] = "nano"
    """Encoder and predictor: jepakit list sizes."""
    embedding: int = 16
    """Width of an embedding: a few times the numbers that describe a state (paper: 192)."""
    projector: tuple[int, ...] = (256,)
    """Hidden widths, with batch normalisation, of the heads that end encoder and predictor (paper: 2048)."""
    anti_collapse: Literal["sigreg", "none"] = "sigreg"
    """sigreg is the method, none the negative control."""
    sigreg: SIGRegConfig = field(default_factory=lambda: SIGRegConfig(weight=12.8))
    rollout: float = 0.0
    """Weight of the prediction error of further steps, fed back into the predictor (horizon of at least 2); 0 is the paper."""

    def __post_init__(self) -> None:
        check_choice("size", self.size, SIZES)
        check_choice("anti_collapse", self.anti_collapse, ("sigreg", "none"))
        check_range("embedding", self.embedding, 1)
        check_range("rollout", self.rollout, 0)


class LeWM(Dynamics):
    """LeWorldModel's parts put together."""

    Config: ClassVar[type] = LeWMConfig
    modality: ClassVar[Modality] = TRAJECTORIES
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 128, "weight_decay": 1e-3, "clip": 1.0}

    def __init__(self, config: LeWMConfig, inputs: TrajectoryInputs, seed: int = 0):
        if (inputs.horizon > 1) != (config.rollout > 0):
            raise UserError(
                f"horizon {inputs.horizon} and rollout {config.rollout}: observations after history + 1 are there for the loss "
                "on rollouts, and it needs them. Set horizon to 2 or more and rollout above 0, or leave both."
            )
        encoder, width = observation_encoder(config, inputs)
        predictor = DynamicsPredictorConfig.of_size(
            config.size, config.embedding, inputs.action, inputs.history, config.projector
        )
        super().__init__(
            ObservationEncoder(encoder, projection_head(width, config.projector, config.embedding), pooling="flatten"),
            CausalPredictor(predictor),
            Energy(name="l2"),
            history=inputs.history,
            anti_collapse=SIGReg(config.sigreg, seed) if config.anti_collapse == "sigreg" else None,
            rollout=config.rollout,
        )
        self.joins_batch = True  # batch normalisation, whatever the anti-collapse
        self.config, self.inputs = config, inputs

    @staticmethod
    def peak_lr(config: LeWMConfig) -> float:
        """1e-3 was measured at width 128; the paper takes 5e-5 for its ViT of width 192 and predictor of 10 M."""
        return 1e-3 * (128 / SIZES[config.size]["convnet"][0]) ** 0.5

    def collator(self, seed: int, views: int | None = None) -> WindowCollator:
        return WindowCollator(self.inputs, seed, views)


def observation_encoder(config: LeWMConfig, inputs: TrajectoryInputs) -> tuple[nn.Module, int]:
    """An encoder of single observations and the width of its (flattened) output: layers for vectors, a convnet for
    pictures, a quarter as wide at its start and half at its end as the size says: a window holds several."""
    dim, width, blocks = SIZES[config.size]["convnet"]
    if len(inputs.shape) == 1:
        layers = nn.Linear(inputs.shape[0], dim), nn.Linear(dim, dim)
        for layer in layers:
            # torch's default loses nine tenths of the variance here. Batch normalisation makes up for it in training, but
            # in eval mode its statistics start at 1: the first health line would see embeddings near a point.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        return nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU()), dim
    channels, *image_size = inputs.shape
    convnet = ConvNetConfig(
        image_size=(image_size[0], image_size[1]), channels=channels, dim=dim // 2, width=width // 4, blocks=blocks
    )
    return ConvNet(convnet), convnet.dim * convnet.grid[0] * convnet.grid[1]


NOISE = 0.1  # deviations of an observation's numbers


@dataclass(frozen=True)
class WindowCollator:
    """Stacks windows; for LiDAR also views of each last observation, the same with other sensor noise.

    Frames that follow each other are no views of one state: that they differ is what the predictor lives on, and an
    encoder that sees it would score worse. Noise of the sensor is what an embedding of any modality should not hold.
    """

    inputs: TrajectoryInputs
    seed: int
    views: int | None = None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        batch: Batch = {**self.inputs.windows(samples), **sample_facts(samples)}
        if self.views is not None:
            last = batch["inputs"][:, None, -1:]
            noise = sample_draws(samples, self.seed, "views").normal(self.views, 1, *self.inputs.shape)
            batch["views"] = last + NOISE * torch.from_numpy(noise).to(last)
        return batch
