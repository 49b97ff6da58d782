"""MC-JEPA: one encoder learns motion from pairs of frames, by optical flow nobody labelled, and content from still pictures.

Bardes, Ponce and LeCun 2023, arXiv 2307.12698. A convnet gives a pyramid of features of each frame; a flow predictor, coarse to
fine, says where each place of one frame lies in the other (`nn.flow`). With x the features, I the picture, w(.) carried back by
the flow:

    motion  = 1 |I - w(I')|  +  0.1 |x - w(x')|^2  +  0.1 |x - w(w'(x))|^2  +  0.02 smoothness  +  variance and covariance of x
    content = VICReg 25/25/1 of two views of a still, from the same encoder's pooled last map through an expander
    loss    = motion + 0.1 content

each term a mean over levels. Flow goes both ways between the frames; what leaves the picture does not count.

What differs from the paper: sizes, and a small convnet for ConvNeXt-T; the weights of the terms are ours, as the paper's could
not be read again; one learning rate; no data but what is given. `terms` has all weights, 0 leaves a term out; `--stills none`
learns motion alone, `--motion 0` content alone.

    python recipes/mc_jepa_motion_and_content.py --threads 1

400 steps of 8 pairs (moving photographs, 64 x 64), of 128 digits (16 x 16), or of both, three seeds, 2 to 4 minutes a run on a
core of an AMD EPYC (torch 2.13). End-point error in pixels on 500 held-out clips, accuracy of a linear probe on 597 held-out
digits:

                          end-point error   digit, 5 labels a class   digit, all labels
    both                   2.04 +- 0.06       0.935 +- 0.007           0.987 +- 0.002
    motion alone           2.06 +- 0.04       0.603 +- 0.014           0.947 +- 0.004
    content alone                             0.933 +- 0.006           0.987 +- 0.003
    random init            4.04 +- 0.18       0.709 +- 0.022           0.909 +- 0.022
    no motion              3.85
    best whole-pixel shift 1.11
    pixels                                    0.852                    0.972

Sharing the encoder costs neither. Flow is far better than none, but a search for the one shift of each whole pair, on pictures
in which everything moves together, is better still: the report draws where flow is missed, which is before blank sky and
water, and at 350 steps the error was 1.4 on training clips and 2.2 on held-out parts of the photographs. Smoothness 0.1 gave
2.45 in place of 2.21 there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.core.anticollapse import VICReg, VICRegConfig
from jepakit.core.batch import Batch
from jepakit.core.energies import Energy
from jepakit.core.motion import Likeness, mean_where, smoothness
from jepakit.core.options import Size, SizeOptions
from jepakit.core.system import System
from jepakit.errors import UserError, check_range
from jepakit.modalities.images.views import ViewConfig
from jepakit.modalities.modality import Modality
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from jepakit.modalities.video.pair_collator import PairCollator
from jepakit.nn.convnet import ConvNetConfig
from jepakit.nn.flow import FlowConfig, FlowPredictor, carry, image_pyramid, stays
from jepakit.nn.frame_encoder import FrameEncoder
from jepakit.nn.mlp import projection_head
from jepakit.nn.pyramid import FeatureMap
from jepakit.nn.tokens import Ids, Tokens
from jepakit.registry import SIZES

MOST_CELLS = 32  # a side: of larger maps the variance and covariance are those of evenly spaced cells


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """Weights of what is asked of the flow, beside each other; 0 leaves a term out. Each is a mean over levels."""

    reconstruction: float = 1.0
    """The first frame should be the second, carried back."""
    regression: float = 0.1
    """So should its features: squared distance."""
    smoothness: float = 0.02
    """Neighbouring places should move alike, but where the picture has an edge."""
    cycle: float = 0.1
    """Features carried there and back should be what they were: squared distance."""
    variance: float = 0.02
    """Each feature should have a standard deviation of at least 1, over the cells of all frames."""
    covariance: float = 0.0008
    """Features should not covary (the sum over pairs, divided by the width)."""
    edges: float = 10.0
    """How sharply smoothness ends at an edge: a step of the picture by 1/edges leaves 1/e of it."""
    likeness: Likeness = field(default_factory=Likeness)

    def __post_init__(self) -> None:
        for name in ("reconstruction", "regression", "smoothness", "cycle", "variance", "covariance", "edges"):
            check_range(f"terms.{name}", getattr(self, name), 0)
        if not self.reconstruction + self.regression > 0:
            raise UserError(
                "terms: reconstruction and regression are both 0, and nothing else tells a right flow from a wrong one. Give "
                "one a weight, or learn no motion: --motion 0."
            )


@dataclass(frozen=True, kw_only=True)
class MCJEPAConfig(SizeOptions):
    """The choices of MC-JEPA."""

    size: Size = "nano"
    """Encoder, a convnet: jepakit list sizes."""
    finest: int | None = None
    """Finest level on which flow is found, after so many halvings of the picture; from there it is enlarged. Default: 2, as in
    PWC-Net, or the encoder's last. 1 is finer and takes twice as long."""
    motion: float = 1.0
    """Weight of what is learned from pairs of frames; 0: no motion."""
    content: float = 0.1
    """Weight of what is learned from stills, where there are any (--stills none: no content)."""
    terms: MotionConfig = field(default_factory=MotionConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    vicreg: VICRegConfig = field(default_factory=VICRegConfig)
    augment: ViewConfig = field(default_factory=ViewConfig)
    """How the views of stills are drawn."""
    still_size: tuple[int, int] | None = None
    """Height and width of a still's views. Default: those of a frame."""
    projector: tuple[int, ...] = (512, 512, 512)
    """Widths of the expander from the embedding of a view, its output last; the paper's: 8192 8192 8192."""

    def __post_init__(self) -> None:
        SizeOptions.__post_init__(self)
        for name in ("motion", "content"):
            check_range(name, getattr(self, name), 0)
        check_range("augment.views", self.augment.views, 2)
        check_range("augment.local_views", self.augment.local_views, 0, 0)
        if self.still_size is not None:
            check_range("still_size", min(self.still_size), 4)
        if not self.projector or min(self.projector) < 1:
            raise UserError(f"projector must be one or more widths above 0, got {self.projector}.")


class MCJEPA(System):
    """MC-JEPA's parts put together. Batch: `frames [batch, channels, 2, height, width]` and, in a stream of their own, `views
    [batch, views, channels, height, width]` of stills (see `PairCollator`)."""

    Config: ClassVar[type] = MCJEPAConfig
    modality: ClassVar[Modality] = VIDEO
    inputs: VideoInputs
    data_defaults: ClassVar[dict[str, Any]] = {"stride": 1}
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 8}

    def __init__(self, config: MCJEPAConfig, inputs: VideoInputs, seed: int = 0):
        super().__init__()
        if config.content == 0 and inputs.stills:
            raise UserError("content 0: nothing would be learned from the stills. Leave them out, too: --stills none.")
        if config.motion == 0 and not inputs.stills:
            raise UserError("motion 0 without stills: nothing is left to learn. Give stills (--stills frames), or a motion.")
        shape = ConvNetConfig.of_size(config.size, inputs.image_size, inputs.channels)
        finest = min(2, shape.stages) if config.finest is None else config.finest
        check_range("finest", finest, 0, shape.stages)
        self.config, self.inputs, self.levels = config, inputs, tuple(range(finest, shape.stages + 1))
        self.encoder = FrameEncoder(shape)
        widths = [shape.widths[level] for level in self.levels]
        self.predictor = FlowPredictor(config.flow, self.levels, widths) if config.motion > 0 else None
        self.finds_flow = self.predictor is not None
        head = (shape.dim, config.projector[:-1], config.projector[-1])
        self.expander = projection_head(*head) if inputs.stills else None
        terms = config.terms
        self.spread = VICReg(VICRegConfig(invariance=0.0, variance=terms.variance, covariance=terms.covariance))
        self.content, self.distance = VICReg(config.vicreg), Energy(name="l2")

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Motion both ways between two frames, content of two views, and one encoder that has to serve both."""
        video, losses, terms = batch.get("video", batch), [], {}
        if self.predictor is not None:
            found = self._motion(self.predictor, video["frames"], int(batch["step"]))
            losses.append(self.config.motion * found.pop("loss"))
            terms.update(found)
        if self.expander is not None:
            found = self.content(rearrange(self._embed(batch["image"]["views"]), "b v d -> v b d"), int(batch["step"]))
            losses.append(self.config.content * found.pop("loss"))
            terms.update({f"content/{name}": term for name, term in found.items()})
        return {"loss": torch.stack(losses).sum(), **terms}

    def _motion(
        self, predictor: FlowPredictor, frames: Float[Tensor, "batch channels 2 h w"], step: int
    ) -> dict[str, Tensor]:
        """The terms of motion, of the flow from each frame to the other: means over levels."""
        weights = self.config.terms
        both = rearrange(frames, "b c t h w -> (t b) c h w")  # all first frames, then all second ones
        here = self.encoder(both, levels=self.levels)
        flows = predictor(here, [_swapped(level) for level in here])
        pictures = image_pyramid(self.inputs.unit(both), self.levels[-1])
        fine = FeatureMap(flows[0].at(pictures[0].positions), 1)
        seen = list(zip([pictures[level] for level in self.levels], flows, strict=True))
        whole = [(pictures[0], fine)] if self.levels[0] > 0 else []
        asked = {
            "reconstruction": lambda: (_explained(*pair, weights.likeness) for pair in [*whole, *seen]),
            "regression": lambda: map(_regressed, here, flows),
            "smoothness": lambda: (smoothness(f.values / f.stride, shown.values, weights.edges) for shown, f in seen),
            "cycle": lambda: map(_returned, here, flows),
        }
        terms = {name: torch.stack(list(each())).mean() for name, each in asked.items() if getattr(weights, name) > 0}
        losses = [getattr(weights, name) * term for name, term in terms.items()]
        if weights.variance + weights.covariance > 0:
            spread = [self.spread(_cells(level), step) for level in here]
            means = {name: torch.stack([found[name] for found in spread]).mean() for name in spread[0]}
            losses.append(means.pop("loss"))
            terms.update(means)
        return {"loss": torch.stack(losses).sum(), **terms}

    def _embed(self, views: Float[Tensor, "batch views channels h w"]) -> Float[Tensor, "batch views expanded"]:
        """Each view, pooled and expanded."""
        assert self.expander is not None  # there are stills
        return self.expander(self.encoder(views.flatten(0, 1)).mean()).unflatten(0, views.shape[:2])

    def flow(
        self, first: Float[Tensor, "batch channels height width"], second: Tensor
    ) -> Float[Tensor, "batch 2 height width"]:
        """Motion from one frame to the next: where what each pixel of `first` shows lies in `second`, in pixels to the right
        and down. Frames are prepared as the encoder's (`inputs.prepare` gives clips of them, `inputs.normalise` takes pixels in
        [0, 1]).

        Errors: a model that learned no motion; frames of unequal shapes.
        """
        if self.predictor is None:
            raise UserError("This mc-jepa learned no motion (motion 0), so it finds no flow. Train one with --motion 1.")
        return self.predictor.between(self.encoder, first, second)

    def encode(self, inputs: Tensor, keep: Ids | None = None) -> Tokens:
        return self.encoder(inputs) if keep is None else self.encoder(inputs, keep=keep)

    def encoders(self) -> dict[str, nn.Module]:
        return {"target": self.encoder, "encoder": self.encoder}

    @staticmethod
    def peak_lr(config: MCJEPAConfig) -> float:
        """1e-3 at width 128."""
        return 1e-3 * (128 / SIZES[config.size]["convnet"][0]) ** 0.5

    def collator(self, seed: int, views: int | None = None) -> PairCollator:
        return PairCollator(self.inputs, self.config.augment, seed, self.config.still_size, views)

    def views(self, batch: Batch) -> Float[Tensor, "batch views dim"]:
        """Mean-pooled encoder output of each view."""
        views = batch["views"]
        return self.encoder(views.flatten(0, 1)).mean().unflatten(0, views.shape[:2])

    def energy(self, batch: Batch, partners: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Of content, where it is learned: mean squared distance of sample i's first view from the second of sample
        `partners[i]`, expanded. Else of motion: of sample i's features from those of the partner's second frame, carried back
        by the flow of sample i, mean over levels."""
        if self.expander is not None:
            expanded = self._embed(batch["views"])
            return self.distance(expanded[:, 0], expanded[partners, 1])
        assert self.predictor is not None  # neither motion nor stills was refused
        first, second = (self.encoder(frame, levels=self.levels) for frame in batch["frames"].unbind(2))
        apart = []
        for ours, theirs, flow in zip(first, second, self.predictor(first, second), strict=True):
            other = FeatureMap(theirs.values[partners], theirs.stride, theirs.offset)
            apart.append((ours.values - carry(other, flow.values)).square().mean((1, 2, 3)))
        return torch.stack(apart).mean(0)


