"""Commands that are killed with `kill -9` at a chosen moment: for every verb that promises to go on as if nothing happened."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

Moment = Callable[[], bool]  # asked again and again while the command runs; True: kill it now

# A server that has imported everything forks the commands, so that they start in no time.
SERVER = multiprocessing.get_context("forkserver")


def command(words: Sequence[str], log: Path) -> None:
    with open(log, "ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    from jepakit.cli import main

    sys.exit(main(words))


def start(words: Sequence[str], log: Path) -> BaseProcess:
    """The command `jepakit WORDS` in a process of its own, which writes to `log`."""
    SERVER.set_forkserver_preload(["jepakit.verbs.pretrain", "torch.distributed.checkpoint"])
    process = SERVER.Process(target=command, args=(words, log))
    process.start()
    return process


def finish(words: Sequence[str], log: Path) -> float:
    """Run a command to its end, which must be a good one; the seconds it took."""
    started = time.perf_counter()
    process = start(words, log)
    process.join()
    assert process.exitcode == 0, log.read_text()[-5000:]
    return time.perf_counter() - started


def kill(words: Sequence[str], moment: Moment, delay: float, log: Path) -> bool:
    """Start a command and kill it `delay` seconds after the moment has come; False if it had ended by itself before."""
    process = start(words, log)
    while process.is_alive() and not moment():
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), log.read_text()[-5000:]
    return process.exitcode == -9


def after(seconds: float) -> Moment:
    """So long from now."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until
