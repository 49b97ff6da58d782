"""What the training loop, the health monitor and the evaluation know of a system, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepakit.core.batch import Batch
from jepakit.nn.tokens import Ids, Tokens

# Stacks samples of a data set and draws masks or views for them; picklable, a function of (seed, epoch, sample id).
Collator = Callable[[Sequence[dict[str, Any]]], Batch]


@runtime_checkable
class Prepares(Protocol):
    """What a system says of its input: a modality's `Inputs`, as the loop and the verbs ask for it."""

    @property
    def plain_name(self) -> str: ...

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Any:
        """Samples as the encoder's input, without chance."""
        ...

    def plain(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        """The field's plain features of the samples, `[batch, features]`."""
        ...

    def describe(self) -> str:
        """The size of a sample in words."""
        ...


@runtime_checkable
class PreparesWindows(Prepares, Protocol):
    """The same of a world model, which is taught and measured on windows of time."""

    def windows(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`inputs [batch, time, ...]` and `actions [batch, time - 1, action]`."""
        ...

    def first(self, inputs: Any, steps: int) -> Any:
        """Inputs of `windows`, cut to their first observations."""
        ...

    @property
    def action_scale(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation by which `windows` normalised actions; None: actions have no opposite."""
        ...


class System(nn.Module):
    """One JEPA. A subclass says what a step is; the rest has defaults.

    `Config` is its config class, `modality` what it reads, `training_defaults` and `data_defaults` the options of
    `TrainingConfig` and of its modality's config that its recipe changes. Its constructor takes `(config, inputs, seed)`.
    """

    Config: ClassVar[type]
    modality: ClassVar[Any]  # a `modalities.modality.Modality`
    inputs: Prepares  # what the encoder expects of its input: the modality's `Inputs`
    training_defaults: ClassVar[dict[str, Any]] = {}
    data_defaults: ClassVar[dict[str, Any]] = {}
    encoder_modalities: ClassVar[tuple[str, ...] | None] = None  # of an encoder given to it; None: its own modality
    answers: Any = None  # of a system that learned from labels: its `Answers`
    finds_flow: bool = False  # whether `flow` tells the motion between frames
    joins_batch: bool = True  # False: the loss is a sum over samples, and `counts` says what its means are taken over

    @staticmethod
    def peak_lr(config: Any) -> float:
        """Peak learning rate of a system of this config, where none is given."""
        return 1e-3

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`step`: what DDP and FSDP wrap."""
        return self.step(batch)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar `loss` and its terms by name: of the batches of all ranks together, the same numbers on each."""
        raise NotImplementedError

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What each mean in the loss is taken over in this batch on this rank, by name.

        The trainer sums them over ranks and hands them back with each piece of the batch (`core.batch.count_of`), so
        that the losses of pieces add up to the loss of the whole. Only asked where `joins_batch` is False.
        """
        return {}

    def encode(self, inputs: Any, keep: Ids | None = None) -> Tokens:
        """The embeddings to evaluate and to use, without gradient being promised."""
        raise NotImplementedError

    def encoders(self) -> dict[str, nn.Module]:
        """The encoders by name: "target", the one `encode` uses, and "encoder", the one that is trained."""
        raise NotImplementedError

    def collator(self, seed: int, views: int | None = None) -> Collator:
        """The collator of training batches, or with `views` of batches with that many views of each sample."""
        raise NotImplementedError

    def views(self, batch: Batch) -> Float[Tensor, "batch views dim"]:
        """Pooled embeddings of each sample's views (LiDAR); `batch` is from `collator(seed, views=n)`."""
        raise NotImplementedError

    def energy(self, batch: Batch, partners: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Energy of each sample's context with the target of sample `partners[i]` (itself: a matching pair)."""
        raise NotImplementedError

    @property
    def world_model(self) -> Any:
        """The `Dynamics` that imagines what actions lead to: itself, where it learned any; None: it learned none."""
        return None

    def flow(
        self, first: Float[Tensor, "batch channels height width"], second: Tensor
    ) -> Float[Tensor, "batch 2 height width"]:
        """Motion from one prepared frame to the next, in pixels right and down. Only asked where `finds_flow` is True."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups: weights with decay; biases, norms, tokens and positions without."""
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        decayed = [p for _, p in trained if p.ndim > 1 and not _is_token(p)]
        plain = [p for _, p in trained if p.ndim <= 1 or _is_token(p)]
        return [{"params": decayed, "decay": True}, {"params": plain, "decay": False}]

    def begin_training(self) -> None:
        """Called before training, and before a checkpoint is read: puts in what only training needs (adapters)."""

    def end_training(self) -> None:
        """Called after training: takes that away again; what is left is what `model.safetensors` holds."""

    def after_step(self, progress: float) -> dict[str, float]:
        """Called after each optimiser step with the share of training done; returns what to log (EMA momentum)."""
        return {}


def _is_token(parameter: Tensor) -> bool:
    return parameter.ndim == 3 and parameter.shape[0] == 1  # [1, tokens, dim]: mask tokens, query tokens, positions


def shuffled(count: int, device: torch.device | None = None) -> Int[Tensor, "batch"]:
    """Partners for the energy of pairs that do not match: everybody's neighbour."""
    return torch.arange(count, device=device).roll(1)
