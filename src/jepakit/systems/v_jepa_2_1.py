"""V-JEPA 2.1: predict the embeddings of hidden tubes of a clip, at several depths, and those of the visible tokens, too.

arXiv 2603.14482 (March 2026), on top of V-JEPA (2404.08471) and V-JEPA 2 (2506.09985). Clips and still pictures are learned
from in the same step, each with a patchifier of its own. Short- and long-range tubes are hidden; a predictor is asked for
what an average of the encoder (EMA, fixed momentum) gives there, in L1, at every level; a weaker loss, the weaker the further
from what is hidden, asks for the visible tokens as well, which makes single tokens (and not only their mean) useful.

What differs from the paper by default: sizes; two levels for shallow encoders; EMA 0.99 for short runs; every predicted token
counts alike, instead of each kind of mask; no crops and flips; pictures and clips in one step of every process instead of on
processes of their own. The released recipe: `--augment.crop 0.3 1 --augment.flip 0.5 --ema 0.99925 --levels 4 --predictor-depth
24 --schedule constant --weight-decay 0.04 --stills-ratio 18 --stretch 16 16`, 135,000 steps of 128 clips (lambda rising between
steps 15,000 and 30,000: the default's shares), then 12,000 steps at 64 frames of 384 pixels. Smaller ones are distilled:
`--encoder runs/large --predictor-depth 12` predicts the last level of a frozen teacher. The guard that skips steps is
`--outlier`.

    python recipes/v_jepa_bouncing_digits.py --threads 1 --seeds 0 --change dense
    python recipes/v_jepa_bouncing_digits.py --threads 1 --change plain

What the loss on visible tokens does depends on what can be seen. Nano, patches of 8, clips alone. Before black ground (600
steps, 4 minutes of a core, three seeds) it makes single tokens know where the digit is: R2 of how far a token's place is from
the digit, one linear regression for all tokens, 0.725 +- 0.120; v-jepa-2 0.343 +- 0.086, random init 0.424 +- 0.025. Before
noise (1,000 steps, about 9 minutes, ONE seed), where what is visible is mostly what nobody can foretell:

                                        velocity    place 4 frames later    token's distance
    v-jepa-2                               0.809                   0.881               0.500
    2.1 without the visible loss           0.752                   0.814               0.383
    2.1                                    0.525                   0.601               0.188
    2.1, one level                         0.417                   0.455               0.049
    random init                            0.386                   0.378               0.023

That the visible loss costs global features, and that several levels give some of them back, is what the paper finds (SSv2 72.8
to 62.5 to 72.1). Which token holds the digit any linear probe tells, of random weights, too (area under the ROC curve 0.98).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from jepakit.core.energies import Energy
from jepakit.core.masked import Masked, Stream
from jepakit.core.options import EMAOptions, SizeOptions
from jepakit.core.targets import EMATarget, FrozenTarget
from jepakit.core.terms import VisibleTerm
from jepakit.errors import UserError, check_choice, check_range
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.modality import Modality
from jepakit.modalities.perception import AsPrepared
from jepakit.modalities.video.clip_collator import STREAMS, ClipAugmentation, ClipCollator
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class VJEPA21Config(SizeOptions, EMAOptions):
    """The choices of V-JEPA 2.1."""

    patch_size: int | None = None
    """Side of a patch in pixels. Default: the largest, up to 16, that leaves at least 8 patches a side."""
    tubelet: int = 2
    """Frames of a token."""
    positions: Literal["paired", "sincos"] = "paired"
    """Rotary positions (the paper's), or a fixed table of sines and cosines, which reads clips of one size only."""
    stretch: tuple[int, int] | None = None
    """Rows and columns of tokens that rotary positions are stretched to, for a training that goes on with larger pictures (the
    paper's: 16 16). Default: they are as they are."""
    levels: int | None = None
    """Depths of the encoder that are read and predicted, evenly spaced. Default: 4; 2 for fewer than 8 blocks."""
    predictor_dim: int | None = None
    """Width of the predictor. Default: the size's."""
    predictor_depth: int | None = None
    """Blocks of the predictor. Default: the size's."""
    masks: TubeConfig = field(default_factory=TubeConfig)
    augment: ClipAugmentation = field(default_factory=ClipAugmentation)
    visible: VisibleTerm = field(default_factory=VisibleTerm)
    image_visible: float = 0.7
    """visible.weight for still pictures, with the same ramp."""
    image_weight: float = 1.0
    """Weight of the loss on still pictures, beside 1 for clips."""
    ema: float = 0.99
    """Momentum of the average, at the first step."""
    ema_end: float | None = None
    """Momentum at the last; None: as at the first."""
    encoder: str | None = None
    """Distillation: the frozen teacher whose last level is predicted, instead of an average; a run, an exported folder or
    released weights, whose tokens lie on the same grid."""
    energy: Energy = field(default_factory=lambda: Energy(name="l1"))

    def __post_init__(self) -> None:
        SizeOptions.__post_init__(self)
        EMAOptions.__post_init__(self)
        if self.encoder is not None and self.levels not in (None, 1):
            raise UserError(f"levels {self.levels}: a teacher (encoder) is predicted at its last level. Leave levels out.")
        check_choice("positions", self.positions, ("paired", "sincos"))
        check_range("image_visible", self.image_visible, 0)
        check_range("image_weight", self.image_weight, 0)


class VJEPA21(Masked):
    """V-JEPA 2.1's parts put together."""

    Config: ClassVar[type] = VJEPA21Config
    modality: ClassVar[Modality] = VIDEO
    inputs: VideoInputs
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 32}

    def __init__(self, config: VJEPA21Config, inputs: VideoInputs, seed: int = 0, encoder: Any = None):
        """`encoder`: the frozen teacher with its `inputs`, where the config names one."""
        depth = SIZES[config.size]["vit"][1]
        teacher = None if encoder is None else AsPrepared(encoder, inputs)
        levels = 1 if teacher else (4 if depth >= 8 else 2) if config.levels is None else config.levels
        shape = VideoTransformerConfig.of_size(
            config.size, inputs.frames, inputs.image_size, inputs.channels, config.patch_size,
            tubelet=config.tubelet, stills=inputs.stills, levels=levels, positions=config.positions,
        )  # fmt: skip
        shape = replace(shape, stretch=config.stretch)
        encoder, kinds = VideoTransformer(shape), config.masks.count
        streams = self._streams(config, inputs.stills)
        predictor = MaskedPredictor(
            PredictorConfig.of_size(config.size, config.predictor_dim, config.predictor_depth),
            levels * shape.dim,
            shape.grid,
            None if teacher is None else teacher.width_on(shape.grid),
            embed_hidden=shape.dim,
            visible=any(stream.reads_visible for stream in streams.values()),
            condition_dim=len(STREAMS) if inputs.stills else None,  # a learnable embedding of the modality
            rotation=shape.rotation,
            stretch=shape.stretch,
            mask_tokens=kinds,
        )
        super().__init__(
            encoder,
            predictor,
            EMATarget(encoder) if teacher is None else FrozenTarget(teacher),
            config.energy,
            levels=None if teacher else shape.levels_at,
            streams=streams if inputs.stills else None,
            terms=() if inputs.stills else streams["video"].terms,
            mask_tokens=kinds,
            momentum=None if teacher else config.momentum,
        )
        self.config, self.inputs = config, inputs
        self.grids = dict(zip(STREAMS, (shape.grid, shape.still_grid), strict=True))

    @staticmethod
    def _streams(config: VJEPA21Config, stills: bool) -> dict[str, Stream]:
        weights = {"video": config.visible.weight, "image": config.image_visible}
        terms = {
            name: (replace(config.visible, weight=weight),) if weight > 0 else () for name, weight in weights.items()
        }
        streams = {"video": Stream(terms=terms["video"])}
        return {**streams, "image": Stream(weight=config.image_weight, terms=terms["image"])} if stills else streams

    @staticmethod
    def peak_lr(config: VJEPA21Config) -> float:
        """1e-3 at width 128; the paper's 5.25e-4 at width 1024 and batch 3072."""
        return 1e-3 * (128 / SIZES[config.size]["vit"][0]) ** 0.5

    def collator(self, seed: int, views: int | None = None) -> ClipCollator:
        tell, augment = self.inputs.stills, self.config.augment
        return ClipCollator(self.inputs, self.config.masks, self.grids, seed, views, tell=tell, augment=augment)
