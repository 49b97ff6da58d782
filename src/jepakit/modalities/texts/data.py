"""Pairs of texts: a description and its code, a question and its answer, two phrasings of one thing.

Read from a `.jsonl` (an object a line), a `.csv` or a `.tsv` (with a header), two named fields of each; or generated
("regex"). The vocabulary is the words of the training part; a word is a run of letters, digits and underscores, or any
other single character that is not space.

Too long texts: a text of more than `max_length` words stops the run with its line, unless `on_long` is "cut": then its first
`max_length` words count, and a note says how many texts were cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.data import DataConfig, SampleDataset, SplitData, fingerprint_of
from jepakit.modalities.labels import class_names
from jepakit.modalities.splits import SPLIT_SEED, choose_test, limited
from jepakit.modalities.texts.files import Pairs, read_pairs
from jepakit.modalities.texts.regex import regex_pairs
from jepakit.modalities.texts.words import words

_REGEX_TEST = 400
@dataclass(frozen=True, kw_only=True)
class TextDataConfig(DataConfig):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.fields) != 2 or len(set(self.fields)) != 2:
            raise UserError(f"fields must be two different names, got {' '.join(self.fields)!r}.")
        check_range("max_length", self.max_length, 1)
        check_choice("on_long", self.on_long, ("error", "cut"))


class TextDataset(SampleDataset):
    """Some of the pairs: `{"text", "code", "id", "label"?}`, both texts as they were read."""

    def __init__(self, pairs: Sequence[tuple[str, str]], ids: NDArray[np.int64], labels: NDArray | None = None):
        super().__init__(ids, labels)
        self.pairs = pairs

    def read(self, number: int) -> dict[str, Any]:
        """Return both texts."""
        text, code = self.pairs[number]
        return {"text": text, "code": code}


@dataclass(kw_only=True)
class TextData(SplitData):
    """Pairs, split; `kind` is "regex", "jsonl", "csv", "tsv" or "dicts"."""

    noun: str = "pairs of texts"


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
    own = np.arange(len(pairs)) < _REGEX_TEST if read.kind == "regex" else None
    test = choose_test(len(pairs), config.test_fraction, labels=labels, own=own)
    train_ids, test_ids = limited(np.flatnonzero(~test), config.limit, seed), np.flatnonzero(test)
    everything = TextDataset(pairs, np.arange(len(pairs)), None if labels is None else labels.values)
    return TextData(
        train=everything.subset(train_ids),
        test=everything.subset(test_ids),
        config=config,
        name=config.data,
        kind=read.kind,
        classes=None if labels is None else labels.classes,
        task=None if labels is None else labels.task,
        fingerprint=fingerprint_of(repr(pairs), train_ids, test, None if labels is None else labels.values),
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
