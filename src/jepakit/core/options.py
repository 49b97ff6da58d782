"""Options that many systems share, for their configs: each has one meaning in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jepakit.errors import check_choice, check_range
from jepakit.registry import SIZES

Size = Literal["nano", "tiny", "small", "base", "large", "huge", "giant"]


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """The named size of the networks."""

    size: Size = "nano"
    """Encoder and predictor: jepakit list sizes."""

    def __post_init__(self) -> None:
        check_choice("size", self.size, SIZES)


@dataclass(frozen=True, kw_only=True)
class EMAOptions:
    """The momentum of a target that follows the encoder; it changes linearly over the training."""

    changed: ClassVar[dict[str, str]] = {"ema": "the momentum at the end has an option of its own: --ema 0.99 --ema-end 1.0"}
    """What to write for options that once had another form, by name."""

    ema: float = 0.996
    """Momentum of the average at the start. Below about 1,000 steps a quicker one (0.99) is better."""
    ema_end: float | None = 1.0
    """Momentum at the end; null in a file, None on the command line: as at the start."""

    def __post_init__(self) -> None:
        check_range("ema", self.ema, 0, 1)
        if self.ema_end is not None:
            check_range("ema_end", self.ema_end, 0, 1)

    @property
    def momentum(self) -> tuple[float, float]:
        """At the start and at the end."""
        return self.ema, self.ema if self.ema_end is None else self.ema_end

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a file of an earlier version, where `ema` held both numbers, in today's form."""
        both = values.get("ema")
        return {**values, "ema": both[0], "ema_end": both[1]} if isinstance(both, list) and len(both) == 2 else values
