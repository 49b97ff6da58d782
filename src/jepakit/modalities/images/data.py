"""Opens pictures: a folder, arrays, idx files, a Hugging Face data set or a built-in one, split and ready to train on.

Choices made where nothing is said:

- `image_size`: the pictures' own size if all have the same and its shorter side is at most 64, else 96 x 96.
- `channels`: 1 if every picture is grey (also when stored as RGB), else 3.
- The split: the data's own (`train/` and `test/`, `val/` or `valid/` folders; the splits of array files and of the
  built-in sets), else `test_fraction` of the data, by class, or by whole groups. It depends on the data alone, not on
  the seed, so that runs with different seeds hold out the same pictures.
- Bad files: up to 20,000 files, and always with `on_bad_file="skip"`, every file is decoded once before anything
  starts. Above that only the headers are read first, and a file that turns out damaged later stops the run by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from jepakit.errors import UserError
from jepakit.modalities.data import SampleDataset, SplitData, fingerprint_of
from jepakit.modalities.files.names import Names
from jepakit.modalities.images.collection import Collection, ImageDataConfig, Pictures
from jepakit.modalities.images.sources import read_source
from jepakit.modalities.pixels import unit
from jepakit.modalities.splits import choose_test, limited
from jepakit.randomness import derive_seed

_STATISTICS = 1_000
_PIECE_PIXELS = 2**17


class ImageDataset(SampleDataset):
    """Some of the pictures of a collection: `{"image", "id", "label"?}`.

    `image` is `[channels, h, w]`, `uint8` or `float32` in [0, 1], at its own size (see `loaded_size`). `shards` says in which
    shard each lies, where they are to be read shard after shard.
    """

    aligned = (*SampleDataset.aligned, "shards")

    def __init__(
        self,
        pictures: Pictures,
        ids: NDArray[np.int64],
        labels: NDArray | None = None,
        paths: Names | None = None,
        shards: NDArray | None = None,
    ):
        super().__init__(ids, labels, paths)
        self.pictures, self.shards = pictures, shards

    def read(self, number: int) -> dict[str, Any]:
        """Return the picture. Errors: `UnreadableImage` (a `UserError`), which names a file that cannot be decoded."""
        return {"image": torch.from_numpy(self.pictures.read(number))}


@dataclass(kw_only=True)
class ImageData(SplitData):
    """Pictures, split. Of `config`, `image_size`, `channels` and `value_range` are filled in.

    mean, std: per channel, of training pixels in [0, 1] (of at most 1,000 pictures).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    noun: str = "images"


def open_images(config: ImageDataConfig, seed: int, source: object | None = None) -> ImageData:
    """Find, check, label and split the pictures of `config.data`.

    Args:
        seed: draws the `limit` training pictures and those that mean and std are computed from; not the split.
        source: a Hugging Face `Dataset` or `DatasetDict` to use instead of `config.data` (which then is its name).

    Raises:
        UserError: nothing there, bad files under `on_bad_file="error"`, labels that do not fit; with the remedy.
    """
    collection = read_source(config, source)
    return split_collection(collection, settled(config, collection), seed)


def settled(config: ImageDataConfig, collection: Collection) -> ImageDataConfig:
    """Return the options with what was found filled in."""
    return replace(
        config,
        image_size=collection.image_size,
        channels=collection.channels,
        value_range=config.value_range or collection.value_range,
    )


def split_collection(collection: Collection, config: ImageDataConfig, seed: int) -> ImageData:
    """`ImageData` of a collection; `config` has `image_size`, `channels` and `value_range` filled in."""
    labels, count = collection.labels, len(collection.pictures)
    test = choose_test(count, config.test_fraction, labels=labels, groups=collection.groups, own=collection.test)
    if test.all():
        raise UserError(f"{collection.name}: no picture is left to train on.")
    ids = np.arange(count)
    values = None if labels is None else labels.values
    everything = ImageDataset(collection.pictures, ids, values, collection.paths, _shards(collection, config))
    train_ids = limited(ids[~test], config.limit, seed)
    train = everything.subset(train_ids)
    mean, std = _statistics(train, config.channels or collection.channels, seed)
    return ImageData(
        train=train,
        test=everything.subset(ids[test]),
        config=config,
        name=collection.name,
        kind=collection.kind,
        classes=None if labels is None else labels.classes,
        task=None if labels is None else labels.task,
        bad_files=collection.bad_files,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(collection, train_ids, test),
        notes=collection.notes,
    )


def _shards(collection: Collection, config: ImageDataConfig) -> NDArray[np.int32] | None:
    """Return the shard of each picture, where shard after shard is read. Errors: there are no shards."""
    if config.shuffle == "full":
        return None
    if collection.shards is None:
        raise UserError(f"shuffle shards: {collection.name} has no shards. Pack it (jepakit pack), or use full.")
    return np.searchsorted(collection.shards, np.arange(len(collection.pictures)), side="right").astype(np.int32)


def stack_images(
    samples: Sequence[dict[str, Any]],
) -> tuple[Float[Tensor, "batch channels canvas_height canvas_width"], Int[Tensor, "batch 2"]]:
    """A batch: pictures in [0, 1] in the top left corner of a common zero canvas, and their true (height, width)."""
    images = [sample["image"] for sample in samples]
    sizes = torch.tensor([image.shape[1:] for image in images])
    if all(image.shape == images[0].shape and image.dtype == images[0].dtype for image in images):
        return unit(torch.stack(images)), sizes
    canvas = torch.zeros(len(images), images[0].shape[0], *sizes.amax(dim=0).tolist())
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = unit(image)
    return canvas, sizes


def in_pieces(
    make: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]], samples: Sequence[dict[str, Any]], size: tuple[int, int]
) -> dict[str, Tensor]:
    """`make(samples)`, a few pictures of `size` at a time, joined: what is worked on then stays in the processor's cache.

    `make` gives tensors, batch first, by name, and treats each picture for itself. At 224 x 224 pixels this is two to three
    times as fast as the whole batch at once, each of whose intermediate results is written to memory and read back.
    """
    few = max(8, _PIECE_PIXELS // (size[0] * size[1]))
    pieces = [make(samples[start : start + few]) for start in range(0, len(samples), few)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]} if len(pieces) > 1 else pieces[0]


def _statistics(train: ImageDataset, channels: int, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    generator = np.random.default_rng(derive_seed(seed, "statistics"))
    chosen = generator.permutation(len(train))[:_STATISTICS]
    first, second = np.zeros(channels), np.zeros(channels)
    for index in chosen:
        pixels = unit(train[int(index)]["image"]).double().flatten(1)
        first += pixels.mean(dim=1).numpy() / len(chosen)
        second += pixels.square().mean(dim=1).numpy() / len(chosen)
    # A data set of constant pictures has no spread; dividing by it must still give numbers.
    std = np.sqrt(np.maximum(second - first**2, 1e-6))
    return tuple(first.tolist()), tuple(std.tolist())


def _fingerprint(collection: Collection, train: NDArray[np.int64], test: NDArray[np.bool_]) -> str:
    labels = None if collection.labels is None else collection.labels.values
    if collection.relative is not None:
        content: Iterable[str | NDArray] = ["\0".join(collection.relative)]
    else:  # arrays have no names: look at some of the pixels
        seen = np.linspace(0, len(collection.pictures) - 1, 64).astype(int)
        content = (collection.pictures.read(int(index)) for index in seen)
    return fingerprint_of(f"{collection.kind} {len(collection.pictures)}", collection.shapes, train, test, labels, *content)
