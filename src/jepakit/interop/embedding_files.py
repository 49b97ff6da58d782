"""Embeddings on disk: rows appended as they are computed, so that a killed process goes on, then one `.npy` or `.parquet`."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout

from jepakit.errors import UserError, missing_extra
from jepakit.files import read_json, write_atomic, write_json

FORMAT = 1
ENDINGS = (".npy", ".parquet")
ROW_GROUP_BYTES = 2**25
SAVE_EVERY = 1.0  # seconds of work that a killed process loses at most


class EmbeddingFile:
    """A file of `[rows, ...]` float32 that is written a batch at a time.

    `OUT.part` is the `.npy` as far as it goes, `OUT.part.json` says how many of its rows are whole and what they are of.
    `finish` moves it to its place, with a CSV of the ids beside it, or turns it into `.parquet`.

    Args:
        out: where the embeddings go; ends in `.npy` or `.parquet`.
        ids: each row's sample.
        paths: each row's file, None where samples have none.
        origin: what a row depends on (model, data, options). Rows that were begun with another are refused.
    """

    def __init__(self, out: Path, ids: np.ndarray, paths: Sequence[str] | None, origin: dict[str, Any]):
        check_ending(out)
        if out.suffix == ".parquet":
            for path in paths or ():
                if any("\ud800" <= letter <= "\udfff" for letter in path):
                    raise UserError(f"--out {out}: the file name {path!r} is no UTF-8, which .parquet needs. Write .npy.")
        self.out, self.ids, self.paths, self.origin = out, ids, paths, origin
        self.part, self.state, self.names = (out.with_name(out.name + end) for end in (".part", ".part.json", ".part.csv"))
        self.shape: tuple[int, ...] | None = None  # of one row, known from the first batch on
        self.done = 0
        self._handle: IO[bytes] | None = None
        self._saved = -math.inf

    @contextlib.contextmanager
    def opened(self) -> Iterator[EmbeddingFile]:
        """Nobody else writes these embeddings while it is entered; `done` rows are there already.

        Errors: another process does; what is there was begun with another model, data or options.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.out.with_name(self.out.name + ".part.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{self.out} is being written by another process. Wait for it, or choose another --out.") from error
        try:
            self._go_on()
            if self.out.suffix == ".npy":
                write_atomic(self.names, self._write_ids)
            try:
                yield self
            finally:
                if self._handle is not None:  # not finished: stopped by Ctrl-C, say
                    self._save()
                    self._handle.close()
            Path(lock.lock_file).unlink(missing_ok=True)
        finally:
            lock.release()

    def _go_on(self) -> None:
        if not (self.part.exists() and self.state.exists()):
            return
        try:
            state = read_json(self.state)
            origin, done, shape = dict(state["origin"]), int(state["done"]), tuple(map(int, state["shape"]))
        except (UserError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.state} cannot be read. Delete it to begin anew.") from error
        changed = [
            f"{name} {origin.get(name)}, now {self.origin.get(name)}"
            for name in {**origin, **self.origin}
            if origin.get(name) != self.origin.get(name)
        ]
        if changed or state.get("format") != FORMAT:
            raise UserError(
                f"{self.part} was begun with another {'; '.join(changed) or 'format'}. Give the same again to go on, delete "
                f"{self.state} to begin anew, or choose another --out."
            )
        self.shape, self.done = shape, done
        whole = len(self._header()) + done * self._row_bytes()
        if self.part.stat().st_size < whole:
            raise UserError(f"{self.part} is shorter than {self.state} says. Delete both to begin anew.")
        os.truncate(self.part, whole)  # what a killed process had not finished

    def append(self, rows: np.ndarray) -> None:
        """Add rows `[batch, ...]`. Errors: rows of another shape than those before."""
        if self.shape is None:
            self.shape = rows.shape[1:]
            self.state.unlink(missing_ok=True)
            self.part.write_bytes(self._header())
        if rows.shape[1:] != self.shape:
            raise UserError(
                f"{self.out}: after rows of shape {list(self.shape)} came some of {list(rows.shape[1:])}: these samples have "
                "different numbers of tokens. Leave --tokens out (then their mean is taken)."
            )
        if self._handle is None:
            self._handle = open(self.part, "ab")  # noqa: SIM115
        self._handle.write(np.ascontiguousarray(rows, dtype="<f4").data)
        self.done += len(rows)
        if time.monotonic() - self._saved >= SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        """Rows first, then how many there are: whatever is counted is on the disk."""
        assert self._handle is not None
        self._handle.flush()
        os.fsync(self._handle.fileno())
        write_json(self.state, {"format": FORMAT, "done": self.done, "shape": self.shape, "origin": self.origin})
        self._saved = time.monotonic()

    def finish(self) -> np.ndarray:
        """Move the whole array to its place; returns it memory-mapped, read-only."""
        if self._handle is not None:
            self._save()
            self._handle.close()
            self._handle = None
        rows = np.load(self.part, mmap_mode="r")
        if self.out.suffix == ".parquet":
            write_atomic(self.out, lambda path: write_parquet(path, rows, self.ids, self.paths))
            self.state.unlink()
            self.part.unlink()  # the array returned keeps the rows until it is let go
        else:
            os.replace(self.names, self.out.with_suffix(".csv"))
            os.replace(self.part, self.out)
            self.state.unlink()
        return rows

    def _header(self) -> bytes:
        header, shape = io.BytesIO(), (len(self.ids), *(self.shape or ()))
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return header.getvalue()

    def _row_bytes(self) -> int:
        return 4 * int(np.prod(self.shape or ()))

    def _write_ids(self, path: Path) -> None:
        # file names that are no UTF-8 keep their bytes
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
            writer = csv.writer(handle)
            writer.writerow(["row", "index" if self.paths is None else "path"])
            writer.writerows(enumerate(range(len(self.ids)) if self.paths is None else self.paths))


def check_ending(out: Path) -> None:
    """Errors: a file that is neither `.npy` nor `.parquet`, or `.parquet` without pyarrow."""
    if out.suffix not in ENDINGS:
        raise UserError(f"--out {out}: embeddings are written as .npy or .parquet. Use {out.with_suffix('.npy')}.")
    if out.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise missing_extra("pyarrow", "parquet", f"--out {out}") from error


def write_parquet(path: Path, rows: np.ndarray, ids: np.ndarray, paths: Sequence[str] | None) -> None:
    """Columns `id` (int64), `path` (text, null where samples have no file) and `embedding` (fixed-size lists of float32),
    a row group of about 32 MiB at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.float32()
    for size in reversed(rows.shape[1:]):
        kind = pa.list_(kind, size)
    schema = pa.schema([("id", pa.int64()), ("path", pa.string()), ("embedding", kind)])
    count = max(1, ROW_GROUP_BYTES // (4 * int(np.prod(rows.shape[1:]))))
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, len(rows), count):
            part = slice(start, start + count)
            embedding = pa.array(rows[part].reshape(-1))
            for size in reversed(rows.shape[1:]):
                embedding = pa.FixedSizeListArray.from_arrays(embedding, size)
            names = pa.nulls(len(embedding), pa.string()) if paths is None else pa.array(paths[part], pa.string())
            writer.write_table(pa.table([pa.array(ids[part]), names, embedding], schema=schema))
