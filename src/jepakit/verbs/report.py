"""`report`: one self-contained HTML page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepakit.config import to_plain
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.evaluation.document import read_evaluation
from jepakit.files import read_json
from jepakit.interop.embedding import embed_samples
from jepakit.interop.runs import Run
from jepakit.modalities.modality import ClipSamples, Data
from jepakit.pages.data import ReportData
from jepakit.pages.figures import gallery, nearest_neighbours
from jepakit.pages.page import write_report
from jepakit.pages.world_data import check_acting, check_world
from jepakit.randomness import derive_seed
from jepakit.registry import load_named
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.recordings import read_probe, read_recordings

PICTURED, NEIGHBOURS = 8, 7  # images shown with their tokens and masks, and neighbours of each
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
        evaluation=_read_evaluation(folder.evaluation),
        **pictures,
        **(look_at_world(folder) if system is not None and system.world_model is not None else {}),
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
    if "flows" in found and isinstance(dataset, ClipSamples):
        flows = [dataset.flow(int(index)) for index in chosen[: len(shown)]]
        true_flows = [flow for flow in flows if flow is not None]
        found |= {"true_flows": np.stack(true_flows)} if true_flows else {}
    return {"embeddings": embeddings, **labels, **found}


def _read_json(path: Path) -> Any:
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold what jepakit writes there. Delete it.")
    return value


def _read_evaluation(path: Path) -> Any:
    if not path.exists():
        return None
    document = read_evaluation(path)
    if document.get("world_model") is not None:
        check_world(document["world_model"], str(path))
    return document
