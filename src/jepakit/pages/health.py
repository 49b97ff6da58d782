"""What each health signal means in one line, and the range that the monitor does not call sick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Range = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """key: the name in metrics.jsonl; level: a labelled value to read the curve against.

    healthy: from (largest rank that can be measured, or None; first value of the run) to the healthy range. Only the
    signals that the monitor judges by have one, and it is the monitor's (`training.health.judge`): a random encoder's
    embeddings are rather alike, so that rank, cosine and spread count against their value before training.
    """

    key: str
    title: str
    meaning: str
    healthy: Callable[[int | None, float], Range | None] = lambda rank, first: None
    level: tuple[float, str] | None = None


SIGREG_FLOOR = (
    1.06,
    "floor 1.06",
)  # of Gaussian samples, whatever their number

SIGNALS = (
    Signal(
        key="health/rankme",
        title="RankMe",
        meaning="How many dimensions the embeddings use. Below half of the start, or a twentieth of what is possible, "
        "directions are lost.",
        healthy=lambda rank, first: (max(0.05 * (rank or 0), 0.5 * first), None),
    ),
    Signal(
        key="health/pairs_below",
        title="Pairs told apart",
        meaning="Share of matching pairs with a lower energy than a shuffled one. Near one half, "
        "predictions ignore the context: the embeddings are fragmented.",
        healthy=lambda rank, first: (0.55, None),
    ),
    Signal(
        key="health/energy_margin",
        title="Energy margin",
        meaning="How far the energy of matching pairs lies below that of shuffled ones, as a share. At 0 predictions "
        "ignore the context.",
        healthy=lambda rank, first: (0.0, None),
    ),
    Signal(
        key="health/std",
        title="Spread of directions",
        meaning="Standard deviation of the normalised embeddings, times √width: 1 is full spread, 0 is collapse.",
        healthy=lambda rank, first: (min(0.1, 0.5 * first), None),
    ),
    Signal(
        key="health/cosine",
        title="Cosine of random pairs",
        meaning="Likeness of two unrelated samples. Near 1, everything looks the same to the encoder.",
        healthy=lambda rank, first: (None, max(0.95, 0.5 + 0.5 * first)),
    ),
    Signal(
        key="health/lidar",
        title="LiDAR",
        meaning="How many dimensions tell samples apart rather than views of one sample. Pure noise also scores high.",
    ),
    Signal(
        key="health/alpha_req",
        title="α-ReQ",
        meaning="How fast the spectrum decays. Near 1 is the reference; far above is collapse, far below is noise.",
        level=(1.0, "reference 1"),
    ),
    Signal(
        key="health/sigreg",
        title="Distance to a Gaussian (SIGReg)",
        meaning="A perfect Gaussian scores 1.06, from sampling alone. Only systems trained with SIGReg come near it.",
        level=SIGREG_FLOOR,
    ),
    Signal(
        key="health/knn",
        title="Online kNN",
        meaning="Score of the nearest neighbours on a few held-out samples. A trend, not a result.",
    ),
)
