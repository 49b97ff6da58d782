"""`embed`: embeddings of a folder of images (or of what else an encoder reads), with the ids that say which is which."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import ConcatDataset

from jepakit.device import available_cores, choose_device
from jepakit.errors import check_range
from jepakit.interop.embedding import at_levels, embed_batches
from jepakit.interop.embedding_files import EmbeddingFile, check_ending
from jepakit.interop.encoder import PretrainedEncoder, Which
from jepakit.interop.load import load
from jepakit.modalities.modality import remarks


def embed(
    model: str | Path,
    *,
    data: Any,
    out: str | Path,
    which: Which | None = None,
    levels: tuple[int, ...] | None = None,
    tokens: bool = False,
    on_bad_file: Literal["error", "skip"] = "error",
    batch_size: int = 256,
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> np.ndarray:
    """Embed data: `out` gets a float32 array `[n, dim]`, with the path or index of each row.

    Written as it is computed, a batch at a time: all embeddings are never in memory. Killed, the same command goes on after
    the last whole batch, to the same file bit for bit (on the same machine, number of threads and torch).

    Args:
        model: a run folder, or a folder that `export` wrote.
        data: what the encoder reads: a folder, a file, a built-in name, or a data set object.
        out: file to write: `.npy`, with a CSV of paths beside it, or `.parquet` with columns id, path and embedding.
        which: "target" or "encoder" of a run.
        levels: blocks of the encoder (1-based, its depth the last) that stand side by side; None: the last.
        tokens: all tokens `[n, tokens, dim]` instead of their mean.
        on_bad_file: "error" stops at unreadable files, "skip" leaves them out (and says so).
        batch_size: samples encoded together; a run that goes on needs the same.
        workers: processes that decode the next batches (a script that asks for them needs `if __name__ == "__main__":`). By
            default one a core, and none where nothing is left to decode: arrays, or up to 1 GB of pictures, which are decoded
            when they are checked.

    Returns:
        The array, memory-mapped and read-only.

    Errors: `out` was begun with another model, data or options, and never finished.
    """
    out = Path(out)
    check_ending(out)
    check_range("batch_size", batch_size, low=1)
    encoder = load(model, which)
    where = choose_device(device)
    named = isinstance(data, str | Path)
    kind = encoder.modality.Config
    options = {"labels": "none", "on_bad_file": on_bad_file, **encoder.inputs.options()}
    known = {field.name for field in dataclasses.fields(kind)}
    config = kind(data=str(data) if named else "object", **{name: v for name, v in options.items() if name in known})
    opened = encoder.modality.open(config, 0, source=None if named else data)
    everything: Any = ConcatDataset([opened.train, opened.test])
    ids = np.concatenate([opened.train.ids, opened.test.ids])
    order = np.argsort(ids)
    files = [*(opened.train.paths or []), *(opened.test.paths or [])]
    if workers is None:
        decoded = not files or getattr(getattr(opened.train, "pictures", None), "in_memory", False)
        # to start a process takes as long as a batch or two
        workers = 0 if decoded else min(available_cores(), (len(ids) - 1) // batch_size)
    check_range("workers", workers, low=0)
    origin = {
        "model": fingerprint(encoder),
        "data": opened.fingerprint,
        "tokens": tokens,
        **({} if levels is None else {"levels": list(levels)}),
        "batch_size": batch_size,
        "device": where.type,
    }
    said = Console(stderr=True)
    for remark in remarks(opened):
        said.print(remark, markup=False, emoji=False, highlight=False, soft_wrap=True)
    with EmbeddingFile(out, ids[order], [files[i] for i in order] if files else None, origin).opened() as file:
        if file.done:
            said.print(f"Going on after {file.done:,} of {len(ids):,} {opened.noun}.")
        batches = embed_batches(
            encoder.to(where) if levels is None else at_levels(encoder.to(where).encoder, levels),
            encoder.inputs,
            everything,
            order[file.done :],
            batch_size,
            where,
            None if tokens else "mean",
            workers,
        )
        left = -(-(len(ids) - file.done) // batch_size)
        for batch in track(batches, "Embedding", left, console=said, disable=not said.is_terminal):
            file.append(batch.numpy())
        return file.finish()


def fingerprint(encoder: PretrainedEncoder) -> str:
    """Changes with the encoder's weights, its config and what it expects of its input."""
    digest = hashlib.sha256(repr((getattr(encoder.encoder, "config", None), encoder.inputs)).encode())
    for name, tensor in encoder.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
