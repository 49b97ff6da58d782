"""Pairs of texts: a description and its code, a question and its answer, two phrasings of one thing.

Read from a `.jsonl` (an object a line), a `.csv` or a `.tsv` (with a header), two named fields of each; or generated
("regex"). The vocabulary is the words of the training part; a word is a run of letters, digits and underscores, or any
other single character that is not space.

Too long texts: a text of more than `max_length` words stops the run with its line, unless `on_long` is "cut": then its first
`max_length` words count, and a note says how many texts were cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.labels import Labels, Task, class_names
from jepakit.modalities.modality import Companion
from jepakit.modalities.splits import SPLIT_SEED, held_out, limited
from jepakit.modalities.texts.files import Pairs, read_pairs
from jepakit.modalities.texts.regex import regex_pairs
from jepakit.modalities.texts.words import words

_REGEX_TEST = 400
@dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """Which pairs of texts, and how they are split."""

    data: str
    """A .jsonl, .csv or .tsv file, or "regex" (generated)."""
    fields: tuple[str, str] = ("text", "code")
    """Names of the two fields (columns): the text, and what is to be predicted from it."""
    label_field: str | None = None
    """Name of a field that holds each pair's class, for evaluation. Default: no labels ("regex" has its templates)."""
    max_length: int = 256
    """Words that a text may have."""
    on_long: Literal["error", "cut"] = "error"
    """What to do with longer texts: stop and name the line, or use their first max_length words."""
    test_fraction: float = 0.2
    """Part held out for evaluation ("regex" holds out 400 pairs); 0: nothing is held out."""
    limit: int | None = None
    """Train on only so many pairs, drawn with the seed (for sample-efficiency curves)."""

    def __post_init__(self) -> None:
        if len(self.fields) != 2 or len(set(self.fields)) != 2:
            raise UserError(f"fields must be two different names, got {' '.join(self.fields)!r}.")
        check_range("max_length", self.max_length, 1)
        check_choice("on_long", self.on_long, ("error", "cut"))
        if not 0.0 <= self.test_fraction < 1.0:
            raise UserError(f"test_fraction must be at least 0 and below 1, got {self.test_fraction}.")
        if self.limit is not None:
            check_range("limit", self.limit, 1)


class TextDataset(Dataset[dict[str, Any]]):
    """Some of the pairs: `{"text", "code", "id", "label"?}`, both texts as they were read.

    `id` is the pair's position in the whole data, so that what is drawn for it does not depend on the split.
    """

    paths = None

    def __init__(self, pairs: Sequence[tuple[str, str]], ids: NDArray[np.int64], labels: NDArray | None = None):
        self.pairs, self.ids, self.labels = pairs, ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.ids[index])
        text, code = self.pairs[number]
        sample: dict[str, Any] = {"text": text, "code": code, "id": number}
        if self.labels is not None:
            sample["label"] = self.labels[index]
        return sample

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> TextDataset:
        """The pairs at these positions of this data set."""
        chosen = np.asarray(indices, dtype=np.int64)
        return TextDataset(self.pairs, self.ids[chosen], None if self.labels is None else self.labels[chosen])


@dataclass
class TextData:
    """Pairs, split: `test` is held out and never trained on."""

    train: TextDataset
    test: TextDataset
    config: TextDataConfig
    name: str
    kind: str
    """"regex", "jsonl", "csv", "tsv" or "dicts"."""
    classes: list[str] | None
    task: Task | None
    fingerprint: str
    """Changes with the texts, the labels or the split: a resumed run checks that it is the same data."""
    notes: list[str] = field(default_factory=list)
    noun: str = "pairs of texts"
    companions: dict[str, Companion] = field(default_factory=dict)


def open_texts(config: TextDataConfig, seed: int, source: object | None = None) -> TextData:
    """Find, check and split the pairs of `config.data`.

    Args:
        seed: draws the `limit` training pairs; not the split.
        source: a sequence of dicts to use instead of `config.data` (which then is its name).

    Raises:
        UserError: nothing there, an unreadable line, a missing field, an empty or too long text; with line and remedy.
    """
    if config.data == "regex" and source is None:
        read = _generated()
    else:
        read = read_pairs(config.data, config.fields, config.label_field, source)
    notes = _check_lengths(read, config)
    pairs, labels = read.pairs, None if read.labels is None else class_names(read.labels)
    repeated = len(pairs) - len(set(pairs))
    if repeated:
        notes.append(f"Pairs that stand there more than once: {repeated:,}; the split may have put them on both sides.")
    if read.kind == "regex":
        test = np.arange(len(pairs)) < _REGEX_TEST
    else:
        test = held_out(len(pairs), config.test_fraction, classes=None if labels is None else labels.values)
    train_ids, test_ids = limited(np.flatnonzero(~test), config.limit, seed), np.flatnonzero(test)

    def part(ids: NDArray[np.int64]) -> TextDataset:
        return TextDataset(pairs, ids, None if labels is None else labels.values[ids])

    return TextData(
        train=part(train_ids),
        test=part(test_ids),
        config=config,
        name=config.data,
        kind=read.kind,
        classes=None if labels is None else labels.classes,
        task=None if labels is None else labels.task,
        fingerprint=_fingerprint(pairs, labels, train_ids, test),
        notes=notes,
    )


def _generated() -> Pairs:
    """The built-in pairs, in the same order and with the same ones held out in every run."""
    generated = regex_pairs(SPLIT_SEED)
    pairs = [(text, code) for text, code, _ in generated]
    return Pairs(pairs, [f"regex, pair {index:,}" for index in range(len(pairs))], [name for _, _, name in generated], "regex")


def _check_lengths(read: Pairs, config: TextDataConfig) -> list[str]:
    cut = 0
    for pair, place in zip(read.pairs, read.places, strict=True):
        for name, text in zip(config.fields, pair, strict=True):
            count = len(words(text))
            if count > config.max_length and config.on_long == "error":
                raise UserError(
                    f"{place}: the field {name!r} has {count:,} words, more than max_length {config.max_length}. Raise "
                    "--max-length, shorten the text, or give --on-long cut to use the first words."
                )
            cut += count > config.max_length
    return [f"Texts of more than {config.max_length} words, of which the first are used: {cut:,}."] if cut else []


def _fingerprint(
    pairs: Sequence[tuple[str, str]], labels: Labels | None, train: NDArray[np.int64], test: NDArray[np.bool_]
) -> str:
    digest = hashlib.sha256(repr(pairs).encode(errors="surrogateescape"))
    for array in (train, test) if labels is None else (train, test, labels.values):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
