"""`report`: one self-contained HTML page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepakit.config import to_plain
from jepakit.core.dynamics import Dynamics
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.files import read_json
from jepakit.interop.embedding import embed_samples
from jepakit.interop.runs import Run
from jepakit.modalities.modality import Data
from jepakit.modalities.video.moving_photographs import MovingPhotographs
from jepakit.pages.data import ReportData
from jepakit.pages.figures import gallery, nearest_neighbours
from jepakit.pages.page import write_report
from jepakit.pages.world_data import check_acting, check_world
from jepakit.randomness import derive_seed
from jepakit.registry import load_named
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.recordings import read_probe, read_recordings

PICTURED, NEIGHBOURS = 8, 7  # images shown with their tokens and masks, and neighbours of each
ROW = {"features", "evaluator", "metric", "value"}  # what each row of an evaluation says
MAPPED = 1000  # held-out images embedded for the map and the neighbours


def report(run: str | Path | Run) -> Path:
    """Write `report.html` into a run folder: numbers, curves, neighbours, what the masks hid, and how it was run.

    Args:
        run: the run folder, or that run, opened; an unfinished run gets a page of what there is.
    """
    run = Run.of(run).to(torch.device("cpu"))
    folder, config = run.folder, run.config
    system = run.system if folder.model.exists() else None
    pictures = picture_run(system, run.data, config.training.seed) if system is not None and run.has_data else {}
    data = ReportData(
        name=folder.path.resolve().name,
        folder=str(folder.path),
        config=to_plain(config),
        environment=_read_json(folder.environment) or {},
        metrics=folder.read_metrics(),
        evaluation=_read_json(folder.evaluation),
        **pictures,
        **(look_at_world(folder) if isinstance(system, Dynamics) else {}),
    )
    return write_report(folder.report, data)


def look_at_world(folder: RunFolder) -> dict[str, Any]:
    """The parts of `ReportData` that a run with dynamics has: how it acted, and its recorded episodes."""
    acting = read_json(folder.acting) if folder.acting.exists() else None
    if acting is not None:
        check_acting(acting, str(folder.acting))
    episodes = read_recordings(folder.recordings, acting, read_probe(folder.state_probe))
    return {"world_model": True, "acting": acting, "episodes": episodes}


def picture_run(system: System, data: Data, seed: int) -> dict[str, Any]:
    """The parts of `ReportData` that come from looking at held-out samples with the encoder."""
    held_out = data.test if len(data.test) else data.train
    order = np.random.default_rng(derive_seed(seed, "pictures")).permutation(len(held_out))
    dataset: Any = held_out.subset(order[:MAPPED])
    inputs = system.inputs
    embeddings = embed_samples(system.encode, inputs, dataset).numpy()
    labels = {} if dataset.labels is None else {"classes": data.classes, "embedding_labels": dataset.labels}
    if system.modality.pictures is None:
        return {"embeddings": embeddings, **labels}
    chosen = shown = np.arange(min(PICTURED, len(dataset)))
    found: dict[str, Any] = {}
    if len(dataset) > NEIGHBOURS:
        chosen, found["neighbours"] = gallery(nearest_neighbours(embeddings, shown, NEIGHBOURS))
    samples = [dataset[int(i)] for i in chosen]
    if dataset.labels is not None:
        labels["labels"] = dataset.labels[chosen]
    found |= load_named(system.modality.pictures)(system, samples, len(shown), seed)
    clips = getattr(dataset, "clips", None)
    if "flows" in found and isinstance(clips, MovingPhotographs):
        found["true_flows"] = np.stack([clips.flow(sample["id"]) for sample in samples[: len(shown)]])
    return {"embeddings": embeddings, **labels, **found}


def _read_json(path: Path) -> Any:
    if not path.exists():
        return None
    value = read_json(path)
    every = [value, *value.get("earlier", [])] if isinstance(value, dict) else [value]
    rows = [one.get("rows", []) if isinstance(one, dict) else None for one in every]
    if not all(isinstance(some, list) and all(isinstance(row, dict) and row.keys() >= ROW for row in some) for some in rows):
        raise UserError(f"{path} does not hold what jepakit writes there. Delete it, and evaluate the run again.")
    if value.get("world_model") is not None:
        check_world(value["world_model"], str(path))
    return value
