"""What a trained language model expects of a text, and the modality: the vocabulary is the words of the training part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError, shown
from jepakit.modalities.modality import Inputs, Modality
from jepakit.modalities.texts.data import TextData, TextDataConfig, open_texts
from jepakit.modalities.texts.words import words

SPECIAL = ("<pad>", "<unknown>", "<separator>", "<end>")
PAD, UNKNOWN, SEPARATOR, END = range(len(SPECIAL))


@dataclass(frozen=True, kw_only=True)
class TextInputs(Inputs):
    """The words by id, special ones first, and how many of a text's words count."""

    vocabulary: tuple[str, ...]
    max_length: int

    modality: ClassVar[str] = "texts"
    plain_name: ClassVar[str] = "bag of words"

    def __post_init__(self) -> None:
        if self.vocabulary[: len(SPECIAL)] != SPECIAL:
            raise UserError(f"inputs.vocabulary must begin with {', '.join(SPECIAL)}.")

    @classmethod
    def of(cls, data: TextData) -> TextInputs:
        """The words of the training part, the commonest first."""
        pairs = [data.train.pairs[number] for number in data.train.ids]
        counts = Counter(word for pair in pairs for text in pair for word in words(text))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(vocabulary=(*SPECIAL, *ordered), max_length=data.config.max_length)

    def sample(self, step: Any) -> dict[str, Any]:
        """A piece of text with at least one word."""
        if not isinstance(step, str) or not words(step):
            kind = type(step).__name__
            raise UserError(f"A step of this stream is a piece of text with at least one word, got {kind}: {shown(step)}.")
        return {"text": step}

    def ids_of(self, piece: str) -> list[int]:
        """Ids of all words of a piece of text."""
        return [self._numbers.get(word, UNKNOWN) for word in words(piece)]

    def word_ids(self, text: str) -> list[int]:
        """Ids of the words that count. Errors: a text without words."""
        ids = self.ids_of(text)[: self.max_length]
        if not ids:
            raise UserError(f"The text {text!r} has no words.")
        return ids

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`tokens [batch, longest]` padded at the right end, and `lengths [batch]`."""
        ids = [torch.tensor(self.word_ids(text)) for text in texts]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD)
        return {"tokens": padded, "lengths": torch.tensor([len(each) for each in ids])}

    def prepare(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The samples' texts (not their codes) as `tokens`."""
        return self.tokens([sample["text"] for sample in samples])

    def plain(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch features"]:
        """How often each word of the vocabulary stands in the text."""
        counts = torch.zeros(len(samples), len(self.vocabulary))
        for row, sample in zip(counts, samples, strict=True):
            ids = torch.tensor(self.word_ids(sample["text"]))
            row.index_add_(0, ids, torch.ones(len(ids)))
        return counts

    def describe(self) -> str:
        """How much of a text counts."""
        return f"up to {self.max_length} words, {len(self.vocabulary) - len(SPECIAL):,} known"

    def options(self) -> dict[str, Any]:
        """Other texts are as long at most."""
        return {"max_length": self.max_length}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.vocabulary)}


TEXTS = Modality("texts", TextDataConfig, TextInputs, open_texts, TextInputs.of)
