"""PLDM: learn what actions do from recorded episodes without reward, and plan with it; five plain terms, no teacher.

Sobal et al., "Learning from reward-free offline data: a case for planning with latent dynamics models", 2025, arXiv
2502.14819; settings of the Two Rooms example of EB-JEPA (arXiv 2602.03604). From each observation of a window the
predictor runs through all actions after it; each imagined embedding is compared with the true one. Variance and covariance
keep the embeddings from collapsing, similarity asks that neighbours in time lie near one another, and inverse dynamics that the
action can be read off two neighbours: without it what is easiest to predict (the walls, which never move) is all that is
embedded.

    L = prediction + v variance + c covariance + s similarity + i inverse

variance, covariance: of all embeddings of the batch, all time steps together. covariance: the mean over pairs of dimensions,
times c. similarity: mean square of the difference of neighbours. inverse: mean square error of the action, which is normalised
here and in pixels there.

What differs from EB-JEPA: the weights. Published are v, c, s, i = 16, 8, 12, 1 (`PUBLISHED`, with a recurrent predictor and one
action a step); with the few steps that a CPU affords the door is not learned by them, and plans lead through the wall. The
defaults are .32, 1, 0, .1, a prediction whose weight rises from 0, a residual predictor and four actions a step; what each
of them does is in docs/worlds.md, "Two Rooms". Besides: the layer norm that ends encoder and predictor has no parameters,
theirs share one that has; all embeddings of a window are regularised and each is imagined from, theirs are 17 with 8 predicted,
from the first; a fixed set of 30,000 episodes, theirs are drawn without end; and `widths` 8 16 32 of the encoder instead of
16 32 32, for a third of the arithmetic.

**A latent** (`--latent discrete`, `continuous`; not of the paper): z, one for a window, stands for what actions do not decide.
The prediction is then the free energy of `core.latent`: of all codes, or all z, that one is taught whose rollouts from all
observations of the window come nearest to what followed, of codes with a share for the others. Without z the prediction is the
mean of what may come, which never comes. It is an option here and not of `lewm`, whose predictor normalises over the batch:
there each z that is tried would move the statistics. What it is worth is in docs/worlds.md, "A door that may be locked".

Plans look further ahead than windows of the whole system can be long on a CPU. A second run on the first one's encoder, which
then stays as it is, teaches the predictor that:

    jepakit pretrain pldm --data two-rooms --out runs/two-rooms
    jepakit pretrain pldm --data two-rooms --init runs/two-rooms --frozen --horizon 16 --batch-size 32 --ramp 0 0 --lr 5e-4 \
        --steps 3000 --out runs/two-rooms-far
    python recipes/two_rooms.py --threads 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.collectives import sum_over_ranks
from jepakit.core.anticollapse import VICReg, VICRegConfig
from jepakit.core.batch import Batch
from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.latent import ContinuousLatent, DiscreteLatent, FreeEnergy, Latent, NoLatent
from jepakit.core.schedules import check_ramp, risen
from jepakit.errors import check_choice, check_range
from jepakit.modalities.modality import Modality
from jepakit.modalities.perception import PretrainedPerception
from jepakit.modalities.trajectories.inputs import TRAJECTORIES, TrajectoryInputs
from jepakit.modalities.trajectories.window_collator import WindowCollator
from jepakit.nn.embedding_predictors import PREDICTORS
from jepakit.nn.impala import check_widths, observation_encoder


@dataclass(frozen=True, kw_only=True)
class PLDMConfig:
    """The choices of PLDM. A weight of 0 switches a term off."""

    embedding: int = 512
    """Width of an embedding, which is the predictor's state."""
    predictor: Literal["recurrent", "residual"] = "residual"
    """A gated recurrent unit (EB-JEPA), or three layers whose output is added to the embedding."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Of the stages of the convolutional encoder (EB-JEPA's 16 32 32); for vectors two layers of 8 times the last."""
    frozen: bool = False
    """Leave the encoder as `--init RUN` gave it, and learn predictor and inverse dynamics alone: a step is then cheap enough
    for windows as long as plans are. Without `--init` the encoder is one at random weights."""
    encoder: str | None = None
    """A run or an exported folder whose frozen encoder of images sees the observations, instead of one that is learned; a
    layer that is learned makes embeddings of what it sees."""
    variance: float = 0.32
    """Weight of the hinge on the deviation of each dimension."""
    covariance: float = 1.0
    """Weight of the mean squared covariance of two dimensions."""
    similarity: float = 0.0
    """Weight of the squared difference of neighbours in time."""
    inverse: float = 0.1
    """Weight of the inverse dynamics: the squared error of the action read off two neighbours."""
    ramp: tuple[float, float] = (0.0, 0.33)
    """Shares of the training between which the weight of the prediction rises from 0 to 1; 0 0: it is 1."""
    inverse_hidden: int = 256
    """Width of the two hidden layers that read it."""
    latent: Literal["none", "discrete", "continuous"] = "none"
    """A variable z beside the actions for what they do not decide: one of a few codes, or numbers with a penalty."""
    latent_codes: int = 2
    """Codes of a discrete z: the futures that a plan is imagined under."""
    latent_shared: float = 0.3
    """Share of what is taught that all codes are, not the best one alone: what z does not change, all have to know."""
    latent_dim: int = 1
    """Numbers of a continuous z."""
    latent_weight: float = 0.01
    """Weight of their sum of squares; 0: z tells all that it can."""
    latent_steps: int = 6
    """Gradient steps that a continuous z is found by; each costs as much as teaching without z."""

    def __post_init__(self) -> None:
        for name in ("variance", "covariance", "similarity", "inverse"):
            check_range(name, getattr(self, name), 0)
        check_ramp("ramp", self.ramp)
        check_range("embedding", self.embedding, 2)
        check_choice("predictor", self.predictor, PREDICTORS)
        check_range("inverse_hidden", self.inverse_hidden, 1)
        check_widths(self.widths)
        check_choice("latent", self.latent, ("none", "discrete", "continuous"))
        check_range("latent_codes", self.latent_codes, 2)
        check_range("latent_shared", self.latent_shared, 0, 1)
        check_range("latent_dim", self.latent_dim, 1)
        check_range("latent_weight", self.latent_weight, 0)
        check_range("latent_steps", self.latent_steps, 1)


