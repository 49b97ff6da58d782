"""The page a run leaves behind: `write_report(path, ReportData(...))`."""

from jepakit.report.data import ReportData, read_metrics
from jepakit.report.page import write_report

__all__ = ["ReportData", "read_metrics", "write_report"]
