"""C files of the package, compiled once for this processor and kept in the user's cache.

They are a faster form of what is written beside them with torch, and never needed: without a C compiler (or with
JEPAKIT_NATIVE=0) `compiled` gives None and the torch form runs.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-trapping-math", "-Wno-psabi", "-shared", "-fPIC")


@functools.cache
def compiled(source: Path) -> ctypes.CDLL | None:
    """The library that `source` compiles to; None where that cannot be."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform == "win32" or os.environ.get("JEPAKIT_NATIVE", "1") == "0":
        return None
    code = source.read_bytes()
    key = hashlib.sha256(b"\0".join([code, " ".join([compiler, *FLAGS]).encode(), _processor()])).hexdigest()[:16]
    try:
        library = cache_folder() / f"{source.stem}-{key}.so"
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:  # moved when whole: others may compile it too
                made = Path(folder) / library.name
                subprocess.run([compiler, *FLAGS, str(source), "-o", str(made), "-lm"], check=True, capture_output=True)
                os.replace(made, library)
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, subprocess.CalledProcessError):  # no home, no room, no headers, another kind of compiler
        return None  # the torch form runs


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/jepakit`, else `~/.cache/jepakit`; created for this user alone."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepakit"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def in_threads(work: Callable[[int, int], object], count: int, threads: int) -> None:
    """`work(first, last)` over all of `range(count)`, in as many pieces as threads. For C code, which frees Python's lock."""
    bounds = [count * i // threads for i in range(threads + 1)]
    others = [threading.Thread(target=work, args=pair) for pair in pairwise(bounds[1:])]
    for thread in others:
        thread.start()
    work(bounds[0], bounds[1])
    for thread in others:
        thread.join()


def _processor() -> bytes:
    """What -march=native depends on: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    return "".join(dict.fromkeys(line for line in lines if line.startswith(("flags", "Features", "model name")))).encode()
