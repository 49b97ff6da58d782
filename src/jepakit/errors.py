"""Errors that speak to the person: what was given, what was expected, how to mend it."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was given (an option, a file, a checkpoint), with its remedy in the message.

    The command line prints the message alone, without a traceback.
    """


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 80, 80


def shown(value: object) -> str:
    """A value of a user's as a message shows it: its beginning, however large or deep it is."""
    return _SHORT.repr(value)


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """Sentence that names the nearest valid word, or lists all when none is near."""
    valid, given = sorted(valid), given[:80]
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Valid: {', '.join(valid)}."


def check_choice(option: str, given: object, valid: Iterable[str]) -> None:
    """Raise `UserError` unless `given` is one of `valid`."""
    valid = list(valid)
    if given not in valid:
        raise UserError(f"{option}: {shown(given)} is not known. {did_you_mean(str(given), valid)}")


def check_range(option: str, given: float, low: float | None = None, high: float | None = None) -> None:
    """Raise `UserError` unless `low <= given <= high` (either bound may be open); no option is infinite."""
    if given != given or (low is not None and given < low) or (high is not None and given > high):
        bounds = " and ".join(
            part for part in (f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else "")
            if part
        )
        raise UserError(f"{option} must be {bounds}, got {given}.")
    if abs(given) == math.inf:
        raise UserError(f"{option} must be a finite number, got {given}.")


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """Error for an optional dependency that is not installed."""
    return UserError(f"{purpose} needs the package {package!r}. Install it with: pip install 'jepakit[{extra}]'")
