"""Labels: which task they pose, whether they can be learned from, and how samples are split by class."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from jepakit.errors import UserError, check_choice
from jepakit.randomness import derive_seed

Task = Literal["classification", "multilabel", "regression"]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Labels of the training and the test part, ready to be fitted.

    train, test: classification: class codes `[n]` int64 (positions in `classes`); multilabel: `[n, labels]` of 0 and 1,
    float64; regression: `[n]`, or several numbers a sample `[n, numbers]`, float64.
    """

    task: Task
    train: NDArray
    test: NDArray
    classes: tuple[str, ...] = ()

    @property
    def strata(self) -> Int[np.ndarray, "train"]:
        """The group that a random split keeps in proportion: the class, or one group for all."""
        return self.train if self.task == "classification" else np.zeros(len(self.train), dtype=np.int64)


def as_array(labels: ArrayLike | Tensor) -> NDArray:
    """Labels of any source (list, array, tensor on any device) as a numpy array."""
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)


def infer_task(labels: ArrayLike | Tensor) -> Task:
    """The task that labels pose: a `[n, labels]` matrix is multilabel, or regression if it holds a fraction; floats `[n]` are
    regression, all else are classes."""
    array = as_array(labels)
    if array.ndim == 2 and array.shape[1] > 1:
        fractions = np.issubdtype(array.dtype, np.floating) and bool((array % 1 != 0).any())
        return "regression" if fractions else "multilabel"
    return "regression" if np.issubdtype(array.dtype, np.floating) else "classification"


def check_lengths(name: str, parts: tuple[Sized, Sized], labels: tuple[ArrayLike | Tensor, ArrayLike | Tensor]) -> None:
    """Raise `UserError` unless there is a label for each sample of the train and of the test part."""
    for part, samples, known in zip(("train", "test"), parts, map(as_array, labels), strict=True):
        if known.shape[:1] != (len(samples),):
            raise UserError(f"{name}: {len(samples)} {part} samples but {len(known)} {part} labels.")


def read_targets(train_labels: ArrayLike | Tensor, test_labels: ArrayLike | Tensor, task: str | None = None) -> Targets:
    """Check labels and turn classes into codes.

    Raises:
        UserError: labels of the wrong shape for the task, or NaN, or a class that only the test part has.
    """
    train, test = as_array(train_labels), as_array(test_labels)
    if task is None:
        task = infer_task(train)
    check_choice("task", task, get_args(Task))
    for part, labels in (("train", train), ("test", test)):
        if not len(labels.reshape(-1)):
            raise UserError(f"{part} labels are empty: there is nothing to evaluate.")
        if np.issubdtype(labels.dtype, np.floating) and not np.isfinite(labels).all():
            bad = int((~np.isfinite(labels)).reshape(len(labels), -1).any(axis=1).sum())
            raise UserError(f"{part} labels: {bad} of {len(labels)} are NaN or infinite. Leave those samples out.")
    if task == "multilabel":
        return _multilabel(train, test)
    if task == "regression":
        return _regression(train, test)
    train, test = _one_each("train", train, task), _one_each("test", test, task)
    names = np.unique(train)
    if len(names) < 2:
        raise UserError(f"classification needs at least two classes; all {len(train)} train labels are {names[0]!s}.")
    missing = np.setdiff1d(test, names)
    if len(missing):
        raise UserError(
            f"{len(missing)} classes of the test part never occur in the train part: {_some(missing)}. "
            "Put samples of each class into both, leave these out, or use task='regression' if labels are quantities."
        )
    return Targets(
        task="classification",
        train=np.searchsorted(names, train),
        test=np.searchsorted(names, test),
        classes=tuple(str(name) for name in names),
    )


def _one_each(part: str, labels: NDArray, task: str) -> NDArray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UserError(f"{task} needs one label for each sample; {part} labels have shape {list(labels.shape)}.")
    return labels


