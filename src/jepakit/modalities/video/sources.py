"""From the word a user gives as `data` to a `VideoCollection`: video files in a folder or a list, or folders of pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jepakit.errors import UserError
from jepakit.files import read_text
from jepakit.modalities.files.names import Names
from jepakit.modalities.files.tables import read_rows
from jepakit.modalities.files.walk import find_files
from jepakit.modalities.images.decoding import EXTENSIONS as PICTURE_EXTENSIONS
from jepakit.modalities.images.decoding import read_header
from jepakit.modalities.labels import Labels, Table, folder_labels, groups_of, label_table, told_labels
from jepakit.modalities.splits import split_folders, split_names
from jepakit.modalities.video.collection import Footage, VideoCollection, VideoDataConfig
from jepakit.modalities.video.decoding import EXTENSIONS
from jepakit.modalities.video.files import FrameFolders, VideoFiles
from jepakit.modalities.video.survey import Recording, Survey, survey, survey_videos

LISTS = (".txt", ".csv", ".tsv")
_PATH_COLUMNS = ("path", "file", "filename", "video")


def names_files(data: str) -> bool:
    """Whether this is read as video files or pictures, and not as an array."""
    path = Path(data).expanduser()
    return path.is_dir() or path.suffix.lower() in (*LISTS, *EXTENSIONS)


def holds_videos(data: str) -> bool:
    """Whether a path can only be videos: a video file, a folder of them without pictures, a list that begins with one."""
    path = Path(data).expanduser()
    if path.is_dir():
        return bool(find_files(path, EXTENSIONS)[0]) and not find_files(path, PICTURE_EXTENSIONS)[0]
    if path.suffix.lower() in LISTS and path.is_file():
        try:
            return any(name.lower().endswith(EXTENSIONS) for name in _listed(path)[0][:1])
        except UserError:
            return False  # whoever reads it will say what is wrong with it
    return path.suffix.lower() in EXTENSIONS and path.is_file()


def read_videos(config: VideoDataConfig) -> VideoCollection:
    """The files that `config.data` names, all looked at.

    Raises:
        UserError: nothing there, bad files under `on_bad_file="error"`, labels that do not fit; with the remedy.
    """
    path = Path(config.data).expanduser()
    if path.is_dir():
        return _from_folder(config, path)
    if not path.is_file():
        raise UserError(f"data: {config.data!r} does not exist. Check the path.")
    if path.suffix.lower() in LISTS:
        return _from_list(config, path)
    return _collected(config, path.parent, Names.of([path.name]), path.name, "file", lambda kept: None)


def _from_folder(config: VideoDataConfig, root: Path) -> VideoCollection:
    found, others, closed = find_files(root, EXTENSIONS)
    name, kind = root.resolve().name, "folder"
    pictures: dict[str, list[str]] = {}
    if not found:
        pictures = frame_folders(find_files(root, PICTURE_EXTENSIONS)[0])
        found, kind = sorted(pictures), "frames"
    if closed and (config.on_bad_file == "error" or not found):
        raise UserError(f"data: {closed[0].path}: {closed[0].reason}. Make it readable, or give --on-bad-file skip.")
    if not found:
        what = f"{others:,} other files" if others else "nothing else"
        raise UserError(
            f"data: no video files under {root} ({what} there). Give a folder with {', '.join(EXTENSIONS)}, in sub-folders or "
            "not, or one with a sub-folder of numbered pictures for each clip."
        )
    split, left_out = split_folders(found)
    chosen = np.array([index for index, side in enumerate(split) if side is not None])
    notes = [f"Files passed over because they are not videos: {others:,}."] if others and kind == "folder" else []
    if left_out:
        notes.append(f"Videos not used because they lie outside of {' and '.join(split_names(found))}: {left_out:,}.")
    names = Names.of(found).take(chosen)

    def labels(kept: Sequence[str]) -> Labels | None:
        return folder_labels([path.split("/", 1)[1] for path in kept] if any(split) else kept)

    collection = _collected(config, root, names, name, kind, labels, pictures=pictures)
    if any(split):
        side = dict(zip(found, split, strict=True))
        collection.test = np.array([side[path] == "test" for path in collection.relative])
    collection.bad_files, collection.notes = closed + collection.bad_files, notes + collection.notes
    return collection


def _from_list(config: VideoDataConfig, path: Path) -> VideoCollection:
    listed, told, table = _listed(path)
    if not listed:
        raise UserError(f"data: {path} lists no files. Write a path on each line, relative to its folder.")
    seen: set[str] = set()
    for name in listed:
        if (place := os.path.normpath(name)) in seen:
            raise UserError(f"data: {path} lists {name} twice, which could then be trained on and held out. Remove one.")
        seen.add(place)
    row = {name: index for index, name in enumerate(listed)}

    def labels(kept: Sequence[str]) -> Labels | None:
        rows = [row[name] for name in kept]
        return table.take(rows).labels() if table is not None else told_labels([told[index] for index in rows], kept)

    return _collected(config, path.parent, Names.of(listed), path.name, "list", labels, listed=table)


def _collected(
    config: VideoDataConfig,
    root: Path,
    names: Names,
    name: str,
    kind: str,
    own_labels: Callable[[Sequence[str]], Labels | None],
    listed: Table | None = None,
    pictures: dict[str, list[str]] | None = None,
) -> VideoCollection:
    """What was found of these files, with their labels: those that the options name, else the data's own."""
    table = label_table(config.labels, root, names)
    files = Names.of(os.path.join(root, path) for path in names)
    footage: Footage
    if pictures:
        footage, seen = _frame_folders(root, names, pictures, config)
    else:
        seen = survey_videos(files, names, config.on_bad_file)
        footage = VideoFiles(files.take(seen.good), seen.timelines)
    relative = names.take(seen.good)
    if table is not None:
        table = table.take(seen.good)
    elif listed is not None:
        listed = listed.take(seen.good)
    labels = None
    if config.labels != "none":
        labels = (table.labels() if table is not None else None) or own_labels(relative)
    return VideoCollection(
        name=name,
        kind=kind,
        footage=footage,
        shapes=seen.shapes,
        codecs=seen.codecs,
        turned=seen.turned,
        paths=files.take(seen.good),
        relative=relative,
        labels=labels,
        groups=groups_of(config.group_by, listed if table is None else table, relative),
        bad_files=seen.bad,
    )


