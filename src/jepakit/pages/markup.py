"""HTML and SVG as trees of the standard library's `Element`: text is escaped because it is text, not by remembering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

Content: TypeAlias = str | Element | Mapping[str, object] | Iterable[Element] | None


def tag(name: str, *content: Content) -> Element:
    """An element. In `content` a mapping is attributes (None leaves one out), a string is text, others are children."""
    node = Element(name)
    for part in content:
        if part is None:
            continue
        if isinstance(part, Mapping):
            node.attrib.update({key: str(value) for key, value in part.items() if value is not None})
        elif isinstance(part, str):
            _append_text(node, part)
        elif isinstance(part, Element):
            node.append(part)
        else:
            node.extend(part)
    return node


def _append_text(node: Element, text: str) -> None:
    if len(node):
        node[-1].tail = (node[-1].tail or "") + text
    else:
        node.text = (node.text or "") + text


def missing(what: str, command: str | None = None, remedy: str = "Add it") -> Element:
    """A plain sentence in place of a part, with the command that adds it."""
    if command is None:
        return tag("p", {"class": "missing"}, what)
    return tag("p", {"class": "missing"}, f"{what} {remedy} with ", tag("code", command), ".")


def serialise(root: Element) -> bytes:
    """The document in UTF-8. Undecodable bytes of file names (lone surrogates) become question marks."""
    return ("<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n").encode("utf-8", "replace")
