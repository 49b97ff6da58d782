"""The page: sections in their order, style inlined, written in one piece. It needs no script and loads nothing."""

from __future__ import annotations

import os
import tempfile
from importlib.resources import files
from pathlib import Path
from xml.etree.ElementTree import Element

from . import sections
from .data import ReportData
from .markup import serialise, tag
from .verdict import judge

_SECTIONS = (
    ("results", "What it learned", sections.results),
    ("curves", "How training went", sections.curves),
    ("hidden", "What was hidden", sections.hidden),
    ("colours", "What patches look like to it", sections.colours),
    ("neighbours", "Nearest neighbours", sections.neighbours),
    ("map", "Map of the embeddings", sections.flat_map),
    ("run", "What was run", sections.what_was_run),
)


def build_page(data: ReportData) -> Element:
    """The whole document as a tree."""
    head = tag(
        "head",
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        # Nothing may load or run, whatever a file name or a class name in the data says.
        tag("meta", {
            "http-equiv": "Content-Security-Policy",
            "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("title", f"{data.name} · jepakit"),
        tag("style", (files(__package__) / "style.css").read_text("utf-8")),
    )
    verdict = judge(data.metrics, data.evaluation)
    nav = tag("nav", {"aria-label": "Sections"}, [tag("a", {"href": f"#{key}"}, title) for key, title, _ in _SECTIONS])
    main = tag("main", [tag("section", {"id": key}, tag("h2", title), part(data)) for key, title, part in _SECTIONS])
    return tag("html", {"lang": "en"}, head, tag("body", sections.header(data, verdict), nav, main))


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the page to `path`, whole or not at all; returns the path. Folders on the way are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = serialise(build_page(data))
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(page)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)  # mkstemp makes files private; a report is made to be shown
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return path
