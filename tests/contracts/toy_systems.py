"""Five systems that no paper has, each of a kind of part that the core must carry, as an outsider would write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jepakit.core.anticollapse import SIGReg, SIGRegConfig, VICReg, VICRegConfig
from jepakit.core.batch import Batch, map_tensors
from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.latent import ContinuousLatent, DiscreteLatent, FreeEnergy, NoLatent
from jepakit.core.masked import Masked
from jepakit.core.paired import Projected, Views
from jepakit.core.targets import make_target
from jepakit.modalities.modality import sample_draws, sample_facts
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.coordinates import CoordinateEmbedding, CoordinatesConfig
from jepakit.nn.dynamics_predictor import CausalPredictor, DynamicsPredictorConfig
from jepakit.nn.fusion import FusedEncoder, FusionConfig
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.pyramid import FeatureMap
from jepakit.nn.tokens import Ids, Tokens
from jepakit.nn.transformer import Block
from tests.contracts.toy_data import TOY, ToyInputs, stack


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """The one choice of a toy."""

    latent: Literal["none", "discrete", "continuous"] = "none"
    """What absorbs what cannot be known."""

    def free_energy(self) -> FreeEnergy:
        number = ContinuousLatent(dim=1, weight=0.02, steps=4)
        latents = {"none": NoLatent(), "discrete": DiscreteLatent(codes=2), "continuous": number}
        return FreeEnergy(latents[self.latent], Energy(name="l2"))

    @property
    def width(self) -> int:
        """Of z; 0 without."""
        return {"none": 0, "discrete": 2, "continuous": 1}[self.latent]


class Toy:
    """What every toy says of itself."""

    Config: ClassVar[type] = ToyConfig
    modality: ClassVar[Any] = TOY
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 32, "weight_decay": 0.0}
    inputs: ToyInputs

    @staticmethod
    def peak_lr(config: ToyConfig) -> float:
        return 3e-3

    def collator(self, seed: int, views: int | None = None) -> ToyCollator:
        return ToyCollator(self.inputs.world, seed, views)


@dataclass(frozen=True)
class ToyCollator:
    """Stacks samples; views are the same with a little noise on every number."""

    world: str
    seed: int
    views: int | None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        tensors = {name: stack([s[name] for s in samples]) for name in ("inputs", "actions") if name in samples[0]}
        batch: Batch = {**tensors, **sample_facts(samples)}
        if self.world == "coins":
            return batch | self._masks(len(samples))
        if self.world == "cloud":
            return batch | self._holes(samples)
        if self.world == "frames":
            frames = batch["inputs"]
            return batch | {"views": frames if self.views is None else self._noisy(samples, frames[:, 0])}
        return batch if self.views is None else batch | {"views": self._noisy(samples, batch["inputs"])}

    def _masks(self, count: int) -> Batch:
        """The first five tokens are seen, or three, always the first; the last is asked for, in a block of two with padding."""
        kept = torch.arange(5).repeat(count, self.views or 1, 1)
        lengths = torch.full(kept.shape[:2], 5)
        lengths[::2] = 3
        asked = torch.tensor([5, 0]).repeat(count, 1, 1)
        one = torch.ones(count, 1, dtype=torch.long)
        return {"context": kept, "context_lengths": lengths, "targets": asked, "target_lengths": one}

    def _holes(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """Four points are asked for, and all others seen but one that stands at the end as padding; others for each view."""
        views = self.views or 1
        order = sample_draws(samples, self.seed, "holes").uniform(views, 12).argsort(axis=-1)
        count = len(samples)
        return {
            "context": torch.from_numpy(order[..., 4:]), "context_lengths": torch.full((count, views), 7),
            "targets": torch.from_numpy(order[..., None, :4]), "target_lengths": torch.full((count, views, 1), 4),
        }  # fmt: skip

    def _noisy(self, samples: Sequence[dict[str, Any]], inputs: Any) -> Any:
        def draw(values: Tensor) -> Tensor:
            repeated = values[:, None].expand(-1, self.views, *values.shape[1:])
            if not values.is_floating_point():
                return repeated
            noise = sample_draws(samples, self.seed, "views").normal(*repeated.shape[1:])
            return repeated + 0.05 * torch.from_numpy(noise).to(values)

        return map_tensors(draw, inputs)


class ToyFlow(Toy, Views):
    """Of MC-JEPA's kind: content from pooled features, motion from coarse to fine through a pyramid's levels."""

    def __init__(self, config: ToyConfig, inputs: ToyInputs, seed: int = 0):
        encoder = ConvNet(ConvNetConfig(image_size=(16, 16), channels=1, dim=16, width=8))
        anti_collapse = VICReg(VICRegConfig())
        super().__init__(Projected(encoder, nn.Linear(16, 8)), Energy(name="l2"), anti_collapse=anti_collapse, invariance=0)
        self.levels = range(encoder.config.stages, -1, -1)
        widths = [encoder.config.widths[level] for level in self.levels]
        self.flow_heads = nn.ModuleList(nn.Conv2d(2 * width + 2, 2, 3, padding=1) for width in widths)
        self.config, self.inputs = config, inputs

    def step(self, batch: Batch) -> dict[str, Tensor]:
        terms = super().step(batch)
        _, energies = self.motion(batch["inputs"])
        terms["motion"] = mean_over_tokens(energies)
        return {**terms, "loss": terms["loss"] + terms["motion"]}

    def motion(self, frames: Tensor) -> tuple[FeatureMap, Tensor]:
        """Flow `[batch, 2, 16, 16]` in pixels from the first to the second frame, and each level's error."""
        first = self.network.encoder(frames[:, 0], levels=self.levels)
        second = self.network.encoder(frames[:, 1], levels=self.levels)
        flow, energies = FeatureMap(frames.new_zeros(len(frames), 2, 1, 1), first[0].stride), []
        for before, after, head in zip(first, second, self.flow_heads, strict=True):
            carried = flow.at(before.positions)
            warped = after.at(before.positions + carried.movedim(1, -1))
            carried = carried + head(torch.cat([before.values, warped, carried], dim=1))
            flow = FeatureMap(carried, before.stride, before.offset)
            warped = after.at(before.positions + carried.movedim(1, -1))
            energies.append((warped - before.values).square().mean((1, 2, 3)))
        return flow, torch.stack(energies)