PUBLISHED: dict[str, Any] = {
    "variance": 16.0, "covariance": 8.0, "similarity": 12.0, "inverse": 1.0, "ramp": (0.0, 0.0), "predictor": "recurrent",
}  # fmt: skip
"""EB-JEPA's options for Two Rooms: `jepakit.pretrain("pldm", data="two-rooms", frame_skip=1, horizon=8, **PUBLISHED)`."""


class PLDM(Dynamics):
    """PLDM's parts put together."""

    Config: ClassVar[type] = PLDMConfig
    modality: ClassVar[Modality] = TRAJECTORIES
    inputs: TrajectoryInputs
    encoder_modalities: ClassVar[tuple[str, ...]] = ("images",)
    data_defaults: ClassVar[dict[str, Any]] = {"history": 1, "horizon": 4, "frame_skip": 4}
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 64, "weight_decay": 1e-5, "clip": 2.0}

    def __init__(self, config: PLDMConfig, inputs: TrajectoryInputs, seed: int = 0, encoder: Any = None):
        """`encoder`: the pretrained one with its `inputs`, where the config names one."""
        seeing, features = perception(config, inputs, encoder)
        latent, width = latent_of(config)
        norm = nn.LayerNorm(config.embedding, elementwise_affine=False)
        super().__init__(
            ObservationEncoder(seeing, nn.Sequential(nn.Linear(features, config.embedding), norm)),
            PREDICTORS[config.predictor](config.embedding, inputs.action, width),
            FreeEnergy(latent, Energy(name="l2")),
            history=inputs.history,
        )
        hidden = config.inverse_hidden
        self.inverse = nn.Sequential(
            nn.Linear(2 * config.embedding, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, inputs.action),
        )  # fmt: skip
        self.spread = VICReg(
            # Ours divides by the dimension where the mean over pairs divides by dim (dim - 1).
            VICRegConfig(invariance=0, variance=config.variance, covariance=config.covariance / (config.embedding - 1))
        )
        self.joins_batch = True
        self.config, self.inputs = config, inputs
        if config.frozen:
            self.encoder.requires_grad_(False)

    @staticmethod
    def peak_lr(config: PLDMConfig) -> float:
        """EB-JEPA's, at batch 384."""
        return 1e-3

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """From each observation imagine the next ones, compare; keep the embeddings spread, smooth and telling of actions."""
        config, actions = self.config, batch["actions"]
        frames = self.encoder(batch["inputs"]).values
        before, after = frames[:, :-1], frames[:, 1:]
        spread = self.spread(frames.flatten(0, 1)[None], int(batch["step"]))
        energies = {
            "prediction": self._predicted(frames, actions),
            "similarity": self.measure(before, after),
            "inverse": self.measure(self.inverse(torch.cat([before, after], dim=2)), actions),
        }
        terms = {name: mean_over_tokens(energy) for name, energy in energies.items()}
        loss = risen(batch["progress"], config.ramp) * terms["prediction"]
        loss = loss + config.similarity * terms["similarity"] + config.inverse * terms["inverse"]
        return {"loss": loss + spread.pop("loss"), **terms, **spread}

    def _predicted(
        self, frames: Float[Tensor, "batch time dim"], actions: Float[Tensor, "batch steps action"]
    ) -> Float[Tensor, "batch predictions"]:
        """Energies of all embeddings that each observation's successors are imagined by, one from another; with a latent their
        mean at the window's best z, `[batch, 1]`, in training of codes as `FreeEnergy.lesson` has it."""
        after = torch.cat([frames[:, ahead:] for ahead in range(1, frames.shape[1])], dim=1)
        if self.free_energy is None:
            return self.measure(self._ahead(frames, actions, None), after)

        def predictor(seen: Tensor, z: Tensor | None) -> Tensor:
            return self._ahead(seen, actions, z)

        if self.training and isinstance(self.latent, DiscreteLatent):
            return self.free_energy.lesson(predictor, frames, after)[:, None]
        z = self.free_energy.infer(predictor, frames, after)
        energy = self.free_energy.energy_at(predictor, frames, after, z)
        if self.training and z is not None and isinstance(self.latent, ContinuousLatent):
            with torch.no_grad():
                without = self.free_energy.energy_at(predictor, frames.detach(), after.detach(), torch.zeros_like(z))
                self._rescale(z, without - energy)
        return energy[:, None]

    def _ahead(
        self, frames: Float[Tensor, "batch time dim"], actions: Float[Tensor, "batch steps action"], z: Tensor | None
    ) -> Float[Tensor, "batch predictions dim"]:
        """What follows each observation as it is imagined: all that lies one action ahead, then all that lies two ahead, ..."""
        states, found = frames[:, :-1], []
        for ahead in range(1, frames.shape[1]):
            states = self.predictor(states[:, : frames.shape[1] - ahead], actions[:, ahead - 1 :], z)
            found.append(states)
        return torch.cat(found, dim=1)

    def _rescale(self, z: Float[Tensor, "batch latent"], gain: Float[Tensor, "batch"]) -> None:
        """The running size of z where it matters: windows count by what it took off their energy. In most nothing is
        uncertain, and z stays near 0."""
        gain = gain.clamp_min(0)
        parts = sum_over_ranks(torch.cat([gain @ z.square(), gain.sum()[None]]))
        found = (parts[:-1] / parts[-1].clamp_min(torch.finfo(parts.dtype).tiny)).sqrt()
        self.latent_scale += 0.02 * (found - self.latent_scale)

    def collator(self, seed: int, views: int | None = None) -> WindowCollator:
        return WindowCollator(self.inputs, seed, views)


def latent_of(config: PLDMConfig) -> tuple[Latent, int]:
    """The latent variable, and how many numbers the predictor sees of it."""
    if config.latent == "discrete":
        return DiscreteLatent(codes=config.latent_codes, shared=config.latent_shared), config.latent_codes
    if config.latent == "continuous":
        found = ContinuousLatent(dim=config.latent_dim, weight=config.latent_weight, steps=config.latent_steps)
        return found, config.latent_dim
    return NoLatent(), 0


def perception(config: PLDMConfig, inputs: TrajectoryInputs, pretrained: Any) -> tuple[nn.Module, int]:
    """What sees single observations, and the width of its output."""
    if pretrained is None:
        return observation_encoder(inputs.shape, config.widths)
    found = PretrainedPerception(pretrained, inputs)
    return found, found.output_dim
