"""Pictures of the test set that are in the training set as well: saved again, rescaled, recompressed, re-exposed.

Every picture is reduced to 16x16 grey values with mean 0 and norm 1, so that one matrix product compares all pairs
(60,000 with 10,000: 8 s on two cores). For each test picture the nearest training picture is a candidate if they
correlate by 0.99, and a pair if they also do so by 0.985 at 32x32 in colour. Measured on photographs: with JPEG of
quality 60, or 20 % more contrast, a copy stays above 0.997, with JPEG of quality 30 at half the size mostly above
0.985; a crop by 5 % a side is not found, nor is a mirror image. Pictures below 64 pixels show simple things that are
easily alike and are seldom resized: there 0.995 is asked for. Look at the pairs before you act on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from jepakit.modalities.images.data import ImageData, ImageDataset
from jepakit.modalities.images.decoding import Pixels, with_channels
from jepakit.randomness import derive_seed

_COARSE, _FINE, _FINE_SMALL, _SMALL = 0.99, 0.985, 0.995, 64
_MOST_TEST, _MOST_TRAIN = 20_000, 100_000
_FLAT = 0.01  # standard deviation below which a picture is empty and says nothing
_PIECE = 2**25  # products held at a time, 128 MB
_SHOWN = 20


@dataclass(frozen=True)
class NearDuplicates:
    """`count` test pictures with a near-duplicate in training; `pairs` (test, train) of the most alike, at most 20."""

    count: int
    pairs: list[tuple[str, str]]
    test: int
    """Pictures looked at; at most 20,000, drawn with the seed."""
    train: int
    """Pictures looked at; at most 100,000, drawn with the seed."""


def near_duplicates(data: ImageData, seed: int) -> NearDuplicates:
    """Compare the two sides of a split. Pictures are named by path, or as "test 12", "train 7"."""
    generator = np.random.default_rng(derive_seed(seed, "near-duplicates"))
    test = np.sort(generator.permutation(len(data.test))[:_MOST_TEST])
    train = np.sort(generator.permutation(len(data.train))[:_MOST_TRAIN])
    if len(test) == 0:
        return NearDuplicates(0, [], 0, len(train))
    nearest, likeness = nearest_pictures(signatures(data.test, test, 16, 1), signatures(data.train, train, 16, 1))
    found = []
    for index in np.flatnonzero(likeness >= _COARSE):
        pair = int(test[index]), int(train[nearest[index]])
        first = signatures(data.test, np.array([pair[0]]), 32, 3)
        closeness = float((first * signatures(data.train, np.array([pair[1]]), 32, 3)).sum())
        small = min(data.test[pair[0]]["image"].shape[1:]) < _SMALL
        if closeness >= (_FINE_SMALL if small else _FINE):
            found.append((-closeness, _name(data.test, pair[0], "test"), _name(data.train, pair[1], "train")))
    pairs = [(held_out, seen) for _, held_out, seen in sorted(found)[:_SHOWN]]
    return NearDuplicates(len(found), pairs, len(test), len(train))


def nearest_pictures(
    queries: Float[np.ndarray, "queries dim"], keys: Float[np.ndarray, "keys dim"]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The key of largest inner product with each query, and that product. The smallest position wins a tie."""
    position, likeness = np.zeros(len(queries), dtype=np.int64), np.zeros(len(queries), dtype=np.float32)
    step = max(1, _PIECE // len(keys))
    for start in range(0, len(queries), step):
        product = queries[start : start + step] @ keys.T
        position[start : start + step] = product.argmax(axis=1)
        likeness[start : start + step] = product.max(axis=1)
    return position, likeness


def signatures(
    pictures: ImageDataset, indices: NDArray[np.int64], side: int, channels: int
) -> Float[np.ndarray, "pictures dim"]:
    """Thumbnails of `side` x `side` with mean 0 and norm 1; all 0 for empty pictures."""
    table = np.stack([thumbnail(pictures.pictures.read(int(pictures.ids[i])), side, channels) for i in indices])
    table -= table.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(table, axis=1, keepdims=True)
    empty = norm < _FLAT * np.sqrt(table.shape[1])
    return np.where(empty, 0.0, table / np.where(empty, 1.0, norm)).astype(np.float32)


def thumbnail(pixels: Pixels, side: int, channels: int) -> Float[np.ndarray, "dim"]:
    """Pixels at `side` x `side`, averaged where that is smaller, in [0, 1], flat."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    planes = with_channels(pixels, channels)
    image = Image.fromarray(planes[0] if channels == 1 else planes.transpose(1, 2, 0))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32).ravel() / 255


def _name(part: ImageDataset, index: int, side: str) -> str:
    return part.paths[index] if part.paths is not None else f"{side} {index}"
