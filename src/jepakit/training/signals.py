"""Ctrl-C and SIGTERM end a run after the step in hand; the workers that load its data live to see it finished."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Any

from torch.utils.data import DataLoader

from jepakit.training.distributed import torchrun_ranks

STOPPING = (signal.SIGINT, signal.SIGTERM)
GRACE = 30  # seconds a worker goes on after SIGTERM


class Signals:
    """While it is entered, the first SIGINT or SIGTERM is remembered in `received`; a second one stops at once (but not
    under torchrun)."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        try:
            self.previous = {number: signal.signal(number, self._remember) for number in STOPPING}
        except ValueError:  # not the main thread: whoever owns it handles signals
            self.previous = {}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and torchrun_ranks()[2] > 1:
            return  # torchrun passes on what a scheduler has sent already, and ends who lingers
        if self.received is not None:  # the second time it is meant
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.received = number
        self.say("Finishing this step and saving (once more to stop at once) ...")


def start_workers(loader: DataLoader) -> Iterator[Any]:
    """Iterate over a loader with `worker_init_fn=outlive_signals`.

    A terminal's Ctrl-C and a scheduler's SIGTERM reach every process of a run. The workers start with both blocked, so
    that neither ends one that is still importing.
    """
    if loader.num_workers == 0 or not hasattr(signal, "pthread_sigmask"):
        return iter(loader)
    resource_tracker.ensure_running()  # or starting it below would unblock both signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_signals(worker: int) -> None:
    """In a worker: leave Ctrl-C to the main process, and after SIGTERM go on long enough for it to finish a step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
