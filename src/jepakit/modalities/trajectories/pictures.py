"""Draws episodes, a row each."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from jepakit.modalities.pixels import unit
from jepakit.modalities.trajectories.episodes import Episodes

_FRAMES = 8  # of an episode of pictures
_EPISODES, _LINES = 4, 12  # rows of a picture of episodes, numbers of a vector that get a line


def draw_episodes(episodes: Episodes) -> Figure:
    """Some episodes, a row each: frames from first to last, or the numbers of observations and actions over time."""
    chosen = np.unique(np.linspace(0, len(episodes.lengths) - 1, _EPISODES).astype(int))
    steps = [np.arange(*episodes.starts[number : number + 2]) for number in chosen]
    pictures = episodes.observations.ndim == 4
    columns = _FRAMES if pictures else 2
    figure = Figure(figsize=(1.3 * columns if pictures else 9, 1.4 * len(chosen) + 0.3), layout="constrained")
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    for line, number, place in zip(axes, chosen, steps, strict=True):
        if pictures:
            shown = place[np.linspace(0, len(place) - 1, columns).astype(int)]
            for axis, step in zip(line, shown, strict=True):
                image = unit(torch.from_numpy(episodes.observed(slice(step, step + 1))))[0].permute(1, 2, 0).numpy()
                image = image[..., [0, 1, 1]] if image.shape[2] == 2 else image  # red, and blue with green
                axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axis.set_axis_off()
                axis.set_title(f"episode {number}, step {step - place[0]}", fontsize=6)
            continue
        place = place[np.unique(np.linspace(0, len(place) - 1, 1000).astype(int))]
        for axis, name, values in zip(
            line, ("observations", "actions"), (episodes.observed(place), episodes.single("actions", place[:-1])), strict=True
        ):
            axis.plot(place[: len(values)] - place[0], values[:, :_LINES], linewidth=0.8)
            axis.set_title(f"{name}, episode {number}", fontsize=7)
            axis.tick_params(labelsize=6)
    return figure
