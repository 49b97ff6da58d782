"""The page: sections in their order, style inlined, written in one piece. It needs no script and loads nothing."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from xml.etree.ElementTree import Element

from jepakit.files import write_atomic
from jepakit.pages import acting, curves, episodes, frame, galleries, results, tuning, world_sections
from jepakit.pages.data import ReportData
from jepakit.pages.markup import serialise, tag
from jepakit.pages.verdict import judge

_SECTIONS = (
    ("gained", "What tuning gained", tuning.gained),
    ("results", "What it learned", results.results),
    ("acting", "How it acts", acting.acting),
    ("episodes", "Episodes", episodes.episodes),
    ("imagined", "Imagined against real", episodes.imagined),
    ("rollouts", "How far its imagination holds", world_sections.rollouts),
    ("states", "What it knows of the state", world_sections.states),
    ("surprise", "What surprises it", world_sections.surprise),
    ("curves", "How training went", curves.curves),
    ("hidden", "What it had to predict", galleries.hidden),
    ("moves", "What moves", galleries.moves),
    ("colours", "What patches look like to it", galleries.colours),
    ("neighbours", "Nearest neighbours", galleries.neighbours),
    ("map", "Map of the embeddings", galleries.flat_map),
    ("run", "What was run", frame.what_was_run),
)
_OF_PICTURES = ("hidden", "colours", "neighbours")
_OF_TUNING = ("gained",)
_OF_MOTION = ("moves",)
_OF_WORLDS = ("acting", "episodes", "imagined", "rollouts", "states", "surprise")


def build_page(data: ReportData) -> Element:
    """The whole document as a tree."""
    head = tag(
        "head",
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        # Nothing may load or run, whatever a file name or a class name in the data says.
        tag(
            "meta",
            {
                "http-equiv": "Content-Security-Policy",
                "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
            },
        ),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("title", f"{data.name} · jepakit"),
        tag("style", (files(__package__) / "style.css").read_text("utf-8")),
    )
    tuned = bool(tuning.answer_rows(data.evaluation))
    verdict = tuning.judge_tuning(data.evaluation) if tuned else judge(data.metrics, data.evaluation)
    seen = data.images is not None or data.embeddings is None  # else what was embedded is nothing to look at
    left_out = (() if seen else _OF_PICTURES) + (() if data.world_model else _OF_WORLDS) + (() if tuned else _OF_TUNING)
    left_out += _OF_MOTION if data.flows is None else ("hidden",) if data.masks is None else ()
    sections = [section for section in _SECTIONS if section[0] not in left_out]
    nav = tag("nav", {"aria-label": "Sections"}, [tag("a", {"href": f"#{key}"}, title) for key, title, _ in sections])
    main = tag("main", [tag("section", {"id": key}, tag("h2", title), part(data)) for key, title, part in sections])
    return tag("html", {"lang": "en"}, head, tag("body", frame.header(data, verdict), nav, main))


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the page to `path`, whole or not at all; returns the path. Folders on the way are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = serialise(build_page(data))
    write_atomic(path, lambda partial: partial.write_bytes(page))
    return path
