"""The report of a study: one self-contained HTML page, and its figures as files."""

from rsafast.study.report.page import write_report

__all__ = ["write_report"]
