"""`report`: one self-contained HTML page about a run."""

from __future__ import annotations

from collections.abc import Sequence
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
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.modality import Data
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.modalities.video.moving_photographs import MovingPhotographs
from jepakit.nn.flow import FlowPredictor
from jepakit.pages.data import ReportData
from jepakit.pages.figures import gallery, nearest_neighbours
from jepakit.pages.page import write_report
from jepakit.pages.world_data import check_acting, check_world
from jepakit.randomness import derive_seed
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
    if not isinstance(inputs, ImageInputs | VideoInputs):
        return {"embeddings": embeddings, **labels}
    chosen = shown = np.arange(min(PICTURED, len(dataset)))
    found: dict[str, Any] = {}
    if len(dataset) > NEIGHBOURS:
        chosen, found["neighbours"] = gallery(nearest_neighbours(embeddings, shown, NEIGHBOURS))
    samples = [dataset[int(i)] for i in chosen]
    if dataset.labels is not None:
        labels["labels"] = dataset.labels[chosen]
    looked = look_at_images if isinstance(inputs, ImageInputs) else look_at_clips
    found |= looked(system, samples, len(shown), seed)
    clips = getattr(dataset, "clips", None)
    if "flows" in found and isinstance(clips, MovingPhotographs):
        found["true_flows"] = np.stack([clips.flow(sample["id"]) for sample in samples[: len(shown)]])
    return {"embeddings": embeddings, **labels, **found}


def look_at_images(system: System, samples: Sequence[dict[str, Any]], shown: int, seed: int) -> dict[str, Any]:
    """Pixels of all samples, and of the first `shown` the tokens and the masks or views of a training step."""
    inputs, first, found = system.inputs, samples[:shown], {}
    with torch.no_grad():
        tokens = system.encode(inputs.prepare(first))
    batch = system.collator(seed)(first)
    if "context" in batch:
        found["masks"] = read_masks(batch)
    if "views" in batch:
        found["views"] = inputs.restore(batch["views"]).numpy()
    rows, columns = (tokens.positions[0] + 1).amax(0).tolist()
    images = inputs.restore(inputs.prepare(samples)).numpy()
    return {"images": images, "tokens": tokens.values.float().numpy(), "grid": (int(rows), int(columns)), **found}


def look_at_clips(system: System, samples: Sequence[dict[str, Any]], shown: int, seed: int) -> dict[str, Any]:
    """The same of clips at their middle frame; of several masks one is shown a clip, in turn."""
    inputs, first, found = system.inputs, samples[:shown], {}
    prepared = inputs.prepare(samples)
    middle = prepared.shape[2] // 2
    with torch.no_grad():
        tokens = system.encode(prepared[:shown])
    if tokens.positions.shape[-1] == 3:
        times, rows, columns = (tokens.positions[0] + 1).amax(0).tolist()
        at, cells = int(middle * times // prepared.shape[2]), int(rows * columns)
        found = {"tokens": tokens.values[:, at * cells : (at + 1) * cells].float().numpy(), "grid": (int(rows), int(columns))}
        batch = system.collator(seed)(first)
        batch = batch.get("video", batch)
        if "context" in batch:
            found["masks"] = [
                (_inside(batch["context"][clip, kind], batch["context_lengths"][clip, kind], at, cells),
                 [_inside(batch["targets"][clip, kind], batch["target_lengths"][clip, kind], at, cells)])
                for clip in range(shown) for kind in [clip % batch["context"].shape[1]]
            ]  # fmt: skip
    predictor = getattr(system, "predictor", None)
    if isinstance(predictor, FlowPredictor):
        pairs = prepared[:shown, :, middle - 1 : middle + 1].transpose(1, 2)
        with torch.no_grad():
            flows = predictor.between(system.encoders()["encoder"], pairs[:, 0], pairs[:, 1])
        found |= {"moving": inputs.unit(pairs).numpy(), "flows": flows.float().numpy()}
    return {"images": inputs.unit(prepared[:, :, middle]).numpy(), "of_clips": True, **found}


def _inside(ids: torch.Tensor, length: torch.Tensor, time: int, cells: int) -> list[int]:
    """Those of the first `length` tokens that are of one time step, counted within it."""
    kept = ids.flatten()[: int(length.flatten()[0])]
    return [int(i) - time * cells for i in kept if time * cells <= i < (time + 1) * cells]


def read_masks(batch: dict[str, torch.Tensor]) -> list[tuple[list[int], list[list[int]]]]:
    """For each image of a masked batch the ids of its first context and of each target block."""
    masks = []
    for image in range(len(batch["id"])):
        kept = batch["context"][image, 0, : batch["context_lengths"][image, 0]].tolist()
        lengths = batch["target_lengths"][image].tolist()
        masks.append((kept, [block[:n].tolist() for block, n in zip(batch["targets"][image], lengths, strict=True)]))
    return masks


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
