"""Images/s of the data loader beside a plain PIL dataset's and the step's, and the memory of a million samples.

Every loader decodes, reduces, draws masks and stacks for I-JEPA (nano) at 96 x 96 pixels from photographs of 500 x 375; the
reference is what one writes first: `PIL.Image.open`, `resize`, the default collate, and no masks. The note says how many times
the step's own images/s that is; below 1 the loader would be what a run waits for, at this number of workers.

Memory is that of a process that opened the data and read an epoch, at 1e4, 1e5 and 1e6 pictures of 8 x 8, beside a data set
that holds a list of paths and one of labels; the ratio is of the growth per sample from 1e4 to 1e6.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import jepakit
from benchmarks.timing import Result, resident
from jepakit.config import default_config
from jepakit.modalities.images import survey as image_survey
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import ImageData, open_images
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.registry import load_system
from jepakit.training.order import DrawnDataset, StreamSampler

PHOTOGRAPHS, SIZE, BATCH, BATCHES = 320, (96, 96), 32, 10
SOURCES = {
    "folder of JPEGs": "photographs",
    "packed pixels": "pixels",
    "packed files": "files",
    "tar shard": "photographs.tar",
}
COUNTS = (10_000, 100_000, 1_000_000)


class PlainFolder(Dataset):
    """The data set of a first attempt."""

    def __init__(self, folder: Path):
        self.paths = sorted(str(path) for path in folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.paths[index]).convert("RGB").resize(SIZE)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as place:
        return [*rates(Path(place)), *memory(Path(place))]


def rates(place: Path) -> list[Result]:
    """Images/s of each source, with 0 and 2 workers."""
    write_photographs(place / "photographs")
    write_tar(place / "photographs", place / "photographs.tar")
    jepakit.pack(place / "photographs", place / "pixels", image_size=SIZE)
    jepakit.pack(place / "photographs", place / "files", image_size=SIZE, encoding="files")
    image_survey._CACHE_BYTES = 0  # a data set of this size would be kept in memory; a large one is not
    opened = {
        name: open_images(ImageDataConfig(data=str(place / file), image_size=SIZE, test_fraction=0.0), 0)
        for name, file in SOURCES.items()
    }
    step = step_rate(opened["packed pixels"])
    results = []
    for workers in (0, 2):
        plain = rate(plain_batches(place / "photographs", workers), workers)
        for name, images in opened.items():
            ours = rate(our_batches(images, workers), workers)
            note = f"{ours / step:.1f} times the {step:,.0f} images/s of a step"
            results.append(Result(f"{name}, {workers} workers", ours, plain, "images/s", note=note))
    return results


def rate(loader: DataLoader, workers: int) -> float:
    """Images/s, from when each worker has given its first batches; without workers the best of three."""
    best, skipped = 0.0, 2 * workers
    for _ in range(1 if workers else 3):
        batches = iter(loader)
        for _ in range(skipped):
            next(batches)
        start = time.perf_counter()
        count = sum(1 for _ in batches)
        best = max(best, BATCH * count / (time.perf_counter() - start))
    return best


def our_batches(images: ImageData, workers: int, batches: int = BATCHES) -> DataLoader:
    system = load_system("i-jepa")(default_config("i-jepa", "photographs").model, ImageInputs.of(images), 0)
    return DataLoader(
        DrawnDataset(images.train),
        batch_sampler=StreamSampler(len(images.train), BATCH, batches, 0),
        collate_fn=system.collator(0),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )


def plain_batches(folder: Path, workers: int) -> DataLoader:
    context = "spawn" if workers else None
    return DataLoader(PlainFolder(folder), BATCH, True, num_workers=workers, multiprocessing_context=context)


def step_rate(images: ImageData) -> float:
    """Images/s of forward, backward and optimiser of I-JEPA nano alone."""
    system = load_system("i-jepa")(default_config("i-jepa", "photographs").model, ImageInputs.of(images), 0)
    optimizer = torch.optim.AdamW(system.parameters())
    batch = next(iter(our_batches(images, 0)))

    def step() -> float:
        start = time.perf_counter()
        system.step(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return BATCH / min(step() for _ in range(3))


def memory(place: Path, counts: tuple[int, ...] = COUNTS) -> list[Result]:
    """Bytes of RSS that each further sample costs, of packed shards and of Python lists."""
    found: dict[str, list[int]] = {"shards": [], "lists": []}
    for count in counts:
        array = np.lib.format.open_memmap(place / f"{count}.npy", "w+", np.uint8, (count, 8, 8))
        for start in range(0, count, 10_000):
            array[start : start + 10_000] = np.random.default_rng(start).integers(0, 256, (10_000, 8, 8), dtype=np.uint8)
        del array
        jepakit.pack(place / f"{count}.npy", place / f"packed-{count}", shard_size="8MB")
        for kind, sizes in found.items():
            asked = f"from benchmarks.input import resident_after; print(resident_after{(kind, count, str(place))})"
            said = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout
            sizes.append(int(said.split()[-1]))
    ours, lists = ((sizes[-1] - sizes[0]) / (counts[-1] - counts[0]) for sizes in found.values())
    steps = ", ".join(f"{count:.0e}: {size / 1e6:,.0f} MB" for count, size in zip(counts, found["shards"], strict=True))
    note = f"resident after an epoch of packed shards, {steps} (of this torch is most)"
    return [Result("memory of each further sample", ours, lists, "bytes", note=note)]


def resident_after(kind: str, count: int, place: str) -> int:
    """RSS of this process in bytes, after it opened `count` samples and read them once."""
    if kind == "lists":
        paths = [f"{place}/class-{index % 10}/picture-{index:08d}.jpg" for index in range(count)]
        labels = [index % 1000 + 1000 for index in range(count)]
        order = torch.randperm(len(paths)).tolist()  # as torch's RandomSampler keeps it
        assert len(labels) == len(order)
        return resident()
    images = open_images(ImageDataConfig(data=f"{place}/packed-{count}", shuffle="shards"), 0)
    sampler = StreamSampler(len(images.train), 256, len(images.train) // 256, 0, shards=images.train.shards)
    for _ in DataLoader(DrawnDataset(images.train), batch_sampler=sampler, collate_fn=len):
        pass
    return resident()


def write_photographs(folder: Path) -> None:
    """JPEGs of 500 x 375 with coarse shapes and noise, about 60 kB each, in four classes."""
    generator = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        (folder / f"class-{number % 4}").mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + generator.normal(0, 10, (375, 500, 3))
        file = folder / f"class-{number % 4}" / f"{number:05d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=88)


def write_tar(folder: Path, tar: Path) -> None:
    """The same in the layout of webdataset."""
    with tarfile.open(tar, "w") as archive:
        for path in sorted(folder.rglob("*.jpg")):
            archive.add(path, path.name)
