from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that is gone after the test (pytest keeps its own, thousands here)."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)
