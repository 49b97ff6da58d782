"""The computations behind the pictures: colours for tokens, neighbours, a flat map of the embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import hsv_to_rgb

from jepakit.errors import UserError

_FLAT = 1e-6  # variance below this share of the mean square is numerical noise: nothing to colour or to spread out


@dataclass(frozen=True, kw_only=True)
class TokenColours:
    """colours: `[images, rows, columns, 3]` in [0, 1]; explained: share of the variance that the three colours show."""

    colours: Float[np.ndarray, "images rows columns 3"]
    explained: float


def token_colours(tokens: Float[np.ndarray, "images tokens dim"], grid: tuple[int, int]) -> TokenColours | None:
    """First three principal components of all patch tokens together, as red, green and blue.

    Shared axes make colours comparable between images; each is stretched over its 1 to 99 % range. The sign of a
    component, which PCA leaves open, is fixed by its largest loading. None when the tokens are not finite or all alike.
    Source: Oquab et al., DINOv2 (2023), figure 1, without its foreground threshold.
    """
    images, _, dim = tokens.shape
    flat = np.asarray(tokens, dtype=np.float64).reshape(-1, dim)
    if not np.isfinite(flat).all():
        return None
    centred = flat - flat.mean(axis=0)
    total = float((centred**2).sum())
    if len(flat) < 2 or total <= _FLAT * float((flat**2).sum()):
        return None
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    keep = min(3, len(sizes))
    axes = axes[:keep]
    axes = axes * np.sign(axes[np.arange(keep), np.abs(axes).argmax(axis=1)])[:, None]
    scores = np.full((len(flat), 3), 0.5)
    projected = centred @ axes.T
    low, high = np.quantile(projected, [0.01, 0.99], axis=0)
    alive = high - low > np.sqrt(_FLAT) * np.sqrt(total / len(flat))
    stretched = np.clip((projected - low) / np.where(alive, high - low, 1.0), 0.0, 1.0)
    scores[:, :keep] = np.where(alive, stretched, 0.5)
    explained = float((sizes[:keep] ** 2).sum() / (sizes**2).sum())
    return TokenColours(colours=scores.reshape(images, *grid, 3), explained=explained)


def flow_colours(flow: Float[np.ndarray, "2 height width"], most: float) -> Float[np.ndarray, "height width 3"]:
    """Motion in colours: the hue is the direction (red right, green-yellow down, cyan left, violet up), pale is slow, white is
    still, full colour `most` pixels or more.

    Source: the colour wheel of Baker et al., A Database and Evaluation Methodology for Optical Flow (2011), with even hues.
    """
    right, down = np.nan_to_num(np.asarray(flow, dtype=np.float64))
    hue = np.arctan2(down, right) / (2 * np.pi) % 1.0
    speed = np.clip(np.hypot(right, down) / max(most, 1e-9), 0.0, 1.0)
    return hsv_to_rgb(np.stack([hue, speed, np.ones_like(hue)], axis=-1))


def nearest_neighbours(
    embeddings: Float[np.ndarray, "samples dim"], queries: Int[np.ndarray, "queries"], k: int
) -> Int[np.ndarray, "queries ranks"]:
    """Each query followed by its `k` nearest other samples by cosine similarity, nearest first: `[queries, 1 + k]`.

    Ties go to the lower id. Raises `UserError` when there are not `k` other samples.
    """
    if not 1 <= k < len(embeddings):
        raise UserError(f"k must be at least 1 and below the number of samples ({len(embeddings)}), got {k}.")
    values = np.asarray(embeddings, dtype=np.float64)
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    closeness = unit[queries] @ unit.T
    closeness[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-closeness, axis=1, kind="stable")[:, :k]
    return np.concatenate([np.asarray(queries)[:, None], order], axis=1)


def gallery(
    neighbours: Int[np.ndarray, "queries ranks"],
) -> tuple[Int[np.ndarray, "images"], Int[np.ndarray, "queries ranks"]]:
    """The sample ids to load as pictures, queries first, and `neighbours` renumbered to positions among them."""
    ids = list(dict.fromkeys([*neighbours[:, 0].tolist(), *neighbours.ravel().tolist()]))
    position = {sample: i for i, sample in enumerate(ids)}
    renumbered = np.asarray([[position[sample] for sample in row] for row in neighbours.tolist()], dtype=np.int64)
    return np.asarray(ids, dtype=np.int64), renumbered.reshape(neighbours.shape)


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """points: `[shown, 2]`; ids: which samples they are; method: how they were laid out."""

    points: Float[np.ndarray, "shown 2"]
    ids: Int[np.ndarray, "shown"]
    method: Literal["t-SNE", "PCA"]


def embedding_map(embeddings: Float[np.ndarray, "samples dim"], limit: int = 2000) -> EmbeddingMap | None:
    """Two dimensions of at most `limit` embeddings (evenly spaced samples): t-SNE, or PCA for fewer than 50.

    Rows that are not finite are left out. None when fewer than three remain or all are alike.
    """
    values = np.asarray(embeddings, dtype=np.float64)
    ids = np.flatnonzero(np.isfinite(values).all(axis=1))
    if len(ids) > limit:
        ids = ids[np.linspace(0, len(ids) - 1, limit).astype(np.int64)]
    shown = values[ids]
    if len(ids) < 3:
        return None
    centred = shown - shown.mean(axis=0)
    if float((centred**2).sum()) <= _FLAT * float((shown**2).sum()):
        return None
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    flat = left * sizes
    if len(ids) < 50 or flat.shape[1] < 3:
        return EmbeddingMap(points=np.pad(flat, ((0, 0), (0, 2)))[:, :2], ids=ids, method="PCA")
    from sklearn.manifold import TSNE  # slow to import, and only needed here
    from threadpoolctl import threadpool_limits

    # Fifty components keep t-SNE's neighbour search short and change nothing that can be seen (its authors' advice).
    layout = TSNE(init="pca", perplexity=min(30.0, (len(ids) - 1) / 3), random_state=0, max_iter=500)
    with threadpool_limits(limits=1):  # a second for a thousand points; waiting threads take ten
        points = layout.fit_transform(flat[:, :50])
    points = points - points.mean(axis=0)
    _, _, turn = np.linalg.svd(points, full_matrices=False)  # its orientation means nothing: lay the long side flat
    return EmbeddingMap(points=(points @ turn.T).astype(np.float64), ids=ids, method="t-SNE")
