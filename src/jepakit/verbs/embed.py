"""`embed`: embeddings of a folder of images, with the ids that say which is which."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import ConcatDataset

from jepakit.errors import UserError
from jepakit.files import write_atomic
from jepakit.interop.pretrained import Which, embed_images, load
from jepakit.modalities.images import ImageDataConfig, open_images
from jepakit.training.device import choose_device


def embed(
    model: str | Path,
    *,
    data: Any,
    out: str | Path,
    which: Which | None = None,
    tokens: bool = False,
    on_bad_file: Literal["error", "skip"] = "error",
    batch_size: int = 256,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> np.ndarray:
    """Embed images: `out` gets a float32 array `[n, dim]` (`.npy`), the CSV beside it the path or index of each row.

    Args:
        model: a run folder, or a folder that `export` wrote.
        data: a folder, an array file, a built-in name, or a Hugging Face data set object.
        out: file to write, `.npy`.
        which: "target" or "encoder" of a run.
        tokens: all tokens `[n, tokens, dim]` instead of their mean.
        on_bad_file: "error" stops at unreadable files, "skip" leaves them out (and says so).
    """
    out = Path(out)
    if out.suffix != ".npy":
        raise UserError(f"--out {out}: embeddings are written as .npy. Use {out.with_suffix('.npy')}.")
    encoder = load(model, which)
    where = choose_device(device)
    named = isinstance(data, str | Path)
    config = ImageDataConfig(
        data=str(data) if named else "object",
        image_size=encoder.inputs.image_size,
        channels=encoder.inputs.channels,
        labels="none",
        on_bad_file=on_bad_file,
    )
    images = open_images(config, 0, source=None if named else data)
    everything: Any = ConcatDataset([images.train, images.test])
    order = np.argsort([part.ids[i] for part in (images.train, images.test) for i in range(len(part))])
    embeddings = embed_images(
        encoder.to(where), encoder.inputs, everything, order, batch_size, where, None if tokens else "mean"
    ).numpy()
    paths = [*(images.train.paths or []), *(images.test.paths or [])]
    out.parent.mkdir(parents=True, exist_ok=True)

    def write_array(path: Path) -> None:
        with open(path, "wb") as handle:
            np.save(handle, embeddings)

    def write_ids(path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["row", "path" if paths else "index"])
            writer.writerows((row, paths[i] if paths else row) for row, i in enumerate(order))

    write_atomic(out, write_array)
    write_atomic(out.with_suffix(".csv"), write_ids)
    return embeddings
