"""Which of several named observations of a step is *the* observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, did_you_mean


def chosen_observation(
    axes: Mapping[str, int], read: Callable[[str], NDArray], wanted: str | None, place: str
) -> NDArray:
    """The observation `[steps, ...]`: the one that is wanted (`a,b`: vectors one after the other), the only one, the one
    called "observation", or all of them, where all are vectors, in order of name.

    axes: the number of axes of each array, with that of the steps; read: gives an array by name.

    Raises:
        UserError: a name that is not there, pictures beside others with none wanted.
    """
    names = sorted(axes)
    if wanted is not None:
        names = [name.strip() for name in wanted.split(",")]
        for name in names:
            if name not in axes:
                raise UserError(f"observation: {place} has no {name!r}. {did_you_mean(name, axes)}")
    elif "observation" in axes:
        names = ["observation"]
    pictures = [name for name in names if axes[name] > 2]
    if not names or (pictures and len(names) > 1):
        raise UserError(
            f"{place} observes {', '.join(names) or 'nothing'}, of which {', '.join(pictures) or 'none'} are pictures. Choose "
            "one picture, or vectors, with --observation NAME or NAME,NAME."
        )
    if len(names) == 1:
        return read(names[0])
    return np.concatenate([(part := read(name)).reshape(len(part), -1) for name in names], axis=1)
