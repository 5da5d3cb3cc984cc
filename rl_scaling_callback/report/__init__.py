"""Report formats: terminal, JSON and HTML page with figures."""

from rl_scaling_callback.report.json_form import to_json
from rl_scaling_callback.report.report import PAGE, Report, make_report, render_page, write_page
from rl_scaling_callback.report.terminal import print_report, print_so_far

__all__ = ["PAGE", "Report", "make_report", "print_report", "print_so_far", "render_page", "to_json", "write_page"]
