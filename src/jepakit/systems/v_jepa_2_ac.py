"""V-JEPA 2-AC: what actions do to the tokens of a frozen encoder, to plan towards the picture of a goal.

Assran et al. 2025, arXiv 2506.09985, section 3. Each observation is encoded by itself; its tokens are normalised (layer norm
without parameters), and a block-causal transformer predicts the next observation's from all before and the actions, teacher
forced over the whole window. A second loss feeds predictions back, from the first observation on, for `rollout_steps` steps:

    L = |predicted - h|  +  rollout |imagined - h|        (L1, mean over steps, tokens and numbers)

Nothing can collapse, as nothing of the encoder learns. A plan costs the L1 distance of the imagined tokens to the goal's. The
predictor has no longest window and makes no mask, but it is taught windows of `history + horizon` observations: further ahead
it gets worse quickly, so plan (`act --horizon`) no further than that.

What differs from the paper by default: what is predicted is each token's change (`--no-residual` for the paper's), sizes, two
rooms instead of an arm, four actions a step. Rotary angles are right ones; `nn.block_causal_predictor` agrees with the released
predictor to 1e-5 on its own (`tests/nn/test_block_causal_predictor.py`). There are no tokens of the body's state: what episodes
hold as states is the truth that probes are measured by (here the dot's place), which no environment shows a planner, and in an
imagined future a state has to come from somewhere. The predictor takes them (`condition`, one for each imagined step) where
something works them out from the actions, as the released code does for an arm.

    python recipes/v_jepa_2_ac.py --threads 1 --seeds 0
    python recipes/v_jepa_2_ac.py --threads 1 --seeds 0 --change "teacher forcing"

Two Rooms with one wall; an I-JEPA of 100 steps on single frames (5 x 5 tokens; the monitor calls it collapsed, as frames of one
room are nearly alike), then 4,000 steps of 16 windows of 4 observations; one seed, 45 s and 9 to 12 minutes each of one core of
an AMD EPYC with bf16. L1 of imagined to true tokens on other episodes after 1, 2, 4 and 8 steps; success by CEM at 50 goals 6
to 14 pixels away in the same room, with its 95 % (random actions .12, an oracle 1.00).

                                      1      2      4      8     success
    with the loss on rollouts       .025   .033   .048   .074      .74 (.60 to .84)
      another's actions             .069   .078   .081   .081
    teacher forcing alone           .019   .027   .046   .088      .72 (.58 to .83)
      another's actions             .072   .083   .091   .099
    nothing moves                   .069   .085   .097   .098

So the loss on rollouts makes what is imagined for long less wrong and single steps a little worse, and plans four steps ahead
are equally good. Through the door, to places 6 to 12 pixels from it on the other side, either hardly plans: .12 with the goal's
picture alone, .14 and .18 with the picture of the dot in the doorway first (random .00, oracle 1.00).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.core.batch import Batch, count_of
from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.options import Size, SizeOptions
from jepakit.core.state import State
from jepakit.errors import UserError, check_range
from jepakit.modalities.modality import Modality
from jepakit.modalities.perception import PretrainedTokens
from jepakit.modalities.trajectories.inputs import TRAJECTORIES, TrajectoryInputs
from jepakit.modalities.trajectories.window_collator import WindowCollator
from jepakit.nn.block_causal_predictor import BlockCausalPredictor, BlockCausalPredictorConfig
from jepakit.nn.tokens import Ids, Tokens
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class VJEPA2ACConfig(SizeOptions):
    """The choices of V-JEPA 2-AC."""

    encoder: str | None = None
    """A run or an exported folder whose frozen encoder of images or clips sees the observations. It has to be given."""
    size: Size = "nano"
    """The predictor's: jepakit list sizes."""
    residual: bool = True
    """Predict how each token changes instead of the token (the paper): an untrained model then says that nothing moves."""
    rollout: float = 1.0
    """Weight of the error of imagined steps, each from the one before; 0 teaches single steps only."""
    rollout_steps: int = 2
    """How many are imagined in training, from the first observation of a window."""

    def __post_init__(self) -> None:
        SizeOptions.__post_init__(self)
        check_range("rollout", self.rollout, 0)
        check_range("rollout_steps", self.rollout_steps, 2)