def _swapped(level: FeatureMap) -> FeatureMap:
    """Of first frames and then second ones, the second first: beside each frame its neighbour in time."""
    return FeatureMap(level.values.roll(len(level.values) // 2, 0), level.stride, level.offset)


def _explained(picture: FeatureMap, flow: FeatureMap, likeness: Likeness) -> Tensor:
    """How far each picture is from its neighbour, carried back, where it does not leave."""
    return mean_where(likeness(picture.values, carry(_swapped(picture), flow.values)), stays(picture, flow.values))


def _regressed(level: FeatureMap, flow: FeatureMap) -> Tensor:
    """The same of features: mean squared distance."""
    apart = level.values - carry(_swapped(level), flow.values)
    return mean_where(apart.square().mean(1), stays(level, flow.values))


def _returned(level: FeatureMap, flow: FeatureMap) -> Tensor:
    """How far features carried to the neighbour and back are from what they were, where they leave neither picture."""
    back = _swapped(flow)
    there = FeatureMap(carry(level, back.values), level.stride, level.offset)
    returns = FeatureMap(stays(level, back.values)[:, None].to(back.values), level.stride, level.offset)
    whole = stays(level, flow.values) & (carry(returns, flow.values)[:, 0] > 0.99)
    return mean_where((level.values - carry(there, flow.values)).square().mean(1), whole)


def _cells(level: FeatureMap) -> Float[Tensor, "1 cells dim"]:
    """The cells of all frames as samples of one view; of large maps every second, third, ... of a row and of a column."""
    rows, columns = (-(-side // MOST_CELLS) for side in level.grid)
    return rearrange(level.values[:, :, ::rows, ::columns], "b d r c -> 1 (b r c) d")
