"""Reports: one self-contained HTML file that says what was tested, what came out and what it means."""

from rsafast.report.html import write_report

__all__ = ["write_report"]
