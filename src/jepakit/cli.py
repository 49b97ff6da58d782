"""The command line: the verbs of the package, with the same names and the same options."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from jepakit._version import __version__
from jepakit.errors import UserError, did_you_mean
from jepakit.registry import SYSTEMS

HELP = """jepakit — train a JEPA, see whether it learned, use it

  jepakit pretrain SYSTEM --data DATA --out RUN   pretrain without labels, evaluate, write a report
  jepakit resume RUN                              continue an interrupted run
  jepakit finetune RUN --data DATA --out TUNED    tune an encoder on labels: all of it, its last blocks, or adapters
  jepakit evaluate RUN                            probes and neighbours, beside random init, raw input and PCA
  jepakit embed RUN --data DATA --out FILE.npy    embeddings of your data
  jepakit export RUN --out FOLDER                 weights as safetensors, torch.export or ONNX
  jepakit report RUN                              write RUN/report.html again
  jepakit inspect DATA                            look at a data set before training on it
  jepakit pack DATA OUT                           images or trajectories into memory-mapped files, to train from quickly
  jepakit collect --env ENV --episodes N --out STORE   episodes of a Gymnasium environment, for world models
  jepakit act RUN --env two-rooms                 plan in an environment with a world model
  jepakit plan-run SYSTEM --gpus 64 --gpu h100    what a run will need: memory, time, what to turn on
  jepakit list [systems|datasets|evaluators|sizes]

  SYSTEM is {systems} (jepakit list systems).
  DATA is what the system reads: a folder of images, a file, or a name (jepakit list datasets).
  A first run, in about a minute:  jepakit pretrain lejepa --data digits --out runs/digits

  On several processes:  torchrun --nproc-per-node 4 -m jepakit pretrain ...

  jepakit VERB --help lists a verb's options; jepakit pretrain SYSTEM --help those of a system.
"""
VERBS = (
    "pretrain", "resume", "finetune", "evaluate", "embed", "export", "report", "inspect", "pack", "collect", "act", "plan-run",
    "list",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a mistake in what was given, 128 + n after signal n."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait for one another sleep. Spinning, which is the default, made steps up to ten times slower on two cores
    # that something else used as well; it has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be text, a terminal not know every sign
    try:
        status = _run(words)
        sys.stdout.flush()  # here and not at exit, where Python complains of a closed pipe
        return status
    except UserError as error:
        print(f"jepakit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `jepakit list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be written
        return 0
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"jepakit: {error}", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(systems=", ".join(SYSTEMS)))
        return 0
    verb, rest = words[0], words[1:]
    if verb in ("--version", "version"):
        print(f"jepakit {__version__}")
        return 0
    if verb not in VERBS:
        raise UserError(f"{verb!r} is not a verb. {did_you_mean(verb, VERBS)}")
    if verb == "list":
        return _list(rest)
    from jepakit import commands

    return commands.run(verb, rest)


def _list(rest: list[str]) -> int:
    from jepakit.verbs.listing import KINDS, list_names

    if rest in (["-h"], ["--help"]):
        print(f"usage: jepakit list [{'|'.join(KINDS)}]")
        return 0
    if len(rest) > 1:
        raise UserError(f"list takes one word, of {', '.join(KINDS)}; got {' '.join(rest)}.")
    names = list_names(*rest)
    width = max(map(len, names))
    for name, about in names.items():
        print(f"{name:<{width}}  {about}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
