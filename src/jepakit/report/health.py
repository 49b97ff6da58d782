"""What each health signal means in one line, and the range in which it is read as healthy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Range = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """key: the name in metrics.jsonl; healthy: from the width of the embeddings (None: unknown) to a range, or None.

    level: a labelled value to read the curve against.
    """

    key: str
    title: str
    meaning: str
    healthy: Callable[[int | None], Range | None] = lambda width: None
    level: tuple[float, str] | None = None


def _rank_range(width: int | None) -> Range | None:
    """A rank below a twentieth of the width is dimensional collapse."""
    return None if width is None else (0.05 * width, None)


SIGNALS = (
    Signal(
        key="health/rankme",
        title="RankMe",
        meaning="How many dimensions the embeddings use. Below a twentieth of their width they have collapsed.",
        healthy=_rank_range,
    ),
    Signal(
        key="health/lidar",
        title="LiDAR",
        meaning="How many dimensions tell images apart rather than views of one image. Pure noise also scores high: "
        "read it beside the energy margin.",
        healthy=_rank_range,
    ),
    Signal(
        key="health/alpha_req",
        title="α-ReQ",
        meaning="How fast the spectrum decays. Near 1 is the reference; far above is collapse, far below is noise.",
        healthy=lambda width: (0.5, 2.0),
        level=(1.0, "reference 1"),
    ),
    Signal(
        key="health/std",
        title="Spread",
        meaning="Standard deviation of the normalised embeddings, times √width: 1 is full spread, 0 is collapse.",
        healthy=lambda width: (0.1, None),
    ),
    Signal(
        key="health/cosine",
        title="Cosine of random pairs",
        meaning="Likeness of two unrelated images. Near 1, everything looks the same to the encoder.",
        healthy=lambda width: (None, 0.95),
    ),
    Signal(
        key="health/sigreg",
        title="Distance to a Gaussian (SIGReg)",
        meaning="A perfect Gaussian scores 1.06, from sampling alone. Only systems trained with SIGReg come near it.",
        healthy=lambda width: (None, 3.0),
        level=(1.06, "floor 1.06"),
    ),
    Signal(
        key="health/energy_margin",
        title="Energy margin",
        meaning="Energy of shuffled pairs above that of matching pairs. At or below 0 predictions ignore the image.",
        healthy=lambda width: (0.0, None),
    ),
    Signal(
        key="health/knn",
        title="Online kNN",
        meaning="Accuracy of nearest neighbours on a small held-out batch. A trend, not a result.",
    ),
)
