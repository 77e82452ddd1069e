"""Reports: one self-contained HTML file with what was tested, what came out and its meaning."""

from rsafast.report.html import write_report

__all__ = ["write_report"]
