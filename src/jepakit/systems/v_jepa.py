"""V-JEPA: predict the embeddings of hidden tubes of a clip from the visible rest.

Bardes et al. 2024, arXiv 2404.08471. Two masks a clip hide tubes, blocks of places in every frame: a short-range one eight
small blocks, a long-range one two large ones, about nine tenths of the tokens. For each the encoder sees what is left, and a
predictor is asked for what an average of the encoder makes of the whole clip at the hidden tokens:

    L = mean over masks and hidden tokens of  | predicted - LN(target) |          (L1)

Positions are fixed sines and cosines; each kind of mask has a mask token of its own.

What differs from the paper by default: sizes; the masks of a batch are not cut to the shortest (see `masks.tubes`); the
average begins at a momentum of 0.99 instead of 0.998, for runs of thousands of steps instead of 90,000; no crops and flips.
The released recipe: `--augment.crop 0.3 1 --augment.flip 0.5 --ema 0.998 1 --weight-decay 0.04 --weight-decay-end 0.4 --lr
6.25e-4 --clip 10`, batch 3072 of 16 frames at a stride of 4 and 224 pixels.

    python recipes/v_jepa_bouncing_digits.py --threads 1

`noisy-bouncing-digits`, 1,000 steps of 32 clips (nano, patches of 8, masks that leave half of 4 x 4 places and futures),
three seeds, 5 to 11 minutes each on a core of an AMD EPYC with other work to do (torch 2.13, bfloat16). R2 of ridge
regressions on all tokens, 1,000 held-out clips of held-out handwriting:

                        velocity        place 4 frames later    the same with 400 labels instead of 1,500
    v-jepa              0.668 +- 0.032  0.704 +- 0.044          0.573 +- 0.036  0.597 +- 0.042
    the same, 2,000     0.723 +- 0.013  0.785 +- 0.011          0.649 +- 0.003  0.704 +- 0.022
    random init         0.389 +- 0.012  0.398 +- 0.008          0.306 +- 0.013  0.304 +- 0.002
    pixels              0.522           0.525                   0.386           0.382
    i-jepa on frames    0.665           0.678   (two seeds)     0.557           0.558
    the same, 2,000     0.455 +- 0.016  0.453 +- 0.024          0.344 +- 0.016  0.336 +- 0.019

So it beats random init and pixels, and with 2,000 steps (`--change longer`) a single-frame I-JEPA; `v-jepa-2` beats them all.
Frames shuffled before the encoder: velocity 0.203. Its energy of the true second half is below that of another clip's in 0.949
+- 0.015 of held-out clips, of a digit that leaps in 0.994, that vanishes in 0.921 (random init about one half). At seed 0
(0.680, 0.722): without futures 0.621 and 0.646, of these short tubes alone 0.610 and 0.635, long ones alone 0.608 and 0.636,
random single places 0.611 and 0.642, the released masks, made for 14 x 14 places, 0.625 and 0.647; without the average,
collapsed, 0.494 and 0.502; `v-jepa-2`'s schedule 0.695 and 0.739 (`--change masks`, `average`, `schedule`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jepakit.core.energies import Energy
from jepakit.core.masked import Masked
from jepakit.core.options import EMAOptions, SizeOptions
from jepakit.core.targets import EMATarget
from jepakit.errors import UserError
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.modality import Modality
from jepakit.modalities.video.clip_collator import ClipAugmentation, ClipCollator
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class VJEPAConfig(SizeOptions, EMAOptions):
    """The choices of V-JEPA."""

    patch_size: int | None = None
    """Side of a patch in pixels. Default: the largest, up to 16, that leaves at least 8 patches a side."""
    tubelet: int = 2
    """Frames of a token."""
    predictor_dim: int | None = None
    """Width of the predictor. Default: the size's."""
    predictor_depth: int | None = None
    """Blocks of the predictor. Default: the size's."""
    masks: TubeConfig = field(default_factory=TubeConfig)
    augment: ClipAugmentation = field(default_factory=ClipAugmentation)
    ema: float = 0.99
    """Momentum of the average, at the first step."""
    energy: Energy = field(default_factory=lambda: Energy(name="l1"))

    def __post_init__(self) -> None:
        SizeOptions.__post_init__(self)
        EMAOptions.__post_init__(self)


class VJEPA(Masked):
    """V-JEPA's parts put together."""

    Config: ClassVar[type] = VJEPAConfig
    modality: ClassVar[Modality] = VIDEO
    inputs: VideoInputs
    data_defaults: ClassVar[dict[str, Any]] = {"stills": "none"}
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 32}

    def __init__(self, config: VJEPAConfig, inputs: VideoInputs, seed: int = 0):
        if inputs.stills:
            raise UserError("v-jepa learns from clips alone. Leave stills out (--stills none), or take v-jepa-2 or v-jepa-2.1.")
        shape = VideoTransformerConfig.of_size(
            config.size, inputs.frames, inputs.image_size, inputs.channels, config.patch_size, tubelet=config.tubelet
        )
        encoder, kinds = VideoTransformer(shape), config.masks.count
        predictor = PredictorConfig.of_size(config.size, config.predictor_dim, config.predictor_depth)
        super().__init__(
            encoder,
            MaskedPredictor(predictor, shape.dim, shape.grid, mask_tokens=kinds),
            EMATarget(encoder),
            config.energy,
            mask_tokens=kinds,
            momentum=config.momentum,
        )
        self.config, self.inputs, self.grid = config, inputs, shape.grid

    @staticmethod
    def peak_lr(config: VJEPAConfig) -> float:
        """1e-3 at width 128; the paper's 6.25e-4 at width 1024 and batch 3072."""
        return 1e-3 * (128 / SIZES[config.size]["vit"][0]) ** 0.5

    def collator(self, seed: int, views: int | None = None) -> ClipCollator:
        return ClipCollator(self.inputs, self.config.masks, {"video": self.grid}, seed, views, augment=self.config.augment)
