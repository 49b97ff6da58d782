"""Tar shards in the layout of webdataset, read by position: `key.jpg`, `key.cls`, `key.json` are one sample.

The key is a member's path up to the first dot of its file name; the members of a sample lie next to each other. The picture
is the member whose ending is that of an image (`key.jpg`, `key.png`, ...); the label is the text of `key.cls`, or `label` of
`key.json`. Other members are passed over. Nothing is unpacked: each tar's headers are read once, and its index (where each
picture lies) is kept beside it in `NAME.tar.jepakit.npz`, or in the user's cache folder where that may not be written; it is
made anew when the tar's size or time of change differs.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.files import parse_json, write_atomic
from jepakit.modalities.files.mapped import MappedFiles
from jepakit.modalities.files.names import Names
from jepakit.modalities.images.decoding import EXTENSIONS

VERSION = 1
_BLOCK = 512
_INDEX_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_LABEL_KEYS = ("label", "class", "cls")


@dataclass
class TarIndex:
    """Where the pictures of a tar lie, `[n]` each; their member names and labels ("" where there is none)."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    names: Names
    labels: Names


class TarPictures(Sequence[bytes]):
    """The image files inside of several tars, by position over all of them."""

    def __init__(self, tars: Sequence[Path], indices: Sequence[TarIndex]):
        self._files = MappedFiles([str(tar) for tar in tars])
        self._starts = np.concatenate([index.starts for index in indices])
        self._lengths = np.concatenate([index.lengths for index in indices])
        self.ends = np.cumsum([len(index.starts) for index in indices])

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        tar = int(np.searchsorted(self.ends, index, side="right"))
        return self._files.read(tar, int(self._starts[index]), int(self._lengths[index])).tobytes()


def find_tars(data: str) -> list[Path]:
    """The tars that `data` names: one, a folder of them, or several as in `train-{000..015}.tar`, sorted by name.

    Errors: one of a list is not there.
    """
    if "{" in data:
        found = [Path(name).expanduser() for name in expand_braces(data)]
        missing = [str(path) for path in found if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"data: {missing[0]}{more} of {data} does not exist.")
        return found
    path = Path(data).expanduser()
    return sorted(path.glob("*.tar")) if path.is_dir() else [path]


