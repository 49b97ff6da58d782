"""What the data of every modality has: the options of a split, samples by position, what the split gave, its fingerprint."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.files.names import Names
from jepakit.modalities.files.walk import BadFile
from jepakit.modalities.labels import Task
from jepakit.modalities.modality import Companion

Part = TypeVar("Part", bound="SampleDataset")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and how much of it is held out and trained on."""

    data: str
    """A path or a built-in name."""
    test_fraction: float = 0.2
    """Part held out for evaluation where the data has no split of its own; 0: nothing is held out."""
    limit: int | None = None
    """Train on only so many samples, drawn with the seed (for sample-efficiency curves)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.test_fraction < 1.0:
            raise UserError(f"test_fraction must be at least 0 and below 1, got {self.test_fraction}.")
        if self.limit is not None:
            check_range("limit", self.limit, 1)


@dataclass(frozen=True, kw_only=True)
class FileDataConfig(DataConfig):
    """The same of data in many files, some of which may be bad, with labels and groups beside them."""

    labels: str | None = None
    """A CSV (columns path, label), or "none" to ignore labels. Default: labels from sub-folders."""
    group_by: str | None = None
    """A CSV column, or path:K for the K-th part of the relative path (0 is the first): files of one group stay on one side of
    the split."""
    on_bad_file: Literal["error", "skip"] = "error"
    """What to do with files that cannot be decoded: stop and name them, or leave them out and list them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("on_bad_file", self.on_bad_file, ("error", "skip"))


class SampleDataset(Dataset[dict[str, Any]]):
    """Some of the samples of a collection: `{"id", "label"?}` and the modality's own keys, which a subclass adds in `read`.

    `ids` are positions in the whole collection, so that what is drawn for a sample does not depend on the split; `labels` and
    `paths` belong to `ids`, one each, where there are any. Pickles under `spawn`.
    """

    aligned: ClassVar[tuple[str, ...]] = ("ids", "labels", "paths")
    """Attributes with an entry for each sample, which `subset` picks from."""

    def __init__(self, ids: NDArray[np.int64], labels: NDArray | None = None, paths: Names | None = None):
        self.ids, self.labels, self.paths = ids, labels, paths

    def read(self, number: int) -> dict[str, Any]:
        """Return the modality's own part of the sample with this id."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        sample = {**self.read(number), "id": number}
        if self.labels is not None:
            sample["label"] = self.labels[index]
        return sample

    def subset(self: Part, indices: Sequence[int] | NDArray[np.int64]) -> Part:
        """Return the samples at these positions of this data set."""
        chosen = np.asarray(indices, dtype=np.int64)
        part = copy.copy(self)
        for name in self.aligned:
            values = getattr(self, name)
            if values is not None:
                setattr(part, name, values.take(chosen) if isinstance(values, Names) else values[chosen])
        return part


@dataclass(kw_only=True)
class SplitData:
    """Opened data, split: `test` is held out and never trained on. Subclasses narrow the types and add what only they know."""

    train: Any
    test: Any
    config: Any
    """As given, with what was found filled in."""
    name: str
    kind: str
    """How it is stored, in a word."""
    fingerprint: str
    """Changes with the samples, their labels or the split: a resumed run checks that it is the same data."""
    classes: list[str] | None = None
    task: Task | None = None
    bad_files: list[BadFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a user should know about how the data was read, in sentences."""
    noun: str = "samples"
    companions: dict[str, Companion] = field(default_factory=dict)


def fingerprint_of(*parts: str | bytes | NDArray | None) -> str:
    """Return 16 hexadecimal digits that change with any of the texts and arrays; None counts for nothing."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode(errors="surrogateescape"))
        elif isinstance(part, bytes):
            digest.update(part)
        elif part is not None:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
