"""LeWorldModel: predict the embedding of the next observation from the last few and the actions; SIGReg keeps it Gaussian.

LeWorldModel, 2026, arXiv 2603.19312. Two terms, no teacher, no stop-gradient, no reward: the squared distance of predicted and
next embedding, and SIGReg on the embeddings of each time step over the batch. Encoder and predictor each end in a projector
with batch normalisation, without which a final layer norm would keep the embeddings from becoming Gaussian.

What differs from the paper by default: a small convnet (or two layers for vectors) instead of a ViT-Tiny at 224 pixels;
embeddings 16 wide instead of 192; a smaller predictor without dropout; 256 slices of SIGReg instead of 1,024; the mean over
an embedding's numbers instead of their sum, as in the released code. SIGReg's weight 12.8 is per sample: the paper's lambda
0.1 at its batch of 128, with the same pull at any other. Batch normalisation sees batch and time, SIGReg each time by itself.
The paper's sizes are `PAPER`, with pictures of 224 pixels and blocks of five actions:

    jepakit pretrain lewm --data EPISODES --frame-skip 5 --size tiny --patch-size 14 --embedding 192 --projector 2048
      --predictor-heads 16 --predictor-head-dim 64 --predictor-mlp 2048 --dropout 0.1 --sigreg.slices 1024

Then its predictor's blocks have 10.80 M parameters (10.79 M in the released code, whose queries, keys and values have no
biases), its encoder 5.5 M. Not trained at this size. Still other than there: positions of patches are fixed, dropout is on
what each branch adds only.

    python recipes/lewm_pendulum.py --seeds 0 --threads 1

Pendulum, 300 steps, one seed, one core shared with others (37 s of CPU as numbers, 2 to 3 minutes as pixels). Angle: linear R2
of cos and sin from one observation; velocity: from three (in one picture there is none: R2 below 0 for all). Futures: degrees
off after 1 / 2 / 4 / 8 actions of 0.2 s, read off the imagined embedding by a probe.

                              angle   velocity   true actions     another's         standing still
    numbers                   0.947   0.994       2  2  4  9       5 14 34 52       29 54 77 63
    numbers, no SIGReg        0.990   0.998       2  3  7 17       5 14 34 51       30 57 79 62
    numbers, random init      0.985   0.990
    pixels, 4 wide, batch 64  0.875   0.518       9 14 26 49      11 21 37 60       30 55 79 61
      random init             0.279   0.109
    pixels, 16 wide           0.997   0.563       6 14 43 70       9 22 51 74       30 56 78 62
      random init             0.764   0.338
    raw pixels                1.000   0.493

So: it predicts, and by the actions, but no probe beats the raw observation here, where the angle is linear already. From one
picture, 16 numbers hold harmonics of one angle that nothing predicts for long; 4 imagine further and read worse. Without
SIGReg the embeddings shrink (deviation 0.25 instead of 0.96, RankMe 8 instead of 15.6 of 16) but keep the state within 300
steps: what is lost is the long rollout, not the probe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn

from jepakit.core.anticollapse import SIGReg, SIGRegConfig
from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.energies import Energy
from jepakit.core.options import SizeOptions
from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.modality import Modality
from jepakit.modalities.perception import PretrainedPerception
from jepakit.modalities.trajectories.inputs import TRAJECTORIES, TrajectoryInputs
from jepakit.modalities.trajectories.window_collator import WindowCollator
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.dynamics_predictor import CausalPredictor, DynamicsPredictorConfig
from jepakit.nn.mlp import projection_head, vector_encoder
from jepakit.nn.vit import ClassTokenViT, ViTConfig
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class LeWMConfig(SizeOptions):
    """The choices of LeWorldModel."""

    embedding: int = 16
    """Width of an embedding: a few times the numbers that describe a state (paper: 192)."""
    projector: tuple[int, ...] = (256,)
    """Hidden widths, with batch normalisation, of the heads that end encoder and predictor (paper: 2048)."""
    patch_size: int | None = None
    """Side of a patch in pixels: the encoder of pictures is then a ViT that answers with its class token (paper: 14).
    Default: a convnet."""
    encoder: str | None = None
    """A run or an exported folder whose frozen encoder of images sees the observations, instead of one that is learned."""
    predictor_heads: int | None = None
    """Attention heads of the predictor (paper: 16). Default: the size's."""
    predictor_head_dim: int | None = None
    """Width of one of them (paper: 64). Default: the predictor's width divided by the heads."""
    predictor_mlp: int | None = None
    """Hidden width of the predictor's blocks (paper: 2048). Default: four times its width."""
    dropout: float = 0.0
    """Share of what the predictor's blocks add that training sets to 0 (paper: 0.1)."""
    anti_collapse: Literal["sigreg", "none"] = "sigreg"
    """sigreg is the method, none the negative control."""
    sigreg: SIGRegConfig = field(default_factory=lambda: SIGRegConfig(weight=12.8))
    rollout: float = 0.0
    """Weight of the prediction error of further steps, fed back into the predictor (horizon of at least 2); 0 is the paper."""

    def __post_init__(self) -> None:
        SizeOptions.__post_init__(self)
        check_choice("anti_collapse", self.anti_collapse, ("sigreg", "none"))
        check_range("embedding", self.embedding, 1)
        check_range("rollout", self.rollout, 0)
        check_range("dropout", self.dropout, 0, 1)
        for name in ("patch_size", "predictor_heads", "predictor_head_dim", "predictor_mlp"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1)
        if self.patch_size is not None and self.encoder is not None:
            raise UserError("patch_size is of an encoder that is learned, and encoder names one that is not. Leave one out.")


