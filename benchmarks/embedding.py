"""Embedding a folder against plain loops; kNN and the linear probe against scikit-learn and one-shot torch; peak memory."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from benchmarks.timing import Result, compare
from jepakit.evaluation.knn import KNNConfig, knn_scores
from jepakit.evaluation.linear import fit_logistic, standardise
from jepakit.evaluation.streaming import Rows
from jepakit.interop.embedding import embed_batches
from jepakit.interop.embedding_files import EmbeddingFile
from jepakit.modalities.images import survey as image_survey
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.nn.vit import VisionTransformer, ViTConfig

IMAGES, SIZE = 320, 64
BANK, QUERIES, DIM, CLASSES = 100_000, 1_000, 384, 10
PROBE = 50_000


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        return [*embedding(Path(folder)), *neighbours(Path(folder)), probe(Path(folder))]


def embedding(folder: Path) -> list[Result]:
    """JPEGs of 320 x 240, decoded, resized and encoded by a small ViT at 64 x 64; written to a file where it is ours."""
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(IMAGES):
        coarse = generator.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240)).save(folder / "photos" / f"{number:04d}.jpg")
    with _nothing_kept():
        data = open_images(ImageDataConfig(data=str(folder / "photos"), test_fraction=0.0, image_size=(SIZE, SIZE)), 0)
    inputs = ImageInputs.of(data)
    encoder = VisionTransformer(ViTConfig(image_size=(SIZE, SIZE), patch_size=16, dim=96, depth=3, heads=3)).eval()

    @torch.no_grad()
    def loop(batch: int) -> Tensor:
        """What one writes without us: PIL, a list, a batch at a time, everything in memory."""
        found, pixels = [], []
        paths = sorted((folder / "photos").iterdir())
        for number, path in enumerate(paths, 1):
            image = Image.open(path).convert("RGB").resize((SIZE * 4 // 3, SIZE), Image.Resampling.BICUBIC)
            left = (image.width - SIZE) // 2
            image = image.crop((left, 0, left + SIZE, SIZE))
            pixels.append(inputs.normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255))
            if len(pixels) == batch or number == len(paths):
                found.append(encoder(torch.stack(pixels)).mean())
                pixels = []
        return torch.cat(found)

    def ours(workers: int) -> np.ndarray:
        with EmbeddingFile(folder / "x.npy", data.train.ids, data.train.paths, {}).opened() as file:
            for batch in embed_batches(encoder, inputs, data.train, batch_size=64, workers=workers):
                file.append(batch.numpy())
            return file.finish()

    with _nothing_kept():
        return [
            compare("embed files, against one at a time", lambda: ours(0), lambda: loop(1), "0 workers", repeats=2),
            compare("embed files, against batches", lambda: ours(0), lambda: loop(64), "0 workers; ours writes", repeats=2),
            _steady(lambda workers: embed_batches(encoder, inputs, data.train, batch_size=32, workers=workers)),
        ]


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Pictures are decoded each time they are asked for, as when there are more of them than memory is spent on."""
    kept, image_survey._CACHE_BYTES = image_survey._CACHE_BYTES, 0
    try:
        yield
    finally:
        image_survey._CACHE_BYTES = kept


def _steady(batches: Callable[[int], Iterator[Tensor]]) -> Result:
    """Images a second of 2 workers against none, from the third batch on, when both have started."""
    rates = []
    for workers in (2, 0):
        stream = batches(workers)
        for _ in range(2):
            next(stream)
        start, arrived = time.perf_counter(), [(len(batch), time.perf_counter()) for batch in stream]
        rates.append(sum(count for count, _ in arrived) / (arrived[-1][1] - start))
    note = "without the seconds that workers take to start and to end"
    return Result("embed files, 2 workers against none", *rates, "images/s", None, note)


def neighbours(folder: Path) -> list[Result]:
    """The vote of 20 neighbours, the bank in a file."""
    bank, labels = _file_of(folder / "bank.npy", BANK)
    queries = np.ascontiguousarray(bank[:QUERIES]) + np.float32(0.1)
    held = torch.from_numpy(np.array(bank))

    def ours() -> np.ndarray:
        return knn_scores(bank, labels, queries, "classification", KNNConfig(vote="majority"))

    def one_shot() -> Tensor:
        near = F.normalize(torch.from_numpy(queries), dim=1) @ F.normalize(held, dim=1).T
        return F.one_hot(torch.from_numpy(labels)[near.topk(20, dim=1).indices], CLASSES).double().mean(dim=1)

    sklearn = KNeighborsClassifier(20, algorithm="brute", metric="cosine").fit(bank, labels)
    reference = sklearn.predict_proba(queries)
    agree = [f"{(found.argmax(1) == reference.argmax(1)).mean():.2%}" for found in (ours(), one_shot().numpy())]
    sizes = f"kNN {BANK // 1000}k x {DIM}, {QUERIES // 1000}k queries"
    return [
        compare(f"{sizes}: scikit-learn", ours, lambda: sklearn.predict_proba(queries), f"{agree[0]} agree", repeats=1),
        compare(f"{sizes}: one-shot torch", ours, one_shot, f"{agree[1]} agree with scikit-learn; bank held", repeats=2),
    ]


def probe(folder: Path) -> Result:
    """One logistic regression, the embeddings in a file."""
    x, labels = _file_of(folder / "train.npy", PROBE)
    strength = 1e-3
    codes = Rows(torch.from_numpy(labels), lambda part: F.one_hot(part, CLASSES).float())

    def ours() -> np.ndarray:
        (rows,) = standardise(x)
        return fit_logistic(rows, codes, strength, tolerance=1e-4)(rows).numpy()

    def reference() -> np.ndarray:
        scaled = (x - x.mean(axis=0)) / x.std(axis=0)
        fit = LogisticRegression(C=1 / (strength * PROBE), tol=1e-4, max_iter=300).fit(scaled, labels)
        return fit.decision_function(scaled)

    same = (ours().argmax(1) == reference().argmax(1)).mean()
    name = f"logistic regression {PROBE // 1000}k x {DIM}: scikit-learn"
    return compare(name, ours, reference, f"same penalty and tolerance, standardising included; {same:.2%} agree", repeats=2)


def _file_of(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes that overlap, as a memory map, and their labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, count)
    centres = 0.15 * generator.standard_normal((CLASSES, DIM), dtype=np.float32)
    np.save(path, generator.standard_normal((count, DIM), dtype=np.float32) + centres[labels])
    return np.load(path, mmap_mode="r"), labels
