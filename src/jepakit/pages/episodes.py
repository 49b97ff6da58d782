"""Recorded episodes on the page: animations side by side, and what plans imagined against what came."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np

from jepakit.pages.data import ReportData
from jepakit.pages.markup import missing, tag
from jepakit.pages.plots import Curve, curves_chart, legend, plane_chart
from jepakit.pages.world_data import Episode

_VARIABLES = 4  # of a state that is no place in a plane
_LONGEST = 1000  # points of a path


def episodes(data: ReportData) -> list[Element]:
    """The same episodes under each policy, side by side."""
    if not data.episodes:
        return [_unrecorded(data)]
    policies = list(dict.fromkeys(episode.policy for episode in data.episodes))
    by_policy = {name: [one for one in data.episodes if one.policy == name] for name in policies}
    if not any(episode.animation for episode in data.episodes):
        return [missing("The environment draws no pictures of itself; the paths below show where its states went.")]
    rows = []
    for number in range(max(len(found) for found in by_policy.values())):
        cells = []
        for name, found in by_policy.items():
            if number < len(found):
                cells.append(_animated(name, found[number], number))
        rows.append(tag("div", {"class": "episodes"}, cells))
    lead = "The first episodes, each from the same start to the same goal under every policy; they run on by themselves."
    return [tag("p", {"class": "lead"}, lead), *rows]


def _unrecorded(data: ReportData) -> Element:
    return missing("No episodes were recorded.", data.command("act") + " --env two-rooms", "Record some")


def _animated(policy: str, episode: Episode, number: int) -> Element:
    caption = _caption(policy, episode)
    if not episode.animation:
        return tag("figure", caption, tag("p", {"class": "missing"}, "No pictures."))
    uri = f"data:image/gif;base64,{base64.b64encode(episode.animation).decode('ascii')}"
    alt = f"Episode {number + 1} under {policy}: goal {_outcome(episode)} after {episode.steps} steps"
    picture = tag("img", {"src": uri, "alt": alt, "class": "pixels"})
    return tag("figure", caption, picture, tag("small", f"{episode.steps} steps"))


def _outcome(episode: Episode) -> str:
    return "reached" if episode.success else "not reached"


def _caption(name: str, episode: Episode) -> Element:
    status = tag("span", {"class": f"status {'good' if episode.success else 'bad'}"}, _outcome(episode))
    return tag("figcaption", tag("span", name), status)


def imagined(data: ReportData) -> list[Element]:
    """Where plans were expected to lead, as a probe reads it off the imagined embeddings, against where the episode went."""
    shown = [episode for episode in data.episodes if _can_compare(episode)]
    if not data.episodes:
        return [_unrecorded(data)]
    if not shown:
        probe = "No probe of the state was fitted, or the environment tells no states, so plans cannot be read."
        return [missing(probe, data.command("evaluate"), "Fit one")]
    variables = _variables(data, shown[0])
    flat = _is_place(variables)
    panels = []
    for number, episode in enumerate(shown):
        charts = [_plane(episode, shown, variables, number)] if flat else _by_variable(episode, variables, number)
        panels.append(tag("figure", _caption(f"Episode {number + 1}", episode), charts))
    lead = (
        "Real states beside those that a linear probe, fitted on training episodes, reads off the embeddings each plan "
        "expected. Only the first steps of a plan are done before the next is made; where the dashes leave the line early, the "
        "model was wrong or changed its mind."
    )
    keys = [("real", "f-raw", False), ("imagined by each plan", "f-encoder", True)]
    if flat and any(episode.goal is not None for episode in shown):
        keys.append(("goal (dot)", "f-supervised", False))
    grid = {"class": "planes" if flat else "multiples"}
    return [tag("p", {"class": "lead"}, lead), legend(keys), tag("div", grid, panels)]


def _can_compare(episode: Episode) -> bool:
    """Whether its states were told, and are those that the probe reads."""
    told, read = episode.states, episode.decoded
    return told is not None and read is not None and told.shape[1] == read.shape[2] and episode.plan_steps is not None


def _variables(data: ReportData, episode: Episode) -> list[str]:
    state = ((data.evaluation or {}).get("world_model") or {}).get("state") or {}
    names = [str(name) for name in state.get("variables", ())]
    count = 0 if episode.states is None else episode.states.shape[1]
    return names if len(names) == count else [f"state {number}" for number in range(count)]


def _is_place(variables: Sequence[str]) -> bool:
    """Whether the first two variables are a place in a plane."""
    return len(variables) == 2 or [name.split(" ")[-1] for name in variables[:2]] == ["x", "y"]


def _plans(episode: Episode, variable: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Times and values of one variable as each plan imagined it, beginning at the real state it was made in."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    if episode.states is None or episode.decoded is None or episode.plan_steps is None:
        return found
    for step, path in zip(episode.plan_steps.tolist(), episode.decoded[:, :, variable], strict=True):
        times = step + episode.frame_skip * np.arange(len(path) + 1)
        start = episode.states[min(step, len(episode.states) - 1), variable]
        found.append((times.astype(np.float64), np.concatenate([[start], path]).astype(np.float64)))
    return found


def _path(episode: Episode) -> np.ndarray:
    states = np.zeros((1, 0)) if episode.states is None else episode.states
    return states[:_LONGEST].astype(np.float64)


def _plane(episode: Episode, all_episodes: Sequence[Episode], variables: Sequence[str], number: int) -> Element:
    every = np.concatenate([one.states[:, :2] for one in all_episodes if one.states is not None])
    goals = [one.goal[None, :2] for one in all_episodes if one.goal is not None and len(one.goal) >= 2]
    every = np.concatenate([every, *goals])
    low, high = every.min(0), every.max(0)
    pad = 0.12 * max(float((high - low).max()), 1e-9)
    curves = [
        Curve(name="imagined", kind="f-encoder", dashed=True, x=first[1], y=second[1])
        for first, second in zip(_plans(episode, 0), _plans(episode, 1), strict=True)
    ]
    path = _path(episode)
    curves.append(Curve(name="real", kind="f-raw", x=path[:, 0], y=path[:, 1]))
    points = [("start", "f-raw", float(path[0, 0]), float(path[0, 1]))]
    if episode.goal is not None and len(episode.goal) >= 2:
        points.append(("goal", "f-supervised", float(episode.goal[0]), float(episode.goal[1])))
    limits = ((float(low[0] - pad), float(high[0] + pad)), (float(low[1] - pad), float(high[1] + pad)))
    label = f"Episode {number + 1}: real and imagined paths"
    return plane_chart(curves, points, label=label, limits=limits, names=(variables[0], variables[1]))


def _by_variable(episode: Episode, variables: Sequence[str], number: int) -> list[Element]:
    path = _path(episode)
    varying = [k for k in range(len(variables)) if float(np.ptp(path[:, k])) > 1e-9][:_VARIABLES]
    charts = []
    for k in varying:
        low, high = float(path[:, k].min()), float(path[:, k].max())
        reach = 0.5 * (high - low)
        real = Curve(name="real", kind="f-raw", x=np.arange(len(path), dtype=np.float64), y=path[:, k])
        plans = [
            Curve(name="imagined", kind="f-encoder", dashed=True, x=times, y=np.clip(values, low - reach, high + reach))
            for times, values in _plans(episode, k)
        ]
        label = f"Episode {number + 1}: {variables[k]}, real and imagined"
        charts.append(curves_chart([*plans, real], label=label, size=(340.0, 150.0), x_label=f"{variables[k]} by step"))
    return charts
