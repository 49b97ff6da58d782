"""Which samples are held out: stratified by class, or by whole groups. And how many of the others are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.labels import Labels
from jepakit.randomness import derive_seed

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
SPLIT_SEED = 0  # not the run's: runs with different seeds hold out the same samples


def held_out(
    count: int, fraction: float, *, classes: NDArray[np.int64] | None = None, groups: Sequence[str] | None = None
) -> Bool[np.ndarray, "count"]:
    """True for the samples of the test set: whole groups, else a part of each class, else any. A function of the data alone."""
    generator = np.random.default_rng(derive_seed(SPLIT_SEED, "split"))
    if groups is not None:
        return grouped_split(groups, fraction, generator)
    if classes is not None:
        return stratified_split(classes, fraction, generator)
    return random_split(count, fraction, generator)


def choose_test(
    count: int,
    fraction: float,
    *,
    labels: Labels | None = None,
    groups: Sequence[str] | None = None,
    own: NDArray[np.bool_] | None = None,
) -> Bool[np.ndarray, "count"]:
    """True for the samples of the test set: the data's own split, else whole groups, else a part of each class, else any.

    Errors: a group on both sides of the data's own split; groups that are the classes themselves.
    """
    if own is not None:
        if groups is not None:
            check_groups(groups, own)
        return own
    classes = labels.values if labels is not None and labels.task == "classification" else None
    test = held_out(count, fraction, classes=classes, groups=groups)
    if groups is not None and classes is not None and test.any() and not set(classes[test]) & set(classes[~test]):
        raise UserError(
            "group_by puts every class on one side of the split: the group is the label itself. Group by what "
            "should not leak instead (a patient, a scene, a camera)."
        )
    return test


def limited(ids: NDArray[np.int64], limit: int | None, seed: int) -> NDArray[np.int64]:
    """`limit` of the ids, drawn with the seed, in their order; all of them where there are no more, or no limit."""
    if limit is None or limit >= len(ids):
        return ids
    return np.sort(np.random.default_rng(derive_seed(seed, "limit")).permutation(ids)[:limit])


def random_split(count: int, fraction: float, generator: np.random.Generator) -> Bool[np.ndarray, "count"]:
    """True for `fraction` of the samples. A fraction above 0 means at least one; one stays for training in any case."""
    held_out = min(max(round(count * fraction), 1 if fraction > 0 else 0), count - 1)
    test = np.zeros(count, dtype=bool)
    test[generator.permutation(count)[:held_out]] = True
    return test


def stratified_split(classes: NDArray[np.int64], fraction: float, generator: np.random.Generator) -> Bool[np.ndarray, "count"]:
    """`fraction` of each class, up to one sample; the remainders go where they are largest, so that the total fits.

    A class always keeps a training sample, so one with a single sample is not in the test set.
    """
    names, counts = np.unique(classes, return_counts=True)
    wanted = counts * fraction
    held_out = np.minimum(np.floor(wanted), counts - 1).astype(int)
    order = np.argsort(-(wanted - held_out), kind="stable")
    missing = round(len(classes) * fraction) - held_out.sum()
    room = [index for index in order if held_out[index] < counts[index] - 1 and wanted[index] > held_out[index]]
    for index in room[: max(0, missing)]:
        held_out[index] += 1
    test = np.zeros(len(classes), dtype=bool)
    for name, number in zip(names, held_out, strict=True):
        members = np.flatnonzero(classes == name)
        test[generator.permutation(members)[:number]] = True
    return test


def grouped_split(groups: Sequence[str], fraction: float, generator: np.random.Generator) -> Bool[np.ndarray, "count"]:
    """Whole groups, in random order, as long as each brings the test set closer to `fraction` of the samples."""
    names, member, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if fraction > 0 and len(names) < 2:
        raise UserError(
            f"group_by finds a single group ({names[0]}), so nothing can be held out. Choose another column or path "
            "part, or leave group_by out."
        )
    target, total = fraction * len(member), 0
    chosen = np.zeros(len(names), dtype=bool)
    for index in generator.permutation(len(names)):
        if abs(total + counts[index] - target) < abs(total - target) and chosen.sum() < len(names) - 1:
            chosen[index] = True
            total += counts[index]
    if fraction > 0 and not chosen.any():
        chosen[np.argmin(counts)] = True
    return chosen[member]


def check_groups(groups: Sequence[str], test: NDArray[np.bool_]) -> None:
    """Raise `UserError` when a group lies on both sides of a split that came with the data."""
    array = np.asarray(groups)
    both = sorted(set(array[test]) & set(array[~test]))
    if both:
        raise UserError(
            f"{len(both)} groups lie on both sides of the data's own split, e.g. {', '.join(both[:5])}. Put the files "
            "into one folder so that they are split anew, or leave group_by out."
        )


def split_names(found: Sequence[str]) -> tuple[str, ...]:
    """The two folders directly under the root that make a split, as they are spelt; or nothing."""
    tops = {path.split("/")[0].lower(): path.split("/")[0] for path in found if "/" in path}
    train = next((tops[name] for name in TRAIN_FOLDERS if name in tops), None)
    test = next((tops[name] for name in TEST_FOLDERS if name in tops), None)
    return (train, test) if train and test else ()


def split_folders(found: Sequence[str]) -> tuple[list[str | None], int]:
    """For each file "train", "test", "" (no split folders) or None (outside of them), and the number of None."""
    names = split_names(found)
    if not names:
        return [""] * len(found), 0
    side = {names[0]: "train", names[1]: "test"}
    split = [side.get(path.split("/")[0]) if "/" in path else None for path in found]
    return split, split.count(None)
