"""Features: frozen embeddings of a train and a test part, and the baselines every encoder stands beside."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jepakit.errors import UserError
from jepakit.evaluation.streaming import Array, as_tensor, blocks
from jepakit.randomness import derive_seed


class Features:
    """Embeddings of one encoder: `train [n, dim]`, `test [m, dim]`, and for token evaluators `[n, tokens, dim]`.

    Arrays or tensors of any float (or integer) type; kept as float32 tensors, or float64 where given so. float32 and float64
    are not copied: a memory map (`np.load(..., mmap_mode="r")`) stays on disk, and evaluators read it a block at a time. Where
    tensors lie on an accelerator, the evaluators work there.

    Raises:
        UserError: NaN or infinite values; parts that do not fit together.
    """

    def __init__(
        self,
        name: str,
        train: Array,
        test: Array,
        train_tokens: Array | None = None,
        test_tokens: Array | None = None,
    ):
        if (train_tokens is None) != (test_tokens is None):
            raise UserError(f"features {name!r}: give tokens for both the train and the test part, or for neither.")
        self.name = name
        self.train, self.test = self._parts(train, test, "[samples, dim]")
        self.train_tokens: Tensor | None = None
        self.test_tokens: Tensor | None = None
        if train_tokens is not None and test_tokens is not None:
            self.train_tokens, self.test_tokens = self._parts(train_tokens, test_tokens, "[samples, tokens, dim]")
            if len(self.train_tokens) != len(self.train) or len(self.test_tokens) != len(self.test):
                raise UserError(
                    f"features {name!r}: {len(self.train)} train and {len(self.test)} test samples, "
                    f"but tokens of {len(self.train_tokens)} and {len(self.test_tokens)}."
                )

    def _parts(self, train: Array, test: Array, axes: str) -> tuple[Tensor, Tensor]:
        first, second = (as_features(x, f"features {self.name!r}, {p}") for p, x in (("train", train), ("test", test)))
        if first.dim() != axes.count(",") + 1 or first.dim() != second.dim() or first.shape[1:] != second.shape[1:]:
            shapes = f"{list(first.shape)} and {list(second.shape)}"
            raise UserError(f"features {self.name!r}: train and test must be {axes} of one kind, got {shapes}.")
        return first, second


def as_features(values: Array, name: str) -> Tensor:
    """A detached, finite tensor of float32 (or float64, where given so): the given numbers themselves, if they are that.

    Raises:
        UserError: NaN or infinite values, or not an array of numbers.
    """
    values = as_tensor(values, name)
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    if not values.numel():
        raise UserError(f"{name}: empty, shape {list(values.shape)}.")
    rows = sum(int((~torch.isfinite(block)).reshape(len(block), -1).any(dim=1).sum()) for (block,) in blocks(values))
    if rows:
        raise UserError(
            f"{name}: {rows} of {len(values)} samples hold NaN or infinite values. "
            "Look at the encoder (did training diverge?) or leave these samples out."
        )
    return values


def baseline_features(
    train_inputs: Array, test_inputs: Array, seed: int = 0, *, components: int = 64, name: str = "pixels"
) -> list[Features]:
    """Raw input without any encoder: under its `name` (flattened) and as "pca" (fitted on the train part only).

    PCA keeps `components`, at most half of the numbers (all of them would be the input again, turned) and at most
    train samples - 1. Inputs `[n, ...]` of any type, uint8 or float.
    """
    from sklearn.decomposition import PCA  # here: importing it takes longer than `jepakit evaluate --help` may

    train = as_features(train_inputs, f"train {name}").flatten(1).cpu()
    test = as_features(test_inputs, f"test {name}").flatten(1).cpu()
    plain = Features(name=name, train=train, test=test)
    kept = max(1, min(components, train.shape[1] // 2, len(train) - 1))
    # PCA's own choice among its solvers: exact for few numbers, randomised (hence the seed) for many
    pca = PCA(kept, random_state=derive_seed(seed, "pca") % 2**32).fit(train.numpy())
    reduced = [pca.transform(part.numpy()).astype(np.float32) for part in (train, test)]
    return [plain, Features(name="pca", train=reduced[0], test=reduced[1])]
