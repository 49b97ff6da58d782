"""Targets: where the embeddings to be predicted come from, and whether gradient flows into them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jepakit.core.schedules import linear
from jepakit.errors import UserError, check_choice, check_range
from jepakit.nn.tokens import Ids


class Target(nn.Module):
    """A function from inputs to target embeddings: `target(inputs) -> Tokens`, by its own encoder or the shared one.

    The arguments are the encoder's: `keep` (encode only these tokens) and `levels` (depths to return).
    """

    differentiable: ClassVar[bool]
    """Whether gradient flows into the targets."""
    encodes: ClassVar[Literal["target", "encoder"]] = "target"
    """Whose embeddings a system's `encode` gives: the target's own encoder, or the encoder that is trained."""

    @property
    def encoder(self) -> nn.Module:
        """The encoder that makes the targets."""
        raise NotImplementedError

    def forward(self, inputs: Any, keep: Ids | None = None, levels: Sequence[int] | None = None) -> Any:
        options = {"keep": keep, "levels": levels}
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return self.encoder(inputs, **{name: value for name, value in options.items() if value is not None})

    def update(self, momentum: float) -> None:
        """Called once after each optimiser step; only an EMA target changes."""
        check_range("momentum", momentum, 0, 1)

    def follow(self, momentum: tuple[float, float] | None, progress: float) -> dict[str, float]:
        """Update by the momentum at this share of the training, on a straight line from its start to its end, and return it
        to be logged; None: nothing."""
        if momentum is None:
            return {}
        current = linear(*momentum, progress)
        self.update(current)
        return {"ema": current}


class SharedTarget(Target):
    """The encoder itself, gradient flowing: for SIGReg, VICReg, Barlow Twins or InfoNCE; collapses without one."""

    differentiable = True

    def __init__(self, encoder: nn.Module):
        super().__init__()
        # In a tuple, not as a submodule: its owner registers the encoder, and a state dict must hold it once.
        self._shared = (encoder,)

    @property
    def encoder(self) -> nn.Module:
        return self._shared[0]


class StopGradientTarget(SharedTarget):
    """The encoder itself, without gradient: SimSiam. Needs a predictor, or it collapses."""

    differentiable = False


class EMATarget(Target):
    """A copy of the encoder that follows it: `target = momentum * target + (1 - momentum) * encoder`.

    Momentum 0 is the stop-gradient target one step later, momentum 1 a frozen random (or initial) encoder. Buffers
    (running statistics) are copied, not averaged. Train and eval mode are those of the module around it. The average is
    kept in float32: in bfloat16 an update of 1 - 0.996 is rounded away.
    """

    differentiable = False

    def __init__(self, encoder: nn.Module):
        super().__init__()
        low = {p.dtype for p in encoder.parameters()} & {torch.float16, torch.bfloat16}
        if low:
            raise UserError(
                f"An EMA target needs weights in float32, the encoder's are {', '.join(map(str, low))}: small updates "
                "would be rounded away. Keep the weights in float32 and let autocast lower the precision."
            )
        self.average = copy.deepcopy(encoder).requires_grad_(False)
        # As in SharedTarget: the source is followed, not owned.
        self._source = (encoder,)

    @property
    def encoder(self) -> nn.Module:
        return self.average

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        check_range("momentum", momentum, 0, 1)
        source = self._source[0]
        averages: list[Tensor] = list(self.average.parameters())
        if averages:
            torch._foreach_lerp_(averages, [p.detach() for p in source.parameters()], 1.0 - momentum)
        for kept, new in zip(self.average.buffers(), source.buffers(), strict=True):
            kept.copy_(new)


class FrozenTarget(Target):
    """A teacher that does not learn: always in eval mode, its parameters' `requires_grad` switched off."""

    differentiable = False
    encodes = "encoder"

    def __init__(self, teacher: nn.Module):
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()

    @property
    def encoder(self) -> nn.Module:
        return self.teacher

    def train(self, mode: bool = True) -> FrozenTarget:
        super().train(mode)
        self.teacher.eval()
        return self


TARGETS = {"ema": EMATarget, "shared": SharedTarget, "stop-gradient": StopGradientTarget, "frozen": FrozenTarget}


def make_target(kind: str, encoder: nn.Module, teacher: nn.Module | None = None) -> Target:
    """The target of this kind: `ema`, `shared` or `stop-gradient` of `encoder`, or `frozen`, from a `teacher`."""
    check_choice("target", kind, TARGETS)
    if (kind == "frozen") != (teacher is not None):
        raise UserError(
            f"target {kind!r} takes no teacher; only 'frozen' does." if teacher is not None
            else "target 'frozen' needs a teacher: the encoder whose embeddings are to be predicted."
        )
    return TARGETS[kind](encoder if teacher is None else teacher)
