"""`embed`: embeddings of a folder of images (or of what else an encoder reads), with the ids that say which is which."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import ConcatDataset

from jepakit.errors import UserError
from jepakit.files import write_atomic
from jepakit.interop.pretrained import Which, embed_samples, load
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
    """Embed data: `out` gets a float32 array `[n, dim]` (`.npy`), the CSV beside it the path or index of each row.

    Args:
        model: a run folder, or a folder that `export` wrote.
        data: what the encoder reads: a folder, a file, a built-in name, or a data set object.
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
    kind = encoder.modality.Config
    options = {"labels": "none", "on_bad_file": on_bad_file, **encoder.inputs.options()}
    known = {field.name for field in dataclasses.fields(kind)}
    config = kind(data=str(data) if named else "object", **{name: v for name, v in options.items() if name in known})
    opened = encoder.modality.open(config, 0, source=None if named else data)
    everything: Any = ConcatDataset([opened.train, opened.test])
    order = np.argsort([part.ids[i] for part in (opened.train, opened.test) for i in range(len(part))])
    embeddings = embed_samples(
        encoder.to(where), encoder.inputs, everything, order, batch_size, where, None if tokens else "mean"
    ).numpy()
    paths = [*(opened.train.paths or []), *(opened.test.paths or [])]
    out.parent.mkdir(parents=True, exist_ok=True)

    def write_array(path: Path) -> None:
        with open(path, "wb") as handle:
            np.save(handle, embeddings)

    def write_ids(path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
            writer = csv.writer(handle)
            writer.writerow(["row", "path" if paths else "index"])
            writer.writerows((row, paths[i] if paths else row) for row, i in enumerate(order))

    write_atomic(out, write_array)
    write_atomic(out.with_suffix(".csv"), write_ids)
    return embeddings
