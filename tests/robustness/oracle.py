"""What every bad input has to meet: a right result, or a `UserError` that names the culprit and says what to do.

Anything else (another exception, a hang, gigabytes of memory, a storm of warnings) is a failure of ours.
"""

from __future__ import annotations

import re
import resource
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from jepakit.errors import UserError

T = TypeVar("T")

SECONDS = 60  # of a call that takes milliseconds: only a hang is as slow
MEMORY = 2 << 30  # address space beyond what the process has: only a bomb needs more
WARNINGS = 3
LONGEST = 4_000  # characters of a message

REMEDY = re.compile(
    r"\b(add|ask|call|check|choose|copy|cut|delete|did you mean|drop|expected|export|fill|give|install|keep|leave|lower|"
    r"make|must|name|needed|only|pad|put|quote|raise|remove|repair|replace|rescale|save|scale|say|several|sort|"
    r"start|unpack|use|valid|write)\b",
    re.IGNORECASE,
)


def check_all(cases: Sequence[Any], check: Callable[..., object]) -> None:
    """Check every case (a `pytest.param` with an id), each in an empty folder of its own, which is the last thing `check` is
    given; then fail once, with all that failed by their ids."""
    assert cases
    failed = []
    for number, case in enumerate(cases):
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(*case.values, Path(folder))
            except Exception as error:
                failed.append(f"case {number}, {case.id}: {type(error).__name__} at {_line(error)}: {str(error)[:1000]}")
    assert not failed, f"{len(failed)} of {len(cases)} cases:\n" + "\n".join(failed)


def _line(error: Exception) -> str:
    """Where in the check it was raised."""
    trace = error.__traceback__
    assert trace is not None
    trace = trace.tb_next or trace  # the first is `check_all` itself
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def outcome(call: Callable[[], T], *named: str) -> T | UserError:
    """What a call gives: its result, or its `UserError`, whose message holds one of `named` and a remedy."""
    with _bounded(), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")  # as users hear them: each once
        try:
            result: T | UserError = call()
        except UserError as error:
            check_message(str(error), *named)
            result = error
    assert len(heard) <= WARNINGS, [str(warning.message) for warning in heard]
    return result


def refusal(call: Callable[[], object], *named: str) -> UserError:
    """The `UserError` of a call that must not succeed."""
    result = outcome(call, *named)
    assert isinstance(result, UserError), f"not refused: {result!r}"
    return result


def check_message(message: str, *named: str) -> None:
    """Names the culprit, says what to do, and can be read on a screen."""
    assert any(name in message for name in named), f"names none of {named}: {message}"
    assert REMEDY.search(message), f"no remedy: {message}"
    assert len(message) < LONGEST, f"{len(message)} characters: {message[:200]}"


@contextmanager
def _bounded() -> Iterator[None]:
    """Ends a hang after `SECONDS`, and refuses memory beyond `MEMORY`, with an exception that is none of ours."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