def _regression(train: NDArray, test: NDArray) -> Targets:
    if train.ndim != 2 or train.shape[1] == 1:
        train, test = _one_each("train", train, "regression"), _one_each("test", test, "regression")
    elif test.shape[1:] != train.shape[1:]:
        shapes = f"{list(train.shape)} and {list(test.shape)}"
        raise UserError(f"regression: train and test labels need as many numbers a sample, got {shapes}.")
    try:
        train, test = train.astype(np.float64), test.astype(np.float64)
    except ValueError as error:
        raise UserError(f"regression needs numbers as labels ({error}). Use task='classification'.") from error
    if (train.std(axis=0) == 0).any() or (test.std(axis=0) == 0).any():
        raise UserError("regression: all labels of a part are equal, so nothing can be told apart.")
    return Targets(task="regression", train=train, test=test)


def _multilabel(train: NDArray, test: NDArray) -> Targets:
    for part, labels in (("train", train), ("test", test)):
        if labels.ndim != 2:
            raise UserError(f"multilabel needs a matrix [samples, labels]; {part} labels: shape {list(labels.shape)}.")
        if not np.isin(labels, (0, 1)).all():
            raise UserError(f"multilabel needs labels of 0 and 1; {part} labels hold {_some(np.unique(labels))}.")
    if train.shape[1] != test.shape[1]:
        raise UserError(f"multilabel: {train.shape[1]} labels in the train part but {test.shape[1]} in the test part.")
    train, test = train.astype(np.float64), test.astype(np.float64)
    if not test.any():
        raise UserError("multilabel: no test sample has any label set.")
    unseen = np.flatnonzero((train.sum(axis=0) == 0) & (test.sum(axis=0) > 0))
    if len(unseen):
        raise UserError(f"multilabel: columns {_some(unseen)} are never 1 in the train part. Leave these columns out.")
    return Targets(task="multilabel", train=train, test=test)


def _some(values: NDArray, most: int = 8) -> str:
    return ", ".join(str(value) for value in values[:most]) + (", ..." if len(values) > most else "")


def ranks_in_class(strata: Int[np.ndarray, "n"], seed: int) -> Int[np.ndarray, "n"]:
    """A random order within each class: ranks from 0. Splits, folds and shots read it off."""
    order = np.random.default_rng(derive_seed(seed, "ranks in class")).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    counts = np.bincount(strata)
    ranks = np.empty(len(strata), dtype=np.int64)
    ranks[order] = np.arange(len(strata)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def held_out(strata: Int[np.ndarray, "n"], fraction: float, seed: int) -> Bool[np.ndarray, "n"]:
    """True for the samples held out: `fraction` of each class, rounded; a class of one sample is never held out."""
    counts = np.bincount(strata)[strata]
    return (ranks_in_class(strata, seed) + 0.5) / counts > 1 - fraction


def folds_of(strata: Int[np.ndarray, "n"], folds: int, seed: int) -> Int[np.ndarray, "n"]:
    """The fold of each sample, 0 to folds - 1, each class spread evenly."""
    counts = np.bincount(strata)
    starts = np.cumsum(counts) - counts  # classes start at different folds, so that folds have equal sizes
    return (ranks_in_class(strata, seed) + starts[strata]) % folds


def low_shot_draws(codes: Int[np.ndarray, "n"], shots: int, draws: int, seed: int) -> list[Int[np.ndarray, "chosen"]]:
    """`draws` random choices of `shots` samples a class: positions, ascending.

    A function of (labels, seed) alone, so that every kind of features is given the same samples, and nested: the
    choice for 5 shots is part of the choice for 10.

    Raises:
        UserError: a class has fewer than `shots` samples.
    """
    counts = np.bincount(codes)
    if counts.min() < shots:
        short = np.flatnonzero(counts < shots)
        raise UserError(
            f"low-shot-{shots} needs {shots} training labels a class, but {len(short)} classes have fewer "
            f"(the least: {counts.min()}). Ask for low-shot-{max(1, counts.min())}, or leave out the small classes."
        )
    return [np.flatnonzero(ranks_in_class(codes, derive_seed(seed, "low-shot", draw)) < shots) for draw in range(draws)]
