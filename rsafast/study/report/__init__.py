"""The report of a study: one self-contained HTML page, and its figures as files."""

from rsafast.study.report.page import write_report
from rsafast.study.report.tables import Study

__all__ = ["Study", "write_report"]
