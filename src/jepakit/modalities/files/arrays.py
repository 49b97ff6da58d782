"""Opens `.npy` and `.npz` files that may be anyone's: no pickles, no bombs, no name twice; each refusal names the file."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError

# What numpy, zipfile and gzip raise on damaged files, found by fuzzing and in their sources.
ARRAY_ERRORS = (
    OSError, ValueError, TypeError, AttributeError, LookupError, EOFError, ArithmeticError, MemoryError, RuntimeError,
    SyntaxError, tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def map_array(path: Path) -> NDArray:
    """The array of a `.npy`, mapped instead of loaded."""
    with readable(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an .npz under another name")
        return array


@contextmanager
def open_npz(path: Path) -> Iterator[tuple[list[str], Callable[[str], NDArray]]]:
    """The names in an `.npz`, and a function that reads the array of a name; trouble with it is a `UserError`."""
    with readable(path):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no .npz archive")
        with np.load(path, allow_pickle=False) as content:
            twice = [name for name, count in Counter(content.files).items() if count > 1]
            if twice:
                raise ValueError(f"it holds {twice[0]!r} twice")
            check_memory(sum(member.file_size for member in content.zip.infolist()))

            def read(name: str) -> NDArray:
                array = content[name]
                if not isinstance(array, np.ndarray):  # numpy gives the bytes of members that are no arrays
                    raise ValueError(f"{name!r} in it is no array")
                return array

            yield content.files, read


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns whatever reading a file raises into a `UserError` that names it; a pipe, on which reading waits, is refused."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is a folder, a pipe or a device")
        yield
    except ARRAY_ERRORS as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path} cannot be read as an array file (pickled objects are refused): {reason[:500]}. "
            "Check the path, or write or copy the file again."
        ) from error


def check_memory(size: int) -> None:
    """Raise when unpacking takes more memory than the machine has: a bomb, or too large a file."""
    if hasattr(os, "sysconf") and size > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise MemoryError(
            f"unpacked it takes {size / 2**30:,.1f} GB, this machine has {memory / 2**30:,.1f}; a .npy need not fit into memory"
        )
