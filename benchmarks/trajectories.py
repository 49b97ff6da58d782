"""Windows/s of the episode store beside HDF5, lossless against lossless: the same uint8 frames, chunked by frame as usual.

Batches of 64 windows of 3 + 1 frames and the 3 actions between them, drawn at random over all episodes, by one process without
workers, from files that the system has in memory: what is compared is the reading itself. Frames are 64 x 64 x 3 of smooth
colour under a few moving squares, which gzip shrinks about as it does a simple environment's. The references are h5py files
of one frame a chunk, without compression and with gzip 4; each side gives the same numbers (compared before it is timed).
Lance has no part in it: it is not among the packages that this project installs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

from benchmarks.timing import Result, compare
from jepakit.modalities.episode_writer import EpisodeWriter
from jepakit.modalities.trajectories import TrajectoryDataConfig, WindowDataset, open_trajectories

EPISODES, STEPS, SIDE = 40, 128, 64
BATCH, BATCHES, HISTORY = 64, 8, 3


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
    results = []
    for name, options in (("HDF5", {}), ("HDF5 with gzip", {"compression": "gzip", "compression_opts": 4})):
        path = place / f"{name}.h5"
        with h5py.File(path, "w") as file:
            frames = np.concatenate([one["observations"] for one in episodes])
            file.create_dataset("observations", data=frames, chunks=(1, SIDE, SIDE, 3), **options)
            file.create_dataset("actions", data=np.concatenate([one["actions"] for one in episodes]))
        with h5py.File(path, "r") as file:
            ours, theirs = store_batch(windows, chosen[0]), hdf5_batch(file, windows.begins[chosen[0]])
            if not all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)):
                raise RuntimeError(f"{name} does not give the store's numbers")
            result = compare(
                "",
                lambda: [store_batch(windows, indices) for indices in chosen],
                lambda file=file: [hdf5_batch(file, windows.begins[indices]) for indices in chosen],
                memory=False,
            )
        count = chosen.size
        note = f"lossless both: {stored / 1e6:,.0f} MB in the store, {path.stat().st_size / 1e6:,.0f} MB in {name}"
        results.append(Result(f"trajectories: {name}", count / result.ours, count / result.reference, "windows/s", note=note))
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


def hdf5_batch(file: h5py.File, begins: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from an HDF5 file, a slice for each window."""
    seen, done, ahead = file["observations"], file["actions"], HISTORY
    frames = [torch.from_numpy(seen[begin : begin + ahead + 1]).permute(0, 3, 1, 2) for begin in begins]
    # Contiguous, as the store's are: permuted frames would stack channels last, and the time would fall on who reads them.
    return torch.stack([one.contiguous() for one in frames]), torch.stack([torch.from_numpy(done[begin : begin + ahead]) for begin in begins])
