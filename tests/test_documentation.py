"""Every command and every Python example in README and docs runs, in a new folder, as a reader would type it.

Training runs are cut to a few steps unless their number is said; nothing else is changed. A block whose first line is a comment
with a file's name alone is what a reader would save as that file, and one that begins with `AFTER` runs after the commands.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.modalities.photographs import make_photographs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
AFTER = "# in the folder of the commands above"
SHORT = ["--steps", "20", "--threads", "1"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """The `jepakit ...` lines of a page's shell blocks; the lines that install are `make`'s, which CI runs."""
    joined = [block.replace("\\\n", " ") for block in blocks(page, "sh")]
    lines = [line.removeprefix(".venv/bin/") for block in joined for line in block.splitlines()]
    return [line for line in lines if line.startswith("jepakit ")]


def examples(page: Path, after: bool) -> list[str]:
    """The Python blocks of a page, those that run after its commands or all others."""
    return [block for block in blocks(page, "python") if block.startswith(AFTER) == after]


def write_files(page: Path, folder: Path) -> None:
    """The files that a page shows."""
    for text, name in re.findall(r"```\w+\n(# (\w+\.\w+)\n.*?)```", page.read_text("utf-8"), re.DOTALL):
        (folder / name).write_text(text, encoding="utf-8")


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    make_photographs(tmp_path / "photos", per_class=12)
    for odd in ("torn.jpg", "fake.png"):
        for found in (tmp_path / "photos").rglob(odd):
            found.unlink()
    write_files(page, tmp_path)
    for command in commands(page):
        words = shlex.split(command, comments=True)
        if words[1] in ("pretrain", "finetune") and "--help" not in words and "--steps" not in words:
            words += SHORT
        done = run([sys.executable, "-m", *words], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    for example in examples(page, after=True):
        done = run([sys.executable, "-c", example], tmp_path)
        assert done.returncode == 0, f"{example}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path, tmp_path: Path) -> None:
    write_files(page, tmp_path)
    for example in examples(page, after=False):
        done = run([sys.executable, "-c", example], tmp_path)
        assert done.returncode == 0, f"{example}\n{done.stderr[-2000:]}"


def test_the_commands_are_found() -> None:
    assert any("pretrain i-jepa" in command for command in commands(ROOT / "README.md"))
    assert blocks(ROOT / "README.md", "python")


def test_files_that_pages_show_are_found(tmp_path: Path) -> None:
    write_files(ROOT / "docs" / "agent.md", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.yaml", "harbour.py", "rocks.yaml"]


def test_files_that_pages_point_to_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} points to {target}"