PAPER: dict[str, Any] = {
    "size": "tiny", "patch_size": 14, "embedding": 192, "projector": (2048,), "predictor_heads": 16, "predictor_head_dim": 64,
    "predictor_mlp": 2048, "dropout": 0.1, "sigreg": SIGRegConfig(weight=12.8, slices=1024),
}  # fmt: skip
"""The paper's options: `jepakit.pretrain("lewm", data=..., frame_skip=5, **PAPER)`."""


class LeWM(Dynamics):
    """LeWorldModel's parts put together."""

    Config: ClassVar[type] = LeWMConfig
    modality: ClassVar[Modality] = TRAJECTORIES
    inputs: TrajectoryInputs
    encoder_modalities: ClassVar[tuple[str, ...]] = ("images",)
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 128, "weight_decay": 1e-3, "clip": 1.0}

    def __init__(self, config: LeWMConfig, inputs: TrajectoryInputs, seed: int = 0, encoder: Any = None):
        """`encoder`: the pretrained one with its `inputs`, where the config names one."""
        if (inputs.horizon > 1) != (config.rollout > 0):
            raise UserError(
                f"horizon {inputs.horizon} and rollout {config.rollout}: observations after history + 1 are there for the loss "
                "on rollouts, and it needs them. Set horizon to 2 or more and rollout above 0, or leave both."
            )
        seeing, width = observation_encoder(config, inputs, encoder)
        predictor = DynamicsPredictorConfig.of_size(
            config.size, config.embedding, inputs.action, inputs.history, config.projector, heads=config.predictor_heads,
            head_dim=config.predictor_head_dim, mlp=config.predictor_mlp, dropout=config.dropout,
        )  # fmt: skip
        super().__init__(
            ObservationEncoder(seeing, projection_head(width, config.projector, config.embedding), pooling="flatten"),
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
        """1e-3 was measured at width 128; with a ViT it is the paper's, for width 192 and a predictor of 10 M."""
        if config.patch_size is not None:
            return 5e-5
        return 1e-3 * (128 / SIZES[config.size]["convnet"][0]) ** 0.5

    def collator(self, seed: int, views: int | None = None) -> WindowCollator:
        return WindowCollator(self.inputs, seed, views)


def observation_encoder(config: LeWMConfig, inputs: TrajectoryInputs, pretrained: Any) -> tuple[nn.Module, int]:
    """An encoder of single observations and the width of its (flattened) output: the pretrained one, layers for vectors, a
    ViT where patches are asked for, or a convnet, a quarter as wide at its start and half at its end as the size says: a
    window holds several."""
    if pretrained is not None:
        perception = PretrainedPerception(pretrained, inputs)
        return perception, perception.output_dim
    dim, width, blocks = SIZES[config.size]["convnet"]
    if len(inputs.shape) == 1:
        if config.patch_size is not None:
            raise UserError(f"patch_size: observations are vectors of {inputs.shape[0]}, not pictures. Leave it out.")
        return vector_encoder(inputs.shape[0], dim), dim
    channels, *sides = inputs.shape
    image_size = (sides[0], sides[1])
    if config.patch_size is not None:
        vit = ViTConfig.of_size(config.size, image_size, channels, config.patch_size)
        return ClassTokenViT(vit), vit.dim
    convnet = ConvNetConfig(image_size=image_size, channels=channels, dim=dim // 2, width=width // 4, blocks=blocks)
    return ConvNet(convnet), convnet.dim * convnet.grid[0] * convnet.grid[1]
