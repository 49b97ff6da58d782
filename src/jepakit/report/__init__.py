"""The page a run leaves behind: `write_report(path, ReportData(...))`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from jepakit.files import read_metrics
from jepakit.report.data import ReportData
from jepakit.report.page import write_report

if TYPE_CHECKING:
    from jepakit.modalities.modality import Data

__all__ = ["ReportData", "read_metrics", "write_report"]


class _Room(ModuleType):
    """This package has the name of a verb, and importing it puts it in the verb's place: so it answers as the verb."""

    def __call__(self, run: str | Path, *, opened: Data | None = None) -> Path:
        from jepakit.verbs.report import report

        return report(run, opened=opened)


sys.modules[__name__].__class__ = _Room