def expand_braces(pattern: str) -> list[str]:
    """`a-{08..10}.tar` as a-08.tar, a-09.tar, a-10.tar, and `{a,b}.tar` as a.tar, b.tar, as a shell would."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part, pattern) if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers is None:
        if "," not in inside:
            raise UserError(f"data: {{{inside}}} in {pattern!r} is not understood; expected {{000..015}} or {{a,b}}.")
        return inside.split(",")
    first, last = (int(number) for number in numbers.groups())
    if last < first:
        raise UserError(f"data: {{{inside}}} in {pattern!r} counts down.")
    return [f"{number:0{len(numbers[1])}d}" for number in range(first, last + 1)]


def open_tar(tar: Path) -> TarIndex:
    """The index of a tar: the one that was kept, or a new one from its headers.

    Errors: compressed, cut short or damaged; links, devices, names outside of the tar; samples without order.
    """
    status = tar.stat()
    fits = np.array([VERSION, status.st_size, status.st_mtime_ns])
    for place in _places(tar):
        index = _read_index(place, fits)
        if index is not None:
            return index
    index = index_tar(tar)
    for place in _places(tar):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, lambda path: _write_index(path, index, fits))
        except OSError:
            continue  # a folder that may not be written: try the next, or do without
        break
    return index


def index_tar(tar: Path) -> TarIndex:
    """Read the headers of a tar, and its labels."""
    starts, lengths, names, labels = [], [], [], []
    with open(tar, "rb") as handle:
        for key, members in _samples(tar, _members(tar, handle)):
            found = [suffix for suffix in members if f".{suffix}" in EXTENSIONS]
            if len(found) > 1:
                raise UserError(f"data: {tar}: the sample {key!r} has several pictures: {', '.join(sorted(found))}. Keep one.")
            if not found:
                continue
            picture = members[found[0]]
            starts.append(picture.offset_data)
            lengths.append(picture.size)
            names.append(picture.name)
            labels.append(_label(tar, key, members, handle))
    return TarIndex(
        np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64), Names.of(names), Names.of(labels)
    )


def _members(tar: Path, handle: io.BufferedReader) -> Iterator[tarfile.TarInfo]:
    """The files in a tar, checked. Nothing of it is ever unpacked; names are checked all the same, as labels and groups use
    them."""
    size = os.fstat(handle.fileno()).st_size
    if handle.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5"):
        raise UserError(f"data: {tar} is compressed, so that no sample can be read by its place. Decompress it first.")
    handle.seek(0)
    try:
        with tarfile.open(fileobj=handle, mode="r:", errorlevel=0, encoding="utf-8", errors="surrogateescape") as archive:
            end = 0
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                end = member.offset_data + (-(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0)
                if member.size < 0 or end > size:
                    raise UserError(f"data: {tar} was cut short: {member.name} reaches beyond its end. Copy it again.")
                if member.isdir():
                    continue
                if not member.isreg() or member.sparse is not None:
                    kind = "a link" if member.issym() or member.islnk() else "not a plain file"
                    raise UserError(f"data: {tar}: {member.name} is {kind}. Tar shards hold plain files only.")
                if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts or "\0" in member.name:
                    raise UserError(f"data: {tar}: the name {member.name!r} leads out of the tar. Write it with plain names.")
                yield member
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two: numbers in damaged extended headers
        raise UserError(f"data: {tar} is not a tar or is damaged: {error}. Copy or make it again.") from error
    handle.seek(end)
    if handle.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes a damaged header for the end
        raise UserError(f"data: {tar} is cut short or damaged at byte {end:,}: a tar ends with zeros. Copy it again.")


def _samples(tar: Path, members: Iterator[tarfile.TarInfo]) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Members that lie next to each other and have a key in common, by ending."""
    seen: set[str] = set()
    for key, group in itertools.groupby(members, lambda member: _split(member.name)[0]):
        if key in seen:
            raise UserError(f"data: {tar}: the members of the sample {key!r} lie apart. Write the tar sorted by name.")
        seen.add(key)
        sample: dict[str, tarfile.TarInfo] = {}
        for member in group:
            suffix = _split(member.name)[1]
            if suffix in sample:
                raise UserError(f"data: {tar} holds {member.name} twice.")
            sample[suffix] = member
        yield key, sample


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member: `a.b/c.d.e` is `a.b/c` and `d.e`."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _label(tar: Path, key: str, members: dict[str, tarfile.TarInfo], handle: io.BufferedReader) -> str:
    def content(member: tarfile.TarInfo) -> bytes:
        place = handle.tell()
        handle.seek(member.offset_data)
        found = handle.read(member.size)
        handle.seek(place)
        return found

    if "cls" in members:
        return content(members["cls"]).decode(errors="replace").strip()
    if "json" not in members:
        return ""
    try:
        facts = parse_json(content(members["json"]).decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"data: {tar}: {members['json'].name} is not JSON: {error}.") from error
    named = next((facts[name] for name in _LABEL_KEYS if name in facts), "") if isinstance(facts, dict) else ""
    return str(named) if isinstance(named, str | int | float) else ""


def _places(tar: Path) -> list[Path]:
    """Where the index of a tar is kept: beside it, or in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepakit"
    name = f"{tar.name}.jepakit.npz"
    return [tar.with_name(name), cache / f"{hashlib.sha256(os.fsencode(tar.absolute())).hexdigest()[:16]}-{name}"]


def _read_index(place: Path, fits: NDArray) -> TarIndex | None:
    try:
        with np.load(place, allow_pickle=False) as kept:
            if kept["fits"].tolist() != fits.tolist():
                return None
            names, labels = (Names(kept[name], kept[f"{name}_starts"]) for name in ("names", "labels"))
            index = TarIndex(kept["starts"], kept["lengths"], names, labels)
        within = (index.starts >= 0) & (index.lengths >= 0) & (index.starts + index.lengths <= fits[1])
        return index if within.all() and len(names) == len(labels) == len(within) else None
    except _INDEX_ERRORS:
        return None  # not there, or damaged: it is made anew


def _write_index(path: Path, index: TarIndex, fits: NDArray) -> None:
    names, labels = index.names, index.labels
    with open(path, "wb") as handle:
        np.savez(
            handle, fits=fits, starts=index.starts, lengths=index.lengths, names=names.text, names_starts=names.starts,
            labels=labels.text, labels_starts=labels.starts,
        )  # fmt: skip