class GRUPredictor(nn.Module):
    """A recurrent state: what was seen and done so far as a GRU's hidden vector, and the newest embedding."""

    def __init__(self, dim: int, action: int):
        super().__init__()
        self.cell = nn.GRUCell(dim + action, 2 * dim)
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, embeddings: Tensor, actions: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.out(self._run(embeddings, actions))

    def begin(self, embeddings: Tensor, actions: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        last = torch.full((len(embeddings),), embeddings.shape[1]) if lengths is None else lengths
        hidden = self._run(embeddings[:, :-1], actions)
        hidden = torch.cat([hidden.new_zeros(len(hidden), 1, hidden.shape[2]), hidden], dim=1)
        rows = torch.arange(len(embeddings))
        return {"hidden": hidden[rows, last - 1], "embedding": embeddings[rows, last - 1]}

    def advance(self, state: dict[str, Tensor], action: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.cell(torch.cat([state["embedding"], action], dim=1), state["hidden"])
        return {"hidden": hidden, "embedding": self.out(hidden)}

    def embedding(self, state: dict[str, Tensor]) -> Tensor:
        return state["embedding"]

    def _run(self, embeddings: Tensor, actions: Tensor) -> Tensor:
        hidden, passed = embeddings.new_zeros(len(embeddings), self.cell.hidden_size), []
        for t in range(embeddings.shape[1]):
            hidden = self.cell(torch.cat([embeddings[:, t], actions[:, t]], dim=1), hidden)
            passed.append(hidden)
        return torch.stack(passed, dim=1) if passed else embeddings.new_zeros(len(embeddings), 0, self.cell.hidden_size)


class ToyRecurrent(Toy, Dynamics):
    """A recurrent state through the dynamics shape, taught on single steps and on two more of a rollout."""

    def __init__(self, config: ToyConfig, inputs: ToyInputs, seed: int = 0):
        encoder = ObservationEncoder(nn.Linear(4, 8), nn.Linear(8, 6))
        super().__init__(
            encoder, GRUPredictor(6, 2), Energy(name="l2"), history=2, rollout=1.0,
            anti_collapse=SIGReg(SIGRegConfig(slices=16), seed),
        )  # fmt: skip
        self.config, self.inputs = config, inputs


class ToyFused(Toy, Dynamics):
    """Two sensors at their own rates, with gaps, fused into one state a step, which the dynamics shape predicts."""

    def __init__(self, config: ToyConfig, inputs: ToyInputs, seed: int = 0):
        fusion = FusionConfig(dim=8, depth=1, heads=2, resolution=0.5, horizon=20)
        encoder = FusedEncoder({"speed": nn.Linear(2, 8), "place": nn.Linear(2, 8)}, fusion)
        predictor = DynamicsPredictorConfig(embedding=8, action=2, history=4, dim=16, depth=1, heads=2, hidden=())
        super().__init__(
            encoder, CausalPredictor(predictor), Energy(name="l2"), anti_collapse=SIGReg(SIGRegConfig(slices=16), seed)
        )
        self.config, self.inputs = config, inputs


class GivenTokens(nn.Module):
    """The tokens themselves: embeddings that cannot collapse, so that energies can be known in closed form."""

    def forward(self, inputs: Tensor, keep: Ids | None = None) -> Tokens:
        positions = torch.arange(inputs.shape[1])[None, :, None].expand(len(inputs), -1, -1)
        if keep is None:
            return Tokens(inputs, positions)
        return Tokens(keep.gather(inputs), keep.gather(positions), keep.lengths)


class ToyLatentMasked(Toy, Masked):
    """The masked shape with a latent variable: z is the predictor's condition, one for each predicted block."""

    def __init__(self, config: ToyConfig, inputs: ToyInputs, seed: int = 0):
        encoder = GivenTokens()
        shape = PredictorConfig(dim=24, depth=1, heads=2)
        predictor = MaskedPredictor(shape, 4, (6,), condition_dim=config.width or None)
        energy = config.free_energy()
        target = make_target("stop-gradient", encoder)
        super().__init__(encoder, predictor, target, energy if config.width else energy.pair_energy, target_norm="none")
        self.config, self.inputs = config, inputs


class ToyLatentDynamics(Toy, Dynamics):
    """The dynamics shape with a latent variable, which the shape itself searches."""

    def __init__(self, config: ToyConfig, inputs: ToyInputs, seed: int = 0):
        encoder = ObservationEncoder(nn.Identity(), nn.Identity())
        predictor = DynamicsPredictorConfig(
            embedding=4, action=4, condition=config.width, history=1, dim=24, depth=1, heads=2, hidden=()
        )
        free = config.free_energy()
        super().__init__(encoder, CausalPredictor(predictor), free if config.width else free.pair_energy)
        self.config, self.inputs = config, inputs


@dataclass(frozen=True, kw_only=True)
class CloudEncoderConfig:
    """Width of the tokens."""

    dim: int = 16


class CloudEncoder(nn.Module):
    """Points at real coordinates as tokens: `encoder(points [batch, points, 3], keep=None) -> Tokens`, positions `(x, y)`."""

    Config: ClassVar[type] = CloudEncoderConfig

    def __init__(self, config: CloudEncoderConfig):
        super().__init__()
        self.config, self.dim = config, config.dim
        self.places = CoordinateEmbedding(CoordinatesConfig(axes=2, bands=3), config.dim)
        self.heights = nn.Linear(1, config.dim)
        self.blocks = nn.ModuleList([Block(config.dim, 2, 2.0)])
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, inputs: Tensor, keep: Ids | None = None) -> Tokens:
        places, values = inputs[..., :2], self.places(inputs[..., :2]) + self.heights(inputs[..., 2:])
        lengths = None
        if keep is not None:
            places, values, lengths = keep.gather(places), keep.gather(values), keep.lengths
        layout = None if lengths is None else AttentionLayout(keys=keep.valid)
        for block in self.blocks:
            values = block(values, layout)
        return Tokens(self.norm(values), places, lengths)


class ToyCloud(Toy, Masked):
    """The masked shape without a grid: what a point's height is, asked at its coordinates; kept by an average."""

    def __init__(self, config: ToyConfig, inputs: ToyInputs, seed: int = 0):
        encoder = CloudEncoder(CloudEncoderConfig())
        shape, coordinates = PredictorConfig(dim=16, depth=1, heads=2, mlp_ratio=2.0), CoordinatesConfig(axes=2, bands=3)
        predictor = MaskedPredictor(shape, 16, (), coordinates=coordinates)
        super().__init__(
            encoder, predictor, make_target("ema", encoder), Energy(name="l2"), momentum=(0.9, 1.0)
        )
        self.config, self.inputs = config, inputs


SYSTEMS = {
    "toy-cloud": (ToyCloud, "cloud"),
    "toy-flow": (ToyFlow, "frames"),
    "toy-recurrent": (ToyRecurrent, "walk"),
    "toy-fused": (ToyFused, "ward"),
    "toy-latent-masked": (ToyLatentMasked, "coins"),
    "toy-latent-dynamics": (ToyLatentDynamics, "drift"),
}
