"""Windows/s of the episode store beside HDF5, lossless against lossless: the same uint8 frames, chunked by frame as usual.

Batches of 64 windows of 3 + 1 frames and the 3 actions between them, drawn at random over all episodes, by one process without
workers, from files that the system has in memory: what is compared is the reading itself. Frames are 64 x 64 x 3 of smooth
colour under a few moving squares, which gzip shrinks about as it does a simple environment's. The references are h5py files
of one frame a chunk, without compression and with gzip 4, and a Lance data set of one row a step where Lance is installed
(pip install pylance; it is not among this project's packages). Each side gives the same numbers: compared before it is timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch

from benchmarks.timing import Result, compare
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, WindowDataset, open_trajectories
from jepakit.modalities.trajectories.episode_writer import EpisodeWriter

EPISODES, STEPS, SIDE = 40, 128, 64
BATCH, BATCHES, HISTORY = 64, 8, 3
Batches = Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor]]


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        return rates(Path(folder))


def rates(place: Path) -> list[Result]:
    episodes = [episode(number) for number in range(EPISODES)]
    with EpisodeWriter(place / "store") as writer:
        writer.extend(episodes)
    config = TrajectoryDataConfig(data=str(place / "store"), history=HISTORY, test_fraction=0.0)
    windows = open_trajectories(config, 0).train
    chosen = np.random.default_rng(0).permutation(len(windows))[: BATCHES * BATCH].reshape(BATCHES, BATCH)
    stored = sum(file.stat().st_size for file in (place / "store").glob("*.bin"))
    everything = {name: np.concatenate([one[name] for one in episodes]) for name in ("observations", "actions")}
    results = []
    for name, (write, read) in SIDES.items():
        path = write(place, everything)
        if path is None:
            continue
        with read(path) as theirs:
            sides = store_batch(windows, chosen[0]), theirs(windows.begins[chosen[0]])
            if not all(torch.equal(one, other) for one, other in zip(*sides, strict=True)):
                raise RuntimeError(f"{name} does not give the store's numbers")
            result = compare(
                "",
                lambda: [store_batch(windows, indices) for indices in chosen],
                lambda theirs=theirs: [theirs(windows.begins[indices]) for indices in chosen],
                memory=False,
            )
        held = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        note = f"lossless both: {stored / 1e6:,.0f} MB in the store, {held / 1e6:,.0f} MB in {name}"
        rates = chosen.size / result.ours, chosen.size / result.reference
        results.append(Result(f"trajectories: {name}", *rates, "windows/s", note=note))
    return results


def episode(number: int) -> dict[str, np.ndarray]:
    """Frames of squares that move over a smooth ground, and their velocities as actions."""
    draws = np.random.default_rng(number)
    ground = np.linspace(*draws.uniform(0, 120, (2, 3)), SIDE)[None] + np.linspace(0, 60, SIDE)[:, None, None]
    frames = np.repeat(ground[None].astype(np.uint8), STEPS, axis=0)
    actions = draws.normal(size=(STEPS, 2)).astype(np.float32)
    places = np.clip(SIDE / 2 + np.cumsum(2 * actions, axis=0), 0, SIDE - 8).astype(int)
    for frame, (row, column) in zip(frames, places, strict=True):
        frame[row : row + 8, column : column + 8] = draws.integers(100, 256, 3)
    return {"observations": frames, "actions": actions}


def store_batch(windows: WindowDataset, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations `[batch, time, channels, height, width]` and actions, as training stacks them."""
    samples = [windows[int(index)] for index in indices]
    return torch.stack([one["observations"] for one in samples]), torch.stack([one["actions"] for one in samples])


def write_hdf5(place: Path, everything: dict[str, np.ndarray], **options: object) -> Path:
    """One frame a chunk, as is usual for reading at random."""
    path = place / f"{'-'.join(['plain', *map(str, options.values())])}.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", data=everything["observations"], chunks=(1, SIDE, SIDE, 3), **options)
        file.create_dataset("actions", data=everything["actions"])
    return path


@contextmanager
def hdf5(path: Path) -> Iterator[Batches]:
    """A slice for each window."""
    with h5py.File(path, "r") as file:
        seen, done = file["observations"], file["actions"]
        yield lambda begins: stacked(
            [seen[begin : begin + HISTORY + 1] for begin in begins], [done[begin : begin + HISTORY] for begin in begins]
        )


def write_lance(place: Path, everything: dict[str, np.ndarray]) -> Path | None:
    """A row a step, where Lance is installed: frames and actions as lists of fixed size."""
    try:
        import lance
        import pyarrow
    except ImportError:
        return None
    columns = {}
    for name, array in everything.items():
        flat = array.reshape(len(array), -1)
        columns[name] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat.reshape(-1)), flat.shape[1])
    lance.write_dataset(pyarrow.table(columns), str(place / "lance"))
    return place / "lance"


@contextmanager
def lance_rows(path: Path) -> Iterator[Batches]:
    """All rows of a batch in one call, which is how Lance reads quickly."""
    import lance

    table = lance.dataset(str(path))

    def batch(begins: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        rows = table.take((begins[:, None] + np.arange(HISTORY + 1)).reshape(-1))
        seen, done = (rows.column(name).combine_chunks().flatten().to_numpy() for name in ("observations", "actions"))
        shape = len(begins), HISTORY + 1
        return stacked(seen.reshape(*shape, SIDE, SIDE, 3), done.reshape(*shape, -1)[:, :-1])

    yield batch


def stacked(frames: Iterable[np.ndarray], actions: Iterable[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """As the store's: contiguous. Permuted frames would stack channels last, and the time would fall on who reads them."""
    seen = [torch.from_numpy(np.ascontiguousarray(window.transpose(0, 3, 1, 2))) for window in frames]
    return torch.stack(seen), torch.stack([torch.tensor(window) for window in actions])


SIDES = {
    "HDF5": (write_hdf5, hdf5),
    "HDF5 with gzip": (partial(write_hdf5, compression="gzip", compression_opts=4), hdf5),
    "Lance": (write_lance, lance_rows),
}
