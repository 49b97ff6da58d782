"""What befalls a training from outside: a full disk, a vanished file, a dead worker. Said with what is left and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from jepakit.errors import UserError
from jepakit.training.config import TrainingConfig
from jepakit.training.run_folder import RunFolder

REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space, or have the quota raised",
    errno.EFBIG: "Raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "Make the disk writable",
    errno.EACCES: "Allow writing there",
    errno.EPERM: "Allow writing there",
}
DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited unexpectedly|is killed by signal: (\w+))")


@contextlib.contextmanager
def faults_explained(folder: RunFolder, config: TrainingConfig) -> Iterator[None]:
    """While a run is trained and evaluated: such a fault ends it with a `UserError`; other errors pass unchanged."""
    try:
        yield
    except Exception as error:  # disks fail in errors of many classes (torch's, safetensors'); what is no fault goes on
        told = None if isinstance(error, UserError) else explain(error, folder, config)
        if told is None:
            raise
        raise UserError(told) from error


def explain(error: Exception, folder: RunFolder, config: TrainingConfig) -> str | None:
    """What happened, what is kept and how to go on; None for an error that is no fault from outside."""
    if dead := next(filter(None, (DEAD_WORKER.search(str(each)) for each in chain(error))), None):
        how = f"killed by signal {dead[2]}" if dead[2] else "killed by the system, mostly for want of memory"
        remedy = f"Where memory is short, lower workers (now {config.workers}) in {folder.config}: the result stays the same"
        return f"A worker that loads data died (process {dead[1]}, {how}). {going_on(folder, remedy)}"
    fault = operating_system_error(error)
    if fault is None:
        return None
    place = Path(fault.filename) if isinstance(fault.filename, str) else folder.path
    if fault.errno == errno.ENOENT:
        ours = folder.path.absolute() in place.absolute().parents
        return f"{place} was removed while the run used it. {going_on(folder, '' if ours else 'Put it back')}"
    remedy = REMEDIES.get(fault.errno or 0, "")
    return f"{place} cannot be written or read: {fault.strerror or fault}. {going_on(folder, remedy)}"


def data_fault(error: UserError | OSError, folder: RunFolder) -> UserError:
    """The same for a sample that cannot be read, which a worker may have sent as the text of its traceback."""
    told = str(error)
    if told.startswith("Caught ") and "in DataLoader worker" in told:
        told = told.strip().rpartition("\n")[2].partition(": ")[2]
    begun = folder.config.exists()  # the first batch is read before
    return UserError(f"{told.rstrip('.')}. {going_on(folder, 'Mend the data')}" if begun else told)


def going_on(folder: RunFolder, remedy: str) -> str:
    """What is kept of a run, and how it goes on."""
    if not folder.config.exists():
        return "Nothing is left of the run: start it again."
    checkpoints = folder.list_checkpoints()
    left = f"The last good state is kept: {checkpoints[-1]}." if checkpoints else "No checkpoint had been written yet."
    step = f"{remedy}, then continue" if remedy else "Continue"
    return f"{left} {step} with: jepakit resume {shlex.quote(str(folder.path))}"


def operating_system_error(error: BaseException) -> OSError | None:
    """The operating system's error in or behind another one: torch's and safetensors' writers hide it."""
    for each in chain(error):
        if isinstance(each, OSError):
            return each
        if number := re.search(r"\(os error (\d+)\)", str(each)):  # how Rust says it
            return OSError(int(number[1]), os.strerror(int(number[1])))
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it. A dead worker is told by a signal, in the middle of whatever runs: code that catches
    errors there wraps it in its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