def _frame_folders(
    root: Path, names: Names, pictures: dict[str, list[str]], config: VideoDataConfig
) -> tuple[FrameFolders, Survey]:
    """Folders of pictures, each a clip without a clock. Every header is read."""

    def look(index: int) -> Recording:
        headers = [read_header(str(root / file), file) for file in pictures[names[index]]]
        first = headers[0]
        return Recording(first.height, first.width, False, "pictures", np.arange(len(headers)), len(headers), 0.0)

    seen = survey(look, names, config.on_bad_file, "folders of pictures")
    kept = [pictures[names[int(index)]] for index in seen.good]
    files = Names.of(os.path.join(root, file) for folder in kept for file in folder)
    return FrameFolders(files, np.cumsum([0, *map(len, kept)]), seen.timelines), seen


def frame_folders(images: Sequence[str]) -> dict[str, list[str]]:
    """The folders in which at least two pictures lie, all of them numbered, with the pictures in order of their numbers."""
    folders: dict[str, list[str]] = {}
    for image in images:
        folders.setdefault(os.path.dirname(image), []).append(image)
    numbered = {}
    for folder, files in folders.items():
        numbers = [re.findall("[0-9]+", os.path.splitext(os.path.basename(file))[0])[-1:] for file in files]
        if folder and len(files) > 1 and all(numbers) and len({int(found[0]) for found in numbers}) == len(files):
            numbered[folder] = [file for _, file in sorted(zip((int(found[0]) for found in numbers), files, strict=True))]
    return numbered


def _listed(path: Path) -> tuple[list[str], list[str], Table | None]:
    """The paths of a list, what it tells of each ("" for nothing), and its table, if it is one with a column of paths."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if path.suffix.lower() != ".txt" and lines:
        header = [cell.strip().strip('"').lower() for cell in re.split("[,\t]", lines[0])]
        key = next((name for name in _PATH_COLUMNS if name in header), None)
        if key is not None:
            rows = [{name.lower(): cell.strip() for name, cell in row.items() if name} for _, row in read_rows(path)]
            columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else [])}
            return columns.get(key, []), [], Table({name: columns[name] for name in columns if name != key}, str(path))
        if not re.split(r"[ \t,]+[+-]?[0-9]+$", lines[0])[0].lower().endswith(EXTENSIONS):
            raise UserError(
                f"data: {path} has the columns {header}; one of them must be {' or '.join(map(repr, _PATH_COLUMNS))}, with "
                "paths relative to its folder. Without a header, each line is a path, and after a space its class as a number."
            )
    names, told = [], []
    for line in lines:  # V-JEPA's own lists are lines like "videos/a.mp4 7"
        labelled = re.fullmatch(r"(.+?)[ \t,]+([+-]?[0-9]+)", line)
        if labelled is None or os.path.exists(os.path.join(path.parent, line)):
            labelled = None
        names.append(labelled[1] if labelled else line)
        told.append(labelled[2] if labelled else "")
    return names, told, None