class VJEPA2AC(Dynamics):
    """V-JEPA 2-AC's parts put together."""

    Config: ClassVar[type] = VJEPA2ACConfig
    modality: ClassVar[Modality] = TRAJECTORIES
    inputs: TrajectoryInputs
    encoder_modalities: ClassVar[tuple[str, ...]] = ("images", "video")
    data_defaults: ClassVar[dict[str, Any]] = {"history": 1, "horizon": 4, "frame_skip": 4}
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 32, "weight_decay": 0.04}

    def __init__(self, config: VJEPA2ACConfig, inputs: TrajectoryInputs, seed: int = 0, encoder: Any = None):
        """`encoder`: the pretrained one with its `inputs`."""
        if encoder is None:
            raise UserError(
                "v-jepa-2-ac predicts the tokens of an encoder that is there. Give one: --encoder RUN, a run of i-jepa, lejepa "
                "or v-jepa-2.1 on pictures like these observations, or a folder that jepakit export wrote."
            )
        if config.rollout > 0 and inputs.history + inputs.horizon <= config.rollout_steps:
            raise UserError(
                f"rollout_steps {config.rollout_steps} need windows of {config.rollout_steps + 1} observations, history "
                f"{inputs.history} and horizon {inputs.horizon} make {inputs.history + inputs.horizon}. Raise the horizon."
            )
        seeing = PretrainedTokens(encoder, inputs)
        predictor = BlockCausalPredictorConfig.of_size(config.size, seeing.dim, inputs.action, seeing.grid, config.residual)
        super().__init__(
            ObservationEncoder(seeing, nn.LayerNorm(seeing.dim, elementwise_affine=False), pooling="none"),
            BlockCausalPredictor(predictor),
            Energy(name="l1"),
        )
        self.config, self.inputs = config, inputs

    @staticmethod
    def peak_lr(config: VJEPA2ACConfig) -> float:
        """2e-3 at width 96, not tuned; the paper's 4.25e-4 is for width 1024 and batch 256."""
        return 2e-3 * (96 / SIZES[config.size]["predictor"][0]) ** 0.5

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Every next observation from the true ones before; then the first few from the first alone."""
        frames, actions, config = self.encoder(batch["inputs"]).values, batch["actions"], self.config
        energy = self._energies(frames, actions, frames)
        terms = {"prediction": mean_over_tokens(energy, count=count_of(batch, "prediction"))}
        loss = terms["prediction"]
        if config.rollout > 0:
            first, steps = State(self.predictor.begin(frames[:, :1], actions[:, :0])), config.rollout_steps
            imagined = self._imagine(first, actions[:, :steps], None).embeddings
            energy = self._each_step(imagined, frames[:, 1 : steps + 1])
            terms["rollout"] = mean_over_tokens(energy, count=count_of(batch, "rollout"))
            loss = loss + config.rollout * terms["rollout"]
        return {"loss": loss, **terms}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted observations of the whole window, and imagined ones."""
        samples, steps = batch["actions"].shape[:2]
        numbers = {"prediction": samples * steps, "rollout": samples * self.config.rollout_steps}
        return {name: torch.tensor(number, device=batch["actions"].device) for name, number in numbers.items()}

    def encode(self, inputs: Any, keep: Ids | None = None) -> Tokens:
        """Each observation's tokens side by side, `[batch, time, tokens * dim]`: where something is stays known."""
        return SideBySide(self.encoder)(inputs)

    def encoders(self) -> dict[str, nn.Module]:
        seeing = SideBySide(self.encoder)
        return {"target": seeing, "encoder": seeing}

    def imagined(
        self, history: Batch, actions: Float[Tensor, "batch horizon action"]
    ) -> Float[Tensor, "batch horizon dim"]:
        return super().imagined(history, actions).flatten(2)

    def collator(self, seed: int, views: int | None = None) -> WindowCollator:
        return WindowCollator(self.inputs, seed, views)


class SideBySide(nn.Module):
    """An encoder of several tokens a time step as one of a vector: what probes and the health monitor read."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Float[Tensor, "batch time channels height width"]) -> Tokens:
        found = self.encoder(inputs)
        return replace(found, values=found.values.flatten(2))
