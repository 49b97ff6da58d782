"""What comes from a stranger (weights, configs, data, run folders) runs no code and changes nothing outside its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.robustness.oracle import check_message

MOST = 60  # attempts; the list is `attempts()` of stranger.py, which a process of its own goes through once


pytestmark = pytest.mark.slow  # all attempts in a process of their own, watched


@pytest.fixture(scope="module")
def attempts(run: Path, tmp_path_factory) -> list[tuple[str, dict[str, Any]]]:
    script = Path(__file__).with_name("stranger.py")
    words = [sys.executable, str(script), str(run), str(tmp_path_factory.mktemp("stranger"))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env={**os.environ, "JEPAKIT_NATIVE": "0"})
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads(done.stdout.splitlines()[-1]).items())


def test_nothing_runs_and_nothing_is_changed(attempts):
    assert len(attempts) >= MOST
    assert not {name: found["events"] for name, found in attempts if found["events"]}


def test_each_is_refused_or_read(attempts):
    """What runs code when it is read as Python reads it is refused, with a message; what is harmless may be read."""
    harmless = ("a table with formulas", "a tar shard with", "an export with auto_map", "report of a run", "resume of a run")
    for name, found in attempts:
        assert found["ended"] == "refused" or (found["ended"] == "read" and name.startswith(harmless)), (name, found)
        if found["ended"] == "refused":
            check_message(found["message"], "/", "hf:")


def test_no_code_is_trusted_anywhere():
    """No call of this library asks another to run code from data."""
    import jepakit

    for path in Path(jepakit.__file__).parent.rglob("*.py"):
        text = path.read_text("utf-8")
        for word in (
            "trust_remote_code=True",
            "weights_only=False",
            "allow_pickle=True",
            "yaml.unsafe_load",
            "yaml.full_load",
            "pickle.load(",
            "os.system",
        ):
            assert word not in text, f"{path}: {word}"
