"""The report of a `study`, by `sections`, `decisions` and `figures`; `terminal` and `report` show it."""

from rl_scaling_callback.report.report import PAGE, SWEEP_PAGE, Report, check_installed, make_report, render_page, write_page
from rl_scaling_callback.report.terminal import print_report

__all__ = ["PAGE", "SWEEP_PAGE", "Report", "check_installed", "make_report", "print_report", "render_page", "write_page"]
