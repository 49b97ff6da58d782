"""Finds the files of a kind under a folder, and names those that cannot be used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BadFile:
    """A file that was found but cannot be used."""

    path: str
    reason: str


def find_files(root: Path, extensions: tuple[str, ...]) -> tuple[list[str], int, list[BadFile]]:
    """All files under `root` with one of these endings, in any case, as sorted relative paths; how many other files were
    passed over; and the folders that cannot be looked into.

    Symbolic links are followed, each folder is visited once, so that loops end. Hidden files and folders (and the
    `__MACOSX` folder of zip files) are not looked at.
    """
    wanted: list[str] = []
    others = 0
    closed: list[BadFile] = []
    seen: set[tuple[int, int]] = set()

    def refused(error: OSError) -> None:
        closed.append(BadFile(str(error.filename), f"the folder cannot be looked into: {error.strerror}"))

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=refused):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        for file in files:
            if file.lower().endswith(extensions) and not file.startswith("."):
                wanted.append(os.path.relpath(os.path.join(folder, file), root).replace(os.sep, "/"))
            else:
                others += 1
    return sorted(wanted), others, closed
