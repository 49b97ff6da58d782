"""What probes read: frozen embeddings of encoders, beside the raw input and its PCA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepakit.core.batch import concatenate
from jepakit.errors import UserError, check_range
from jepakit.evaluation.anticipation import Anticipating
from jepakit.evaluation.features import Features, baseline_features
from jepakit.evaluation.pooling import Pooling
from jepakit.interop.embedding import at_levels, embed_samples
from jepakit.modalities.modality import Data, Inputs
from jepakit.randomness import derive_seed

MOST_TRAIN, MOST_TEST = 20_000, 10_000  # labelled samples used at most, drawn with the seed
MOST_LARGE = 2_000, 1_000  # the same of samples that are large for what their labels say


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How embeddings are read off an encoder.

    tokens: all tokens, too, for the evaluators that want them. levels: blocks whose tokens stand side by side. seen, ahead:
    frames of a clip that the encoder sees, and frames after them that the predictor is asked for. together: clips of one file,
    which count as one sample.
    """

    pooling: Pooling = "mean"
    tokens: bool = False
    levels: tuple[int, ...] | None = None
    seen: int | None = None
    ahead: int | None = None
    together: int = 1

    @property
    def anticipates(self) -> bool:
        return self.seen is not None or self.ahead is not None

    def frames(self, inputs: Any) -> tuple[int, int]:
        """`seen` and `ahead`, decided: what is not said is what is left of the clip, or all of it.

        Errors: inputs that are no clips; nothing ahead.
        """
        if not isinstance(getattr(inputs, "frames", None), int):
            raise UserError("seen and ahead are of clips, and this encoder reads none. Leave them out.")
        seen = inputs.frames if self.seen is None else self.seen
        ahead = inputs.frames - seen if self.ahead is None else self.ahead
        if ahead < 1:
            raise UserError(
                f"seen {seen}: nothing is left of {inputs.frames} frames to anticipate. Lower --seen, or give --ahead."
            )
        return seen, ahead


def frozen_features(
    encoders: Mapping[str, nn.Module],
    predictor: nn.Module | None,
    inputs: Inputs,
    parts: Sequence[Any],
    reading: Reading,
    where: torch.device,
    seed: int,
) -> list[Features]:
    """Features of each encoder (the first with its predictor, where something is anticipated), of the raw input and its PCA.

    parts: the training and the test part, data sets.
    """
    models: dict[str, Any] = {}
    for name, encoder in encoders.items():
        if not reading.anticipates:
            models[name] = at_levels(encoder, reading.levels)
            continue
        if reading.levels is not None:
            raise UserError("levels: what is anticipated is of the depths that the predictor reads. Leave --levels out.")
        seen, ahead = reading.frames(inputs)
        models[name] = Anticipating(encoder, predictor, seen=seen, ahead=0)
        if len(models) == 1:
            models["with predictor"] = Anticipating(encoder, predictor, seen=seen, ahead=ahead)
    features = []
    for name, model in models.items():
        read: list[Tensor] = []
        for pooling in (reading.pooling, None) if reading.tokens else (reading.pooling,):
            for part in parts:
                embedded = embed_samples(model, inputs, part, device=where, pooling=pooling)
                read.append(_joined(embedded, reading.together, pooling is None))
        features.append(Features(name, *read))
    plain = [_joined(in_chunks(lambda samples: raw(inputs, samples, reading), part), reading.together, False) for part in parts]
    return features + baseline_features(plain[0], plain[1], seed, name=inputs.plain_name)


@dataclass(frozen=True)
class Parts:
    """Samples that probes learn from and samples that measure them; `together` of them, side by side, are clips of one file."""

    train: Any
    test: Any
    together: int = 1

    @property
    def counts(self) -> tuple[int, int]:
        """How many there are of either, each file counting once."""
        return len(self.train) // self.together, len(self.test) // self.together

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Their labels, one for all clips of a file."""
        return labels_of(self.train, self.together), labels_of(self.test, self.together)


def choose_parts(data: Data, inputs: Inputs, seed: int, limit: int | None = None) -> Parts:
    """Return the samples of opened data that are used, drawn with the seed; limit: samples to learn from."""
    most = MOST_LARGE if inputs.large else (MOST_TRAIN, MOST_TEST)
    together = clips_of_a_file(data.train, data.config)
    together = together if clips_of_a_file(data.test, data.config) == together else 1
    if limit is not None:
        check_range("limit", limit, 1)
        most = min(limit * together, most[0]), most[1]
    return Parts(some(data.train, most[0], seed, together), some(data.test, most[1], seed, together), together)


def raw(inputs: Inputs, samples: Sequence[dict[str, Any]], reading: Reading) -> Tensor:
    """The raw input of samples, `[batch, features]`: of clips of which a part is seen, that part."""
    if not reading.anticipates:
        return inputs.plain(samples)
    return inputs.prepare(samples)[:, :, : reading.frames(inputs)[0]].flatten(1)


def _joined(embedded: Tensor, together: int, tokens: bool) -> Tensor:
    """Of the clips of a file all tokens, or the mean of their embeddings."""
    if together == 1:
        return embedded
    clips = embedded.unflatten(0, (-1, together))
    return clips.flatten(1, 2) if tokens else clips.mean(1)


def labels_of(part: Any, together: int) -> np.ndarray:
    """The label of each sample: of files, one for all their clips."""
    return part.labels[::together]


def clips_of_a_file(part: Any, config: Any) -> int:
    """How many clips of a part are of one file, each file's side by side; 1 where files are not cut into several."""
    clips = getattr(config, "clips", 1)
    whole = clips > 1 and len(part) % clips == 0
    return clips if whole and bool((part.ids.reshape(-1, clips) // clips == part.ids[::clips, None] // clips).all()) else 1


def some(dataset: Any, most: int, seed: int, together: int = 1) -> Any:
    """At most so many samples, drawn with the seed; of files, with all their clips."""
    count, most = len(dataset) // together, max(1, most // together)
    if count <= most:
        return dataset
    chosen = np.sort(np.random.default_rng(derive_seed(seed, "evaluation")).permutation(count)[:most])
    return dataset.subset((chosen[:, None] * together + np.arange(together)).flatten())


def in_chunks(function: Any, dataset: Any) -> Any:
    """`function(samples)` of a whole data set, 1,024 samples at a time: a tensor, or a dict of tensors."""
    return concatenate(
        [
            function([dataset[i] for i in range(start, min(start + 1024, len(dataset)))])
            for start in range(0, len(dataset), 1024)
        ]
    )
