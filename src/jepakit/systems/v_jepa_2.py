"""V-JEPA 2: V-JEPA with rotary positions, a constant learning rate and average, and longer, larger clips at the end.

Assran et al. 2025, arXiv 2506.09985, section 2. The loss and the masks are V-JEPA's (`systems.v_jepa`). Queries and keys are
turned by time, row and column, so that the encoder reads clips of any size. Learning rate (after its warmup), weight decay and
the average's momentum stay as they are, so that a training may go on for as long as one likes and cools down in a second run,
on more frames and pixels:

    jepakit pretrain v-jepa-2 --data videos/ --frames 16 --image-size 256 256 --out runs/long
    jepakit pretrain v-jepa-2 --data videos/ --frames 64 --image-size 384 384 --init runs/long --patch-size 16 \
        --schedule linear --warmup 0 --out runs/cooled

Pictures (`--stills`) are clips in which nothing moves, of one tubelet.

What differs from the paper by default: sizes; the average's momentum is 0.99 instead of 0.99925, for runs of thousands of
steps instead of 252,000; `positions` are right rotations, the released ones (`--positions tiled`, which `transformers`
computes too) are not, see `nn.rotary`; the mask token is that of the kind of mask, where the released trainer always takes the
first of ten; pictures are of one tubelet instead of 16 frames; no crops and flips. The released recipe: `--augment.crop 0.3 1
--augment.flip 0.5 --ema 0.99925 --weight-decay 0.04 --lr 5.25e-4`, batch 3072 of 16 frames at 4 a second and 256 pixels, 12,000
steps of warmup.

    python recipes/v_jepa_bouncing_digits.py --threads 1

Three seeds of the runs that `systems.v_jepa` describes, 8 to 14 minutes each beside other work:

                        velocity        place 4 frames later    the same with 400 labels instead of 1,500
    v-jepa-2            0.817 +- 0.010  0.894 +- 0.012          0.776 +- 0.013  0.859 +- 0.023
    random init         0.372 +- 0.012  0.378 +- 0.003          0.289 +- 0.011  0.286 +- 0.004
    pixels              0.522           0.525                   0.386           0.382
    i-jepa on frames    0.665           0.678   (two seeds)     0.557           0.558

Frames shuffled before the encoder: velocity 0.371. Its energy of the true second half is below that of another clip's in
0.980 +- 0.014 of held-out clips, of a digit that leaps in 0.998, that vanishes in 0.983, of the last frame held in 0.787
(still frames have less noise to foretell); random weights about one half.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jepakit.core.energies import Energy
from jepakit.core.masked import Masked, Stream
from jepakit.core.options import EMAOptions, SizeOptions
from jepakit.core.targets import EMATarget
from jepakit.errors import check_choice, check_range
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.modality import Modality
from jepakit.modalities.video.clip_collator import STREAMS, ClipAugmentation, ClipCollator
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class VJEPA2Config(SizeOptions, EMAOptions):
    """The choices of V-JEPA 2."""

    patch_size: int | None = None
    """Side of a patch in pixels. Default: the largest, up to 16, that leaves at least 8 patches a side."""
    tubelet: int = 2
    """Frames of a token."""
    positions: Literal["paired", "tiled"] = "paired"
    """Rotary positions: right ones, or those of the released weights, for weights that go into transformers."""
    predictor_dim: int | None = None
    """Width of the predictor. Default: the size's."""
    predictor_depth: int | None = None
    """Blocks of the predictor. Default: the size's."""
    masks: TubeConfig = field(default_factory=TubeConfig)
    augment: ClipAugmentation = field(default_factory=ClipAugmentation)
    image_weight: float = 1.0
    """Weight of the loss on still pictures, beside 1 for clips."""
    ema: float = 0.99
    """Momentum of the average, at the first step."""
    ema_end: float | None = None
    """Momentum at the last; None: as at the first."""
    energy: Energy = field(default_factory=lambda: Energy(name="l1"))

    def __post_init__(self) -> None:
        SizeOptions.__post_init__(self)
        EMAOptions.__post_init__(self)
        check_choice("positions", self.positions, ("paired", "tiled"))
        check_range("image_weight", self.image_weight, 0)


class VJEPA2(Masked):
    """V-JEPA 2's parts put together."""

    Config: ClassVar[type] = VJEPA2Config
    modality: ClassVar[Modality] = VIDEO
    inputs: VideoInputs
    data_defaults: ClassVar[dict[str, Any]] = {"stills": "none"}
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 32, "schedule": "constant"}

    def __init__(self, config: VJEPA2Config, inputs: VideoInputs, seed: int = 0):
        shape = VideoTransformerConfig.of_size(
            config.size, inputs.frames, inputs.image_size, inputs.channels, config.patch_size, tubelet=config.tubelet,
            positions=config.positions,
        )  # fmt: skip
        encoder, kinds = VideoTransformer(shape), config.masks.count
        predictor = PredictorConfig.of_size(config.size, config.predictor_dim, config.predictor_depth)
        super().__init__(
            encoder,
            MaskedPredictor(predictor, shape.dim, shape.grid, rotation=config.positions, mask_tokens=kinds),
            EMATarget(encoder),
            config.energy,
            streams=dict(zip(STREAMS, (Stream(), Stream(weight=config.image_weight)), strict=True)) if inputs.stills else None,
            mask_tokens=kinds,
            momentum=config.momentum,
        )
        self.config, self.inputs = config, inputs
        self.grids = dict(zip(STREAMS, (shape.grid, shape.still_grid), strict=True))

    @staticmethod
    def peak_lr(config: VJEPA2Config) -> float:
        """1e-3 at width 128; the paper's 5.25e-4 at width 1024 and batch 3072."""
        return 1e-3 * (128 / SIZES[config.size]["vit"][0]) ** 0.5

    def collator(self, seed: int, views: int | None = None) -> ClipCollator:
        still_frames, augment = self.config.tubelet, self.config.augment
        return ClipCollator(
            self.inputs, self.config.masks, self.grids, seed, views, still_frames=still_frames, augment=augment
        )
