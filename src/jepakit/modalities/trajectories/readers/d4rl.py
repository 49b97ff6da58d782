"""Reads the HDF5 layout of D4RL: the steps of all episodes in flat arrays, their ends in `terminals` and `timeouts`.

    observations [steps, ...], actions [steps, ...], rewards?, terminals [steps], timeouts [steps]

Row t holds an observation and the action taken there. The observation after an episode's last action is not in
`observations`; where the file has `next_observations` it is taken from there, else that action stays unused.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.files.hdf5 import Hdf5


def is_d4rl(file: Hdf5) -> bool:
    """Whether the root has the flat arrays of this layout."""
    return all(name in file and not file.is_group(name) for name in ("observations", "actions"))


def d4rl_episodes(file: Hdf5) -> Iterator[dict[str, NDArray]]:
    """The episodes in their order; what stands after the last end is one as well. Errors: no `timeouts`, odd lengths."""
    if "timeouts" not in file or "terminals" not in file:
        raise UserError(
            f"{file.path} has no {'timeouts' if 'terminals' in file else 'terminals'}: where an episode was cut off cannot be "
            "seen, and windows would run across resets. Take a version of the data set with both (D4RL's v1 or later)."
        )
    names = [name for name in ("observations", "actions", "rewards", "terminals", "timeouts") if name in file]
    arrays = {name: file.array(name) for name in names}
    steps = len(arrays["observations"])
    wrong = [name for name, array in arrays.items() if array.ndim == 0 or len(array) != steps]
    if wrong or not steps:
        raise UserError(f"{file.path}: {', '.join(wrong) or 'observations'} do not have a row for each of {steps:,} steps.")
    following = file.array("next_observations") if "next_observations" in file else None
    ended = arrays["terminals"].reshape(steps).astype(bool) | arrays["timeouts"].reshape(steps).astype(bool)
    stops = np.flatnonzero(ended) + 1
    for begin, stop in zip([0, *stops], [*stops, *([] if ended[-1] else [steps])], strict=False):
        part = {name: array[begin:stop] for name, array in arrays.items()}
        if following is not None:
            part["observations"] = np.concatenate([part["observations"], following[stop - 1 : stop]])
            part |= {name: _padded(array) for name, array in part.items() if name != "observations"}
        part["terminated"], part["truncated"] = part.pop("terminals"), part.pop("timeouts")
        yield part


def _padded(array: NDArray) -> NDArray:
    """With a row of zeros at the end, which is not used."""
    return np.concatenate([array, np.zeros_like(array[:1])])
