"""What a report is made of: plain dictionaries and arrays, every one of them optional."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from jepakit.errors import UserError
from jepakit.pages.world_data import Episode

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a page shows. What is None is said to be missing, with the command that adds it.

    name: the run's name; folder: its path as one types it in a command (None: the name).
    metrics: the lines of `metrics.jsonl`; evaluation: the content of `evaluation.json`.
    images: `[images, channels, height, width]` in [0, 1]; channels 1 or 3. The arrays below refer to them by position.
    of_clips: each image is a frame of a clip, its middle one.
    tokens: the encoder's tokens of the *first* images, in raster order of `grid = (rows, columns)`.
    masks: for each of the first images the context ids and the ids of every target block.
    views: the views of the first images that a paired system compared.
    moving: two frames of the first clips, `[moving, 2, channels, height, width]`; flows: motion from one to the other as it was
        found, `[moving, 2, height, width]`, pixels right and down; true_flows: as it is, where that is known.
    neighbours: a query's image, then its nearest images, nearest first (see `figures.gallery`).
    labels: a class number for each of `images`, named by `classes`.
    embeddings, embedding_labels: held-out embeddings and their class (int), value (float) or classes ({0, 1} columns).
    world_model: whether the run learned dynamics, and so can imagine and act; acting: the content of `acting.json`;
        episodes: those recorded while it acted.
    """

    name: str
    folder: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: Metrics = ()
    evaluation: Mapping[str, Any] | None = None
    images: Num[np.ndarray, "images channels height width"] | None = None
    of_clips: bool = False
    tokens: Float[np.ndarray, "pictured tokens dim"] | None = None
    grid: tuple[int, int] | None = None
    masks: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]] | None = None
    views: Num[np.ndarray, "viewed views channels h w"] | None = None
    moving: Num[np.ndarray, "moving 2 channels height width"] | None = None
    flows: Float[np.ndarray, "moving 2 height width"] | None = None
    true_flows: Float[np.ndarray, "moving 2 height width"] | None = None
    neighbours: Int[np.ndarray, "queries ranks"] | None = None
    labels: Num[np.ndarray, "images ..."] | None = None
    classes: Sequence[str] | None = None
    embeddings: Float[np.ndarray, "samples features"] | None = None
    embedding_labels: Num[np.ndarray, "samples ..."] | None = None
    world_model: bool = False
    acting: Mapping[str, Any] | None = None
    episodes: Sequence[Episode] = ()

    def __post_init__(self) -> None:
        for option in ("tokens", "masks", "neighbours"):
            if getattr(self, option) is not None and self.images is None:
                raise UserError(f"{option} is given without images: give the images that it refers to.")
        for option in ("tokens", "masks"):
            if getattr(self, option) is not None and self.grid is None:
                raise UserError(f"{option} is given without grid: give grid=(rows, columns) of the tokens.")
        if self.tokens is not None and self.grid is not None and self.tokens.shape[1] != self.grid[0] * self.grid[1]:
            raise UserError(
                f"tokens: {self.tokens.shape[1]} tokens an image do not fill the grid {self.grid[0]} x {self.grid[1]}. "
                "Give patch tokens only, without class or register tokens."
            )
        for option in ("tokens", "masks", "views"):
            part = getattr(self, option)
            if part is not None and self.images is not None and len(part) > len(self.images):
                raise UserError(f"{option}: {len(part)} entries for {len(self.images)} images; give at most as many.")
        if self.neighbours is not None and self.images is not None and self.neighbours.size:
            low, high = int(self.neighbours.min()), int(self.neighbours.max())
            if low < 0 or high >= len(self.images):
                raise UserError(f"neighbours: ids {low} to {high} are not all in the {len(self.images)} images.")

    def command(self, verb: str) -> str:
        """The command line that runs `verb` on this run."""
        return f"jepakit {verb} {shlex.quote(self.folder or self.name)}"

    @property
    def rank_limit(self) -> int | None:
        """The largest rank the monitor can measure: width of the embeddings or number of its samples; None: unknown."""
        width = next((int(array.shape[-1]) for array in (self.embeddings, self.tokens) if array is not None), None)
        samples = self.config.get("health", {}).get("health_samples")
        return width if width is None or samples is None else min(width, int(samples))

    @property
    def single_class(self) -> bool:
        """Whether every image has one class (not a number to regress, not several classes)."""
        labels = self.labels if self.labels is not None else self.embedding_labels
        return labels is not None and labels.ndim == 1 and bool(np.issubdtype(labels.dtype, np.integer))


def series(metrics: Metrics, kind: str, key: str) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Steps and values of `key` over the lines of `kind` that hold it as a number (NaN and infinities are kept)."""
    found = [
        (line["step"], line[key])
        for line in metrics
        if line.get("kind") == kind and "step" in line and _is_number(line.get(key))
    ]
    both = np.asarray(found, dtype=np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
