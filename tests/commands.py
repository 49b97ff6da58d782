"""Commands and Python code as a reader types them, each in a process of its own and in a folder.

The processes are forked from a server that has imported everything: importing takes longer than most of these commands.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.kills import SERVER

SECONDS = 600


@dataclass(frozen=True)
class Done:
    """How a process ended, and what it said on both streams."""

    status: int | None
    said: str


def run_command(words: Sequence[str], folder: Path, little: bool = False) -> Done:
    """`jepakit WORDS` in a folder; `little`: what a run is worth is measured on a few samples."""
    return _run(_command, (list(words), little), folder)


def run_python(text: str, folder: Path) -> Done:
    """A script in a folder."""
    return _run(_script, (text,), folder)


def _run(work: Callable[..., object], given: tuple[Any, ...], folder: Path) -> Done:
    SERVER.set_forkserver_preload(["jepakit.verbs.pretrain", "jepakit.verbs.evaluate", "jepakit.verbs.report"])
    said = folder.parent / f".said-{os.getpid()}"
    process = SERVER.Process(target=_begin, args=(work, given, folder, said))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return Done(process.exitcode, said.read_text("utf-8", "replace"))


def _begin(work: Callable[..., object], given: tuple[Any, ...], folder: Path, said: Path) -> None:
    with open(said, "wb") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    os.chdir(folder)
    sys.path.insert(0, "")  # as for `python -m`
    import torch

    torch.set_num_threads(1)
    work(*given)


def _command(words: list[str], little: bool) -> None:
    from jepakit.cli import main

    if little:
        _measure_little()
    sys.exit(main(words))


def _script(text: str) -> None:
    Path(".script.py").write_text(text, "utf-8")
    try:
        runpy.run_path(".script.py", run_name="__main__")
    finally:
        Path(".script.py").unlink()


def _measure_little() -> None:
    """Fewer samples are measured, and networks are fitted for fewer steps; the rest of a command is what it is for users."""
    from jepakit.evaluation import frozen_features, state_probe
    from jepakit.evaluation.evaluators import world
    from jepakit.verbs import report
    from jepakit.worlds.agent import actor, critic, network

    frozen_features.MOST_TRAIN, frozen_features.MOST_TEST, frozen_features.MOST_LARGE = 300, 150, (100, 60)
    report.MAPPED, world.FRAMES, world.MOST, state_probe.STEPS = 60, 200, 32, 10
    fitted = network.fitted
    for place in (actor, critic, world):
        place.fitted = lambda x, y, config, seed: fitted(x, y, replace(config, steps=100), seed)
