"""The page a run leaves behind: `write_report(path, ReportData(...))`."""

from .data import ReportData, read_metrics
from .page import write_report

__all__ = ["ReportData", "read_metrics", "write_report"]
