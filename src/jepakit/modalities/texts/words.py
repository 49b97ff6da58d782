"""Splits a text into words: a word is a run of letters, digits and underscores, or any other single character but space."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text, other characters one by one."""
    return _WORD.findall(text)
