"""I-JEPA: predict the embeddings of hidden blocks of an image from what is left of it.

Assran et al. 2023, arXiv 2301.08243. A context encoder sees some tokens, a predictor is asked for the embeddings of hidden
blocks, and an average of the encoder (EMA), which sees everything, gives the answers. No augmentation, no labels.

What differs from the paper by default: ten small blocks instead of four large ones, predicted in one pass over their union;
two contexts an image; Xavier initialisation (see `nn.transformer.initialise_transformer`); constant weight decay; no random
crop. The paper's: `--masks.targets 4 --masks.target-scale 0.15 0.2 --masks.contexts 1 --masks.predict separate --crop 0.3 1
--weight-decay 0.04 --weight-decay-end 0.4`, and `--masks.sampler legacy` for the released sampler with its faults.

    python recipes/i_jepa_fashion_mnist.py --threads 1

Fashion-MNIST, 1,000 steps of 128, EMA from 0.99, 3 seeds, 214 s each on one core:
10 labels a class 0.661 ± 0.014, kNN-20 0.767 ± 0.003
(random init 0.520, 0.702; raw pixels 0.705, 0.834). docs/results.md has the rest, and where it does not learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from jepakit.core.anticollapse import AntiCollapseOptions, chosen_anticollapse
from jepakit.core.batch import Batch
from jepakit.core.energies import Energy
from jepakit.core.masked import Masked
from jepakit.core.options import EMAOptions, SizeOptions
from jepakit.core.targets import make_target
from jepakit.core.terms import AlignmentTerm, AntiCollapseTerm, Term
from jepakit.errors import UserError, check_range
from jepakit.masks.blocks import MultiBlockConfig, multi_block
from jepakit.modalities.images.data import in_pieces, stack_images
from jepakit.modalities.images.inputs import IMAGES, ImageInputs
from jepakit.modalities.images.views import ViewConfig, draw_views
from jepakit.modalities.modality import Modality, sample_draws, sample_facts
from jepakit.modalities.perception import AsPrepared
from jepakit.nn.mlp import projection_head
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class IJEPAConfig(SizeOptions, EMAOptions, AntiCollapseOptions):
    """The choices of I-JEPA."""

    patch_size: int | None = None
    """Side of a patch in pixels. Default: the largest, up to 16, that leaves at least 4 patches a side."""
    predictor_dim: int | None = None
    """Width of the predictor. Default: the size's."""
    predictor_depth: int | None = None
    """Blocks of the predictor. Default: the size's."""
    masks: MultiBlockConfig = field(default_factory=MultiBlockConfig)
    crop: tuple[float, float] | None = None
    """Share of the image's area in a random crop (the paper's 0.3 1.0). Default: the whole image, no augmentation."""
    target: Literal["ema", "shared", "stop-gradient", "frozen"] = "ema"
    """Whose embeddings are predicted: an average of the encoder, the encoder with or without gradient, a frozen teacher's."""
    encoder: str | None = None
    """The teacher of target frozen: a run or an exported folder, whose patches lie on the same grid."""
    target_norm: Literal["layer", "none"] = "layer"
    """Normalise each target token, or leave it."""
    energy: Energy = field(default_factory=Energy)
    anti_collapse: Literal["none", "sigreg", "vicreg", "barlow", "infonce"] = "none"
    """A loss on the projected mean of each context's tokens; none is the paper."""
    invariance: float = 0.0
    """Weight of the distance between the projected contexts of one image (masks.contexts of at least 2)."""
    projector: tuple[int, ...] = (256, 64)
    """Widths of the projection head of anti_collapse, its output last."""

    def __post_init__(self) -> None:
        SizeOptions.__post_init__(self)
        EMAOptions.__post_init__(self)
        check_range("invariance", self.invariance, 0)
        if self.invariance > 0 and (self.anti_collapse == "none" or self.masks.contexts < 2):
            raise UserError("invariance compares contexts: give an anti_collapse loss and masks.contexts of at least 2.")
        if (self.target == "frozen") != (self.encoder is not None):
            raise UserError(
                "target frozen needs the teacher: give its run as --encoder RUN." if self.encoder is None
                else f"encoder {self.encoder!r} is the teacher of target frozen, target {self.target!r}: use --target frozen."
            )


class IJEPA(Masked):
    """I-JEPA's parts put together."""

    Config: ClassVar[type] = IJEPAConfig
    modality: ClassVar[Modality] = IMAGES
    inputs: ImageInputs
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 128}

    def __init__(self, config: IJEPAConfig, inputs: ImageInputs, seed: int = 0, encoder: Any = None):
        """`encoder`: the frozen teacher with its `inputs`, where the config names one."""
        vit = ViTConfig.of_size(config.size, inputs.image_size, inputs.channels, config.patch_size)
        teacher = None if encoder is None else AsPrepared(encoder, inputs)
        encoder = VisionTransformer(vit)
        width = vit.dim if teacher is None else teacher.width_on(vit.grid)
        predictor = PredictorConfig.of_size(config.size, config.predictor_dim, config.predictor_depth)
        anti_collapse = chosen_anticollapse(config, seed)
        terms: list[Term] = [] if anti_collapse is None else [AntiCollapseTerm(anti_collapse)]
        terms += [AlignmentTerm(weight=config.invariance)] if config.invariance > 0 else []
        super().__init__(
            encoder,
            MaskedPredictor(predictor, vit.dim, vit.grid, width),
            make_target(config.target, encoder, teacher),
            config.energy,
            target_norm=config.target_norm,
            terms=terms,
            projector=projection_head(vit.dim, config.projector[:-1], config.projector[-1]) if terms else None,
            momentum=config.momentum if config.target == "ema" else None,
        )
        self.config, self.inputs, self.grid = config, inputs, vit.grid

    @staticmethod
    def peak_lr(config: IJEPAConfig) -> float:
        """2e-3 was measured at width 128; the paper's 1e-3 at width 1280 and batch 2048 is 2.5e-4 at batch 128."""
        return 2e-3 * 128 / SIZES[config.size]["vit"][0]

    def collator(self, seed: int, views: int | None = None) -> IJEPACollator:
        masks = self.config.masks if views is None else replace(self.config.masks, contexts=views)
        return IJEPACollator(self.inputs, masks, self.grid, self.config.crop, seed)


@dataclass(frozen=True)
class IJEPACollator:
    """Stacks images (cropped at random where asked) and draws their masks."""

    inputs: ImageInputs
    masks: MultiBlockConfig
    grid: tuple[int, int]
    crop: tuple[float, float] | None
    seed: int

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        drawn = multi_block(self.masks, self.grid)(sample_draws(samples, self.seed, "masks"))
        return {"inputs": self._images(samples), **drawn.batch(), **sample_facts(samples)}

    def _images(self, samples: Sequence[dict[str, Any]]) -> Any:
        if self.crop is None:
            return self.inputs.prepare(samples)
        only_crop = ViewConfig(kind="photo", views=1, scale=self.crop, flip=0, jitter=0, grey=0, blur=0, solarise=0)
        size = self.inputs.image_size

        def cropped(few: Sequence[dict[str, Any]]) -> Batch:
            views = draw_views(*stack_images(few), only_crop, sample_draws(few, self.seed, "crop"), size)
            return {"images": self.inputs.normalise(views[:, 0])}

        return in_pieces(cropped, samples, size)["images"]
