"""jepakit: Joint-Embedding Predictive Architectures in one library.

The verbs of the command line are the functions here, with the same names and options:

    import jepakit
    jepakit.pretrain("i-jepa", data="./photos", out="runs/photos")

Importing jepakit imports no torch; a verb does when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jepakit._version import __version__ as __version__

if TYPE_CHECKING:
    from jepakit.interop.load import load
    from jepakit.registry import register
    from jepakit.streaming.stream import stream
    from jepakit.verbs.act import act
    from jepakit.verbs.agent import agent
    from jepakit.verbs.collect import collect
    from jepakit.verbs.embed import embed
    from jepakit.verbs.evaluate import evaluate
    from jepakit.verbs.export import export
    from jepakit.verbs.finetune import finetune
    from jepakit.verbs.inspect import inspect
    from jepakit.verbs.listing import list_names as list
    from jepakit.verbs.pack import pack
    from jepakit.verbs.plan_run import plan_run
    from jepakit.verbs.pretrain import pretrain, resume
    from jepakit.verbs.report import report

_PLACES = {
    "act": "jepakit.verbs.act",
    "agent": "jepakit.verbs.agent",
    "pretrain": "jepakit.verbs.pretrain",
    "resume": "jepakit.verbs.pretrain",
    "finetune": "jepakit.verbs.finetune",
    "evaluate": "jepakit.verbs.evaluate",
    "embed": "jepakit.verbs.embed",
    "export": "jepakit.verbs.export",
    "report": "jepakit.verbs.report",
    "inspect": "jepakit.verbs.inspect",
    "pack": "jepakit.verbs.pack",
    "collect": "jepakit.verbs.collect",
    "plan_run": "jepakit.verbs.plan_run",
    "list": "jepakit.verbs.listing",
    "load": "jepakit.interop.load",
    "stream": "jepakit.streaming.stream",
    "register": "jepakit.registry",
}

__all__ = [
    "act", "agent", "collect", "embed", "evaluate", "export", "finetune", "inspect", "list", "load", "pack", "plan_run",
    "pretrain", "register", "report", "resume", "stream",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        # `list` keeps its name from shadowing Python's own in its module.
        return getattr(importlib.import_module(_PLACES[name]), "list_names" if name == "list" else name)
    raise AttributeError(f"module 'jepakit' has no attribute {name!r}")
