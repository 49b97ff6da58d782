"""Every command and every Python example in README and docs runs, in a new folder, as a reader would type it.

Trainings take a few steps, environments are played for a few episodes, and what a run is worth is measured on a few samples;
with `JEPAKIT_WHOLE_PAGES=1` only a training whose number of steps is not said is cut. A block whose first line is a comment
with a file's name alone is what a reader would save as that file, and one that begins with `AFTER` runs after the commands.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from tests.commands import run_command, run_python
from tests.modalities.photographs import make_photographs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
AFTER = "# in the folder of the commands above"
WHOLE = bool(os.environ.get("JEPAKIT_WHOLE_PAGES"))
# At most, by verb: enough for a part of the episodes to be held out, and for an agent to be taught.
MOST = {"pretrain": {"--steps": 100}, "finetune": {"--steps": 100}, "collect": {"--episodes": 60}, "act": {"--episodes": 6}}


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


def shortened(words: list[str]) -> list[str]:
    """The words of a command with less to do."""
    words = list(words)
    for option, most in {} if WHOLE else MOST.get(words[0], {}).items():
        if option in words:
            place = words.index(option) + 1
            words[place] = str(min(int(words[place]), most))
    if words[0] in ("pretrain", "finetune") and "--help" not in words:
        words += [] if "--steps" in words else ["--steps", "20" if WHOLE else "8"]
        words += ["--threads", "1"]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    make_photographs(folder / "photos", per_class=12)
    for odd in ("torn.jpg", "fake.png"):
        for found in (folder / "photos").rglob(odd):
            found.unlink()
    write_files(page, folder)
    for command in commands(page):
        _, *words = shlex.split(command, comments=True)
        done = run_command(shortened(words), folder, little=not WHOLE)
        assert done.status == 0, f"{command}\n{done.said[-2000:]}"
    for example in examples(page, after=True):
        done = run_python(example, folder)
        assert done.status == 0, f"{example}\n{done.said[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_files(page, folder)
    for example in examples(page, after=False):
        done = run_python(example, folder)
        assert done.status == 0, f"{example}\n{done.said[-2000:]}"


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
