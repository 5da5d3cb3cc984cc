"""From ten measurements in a table to a decision: no Ray, no training."""

from pathlib import Path

from rl_scaling_callback import make_report, read_experiment
from rl_scaling_callback.report import print_report, write_page

experiment = read_experiment(Path(__file__).with_name("halfcheetah_ppo_i7_12700.csv"))
report = make_report(experiment, "balanced")
print_report(report)
print(f"The same as a page: {write_page(report, 'scaling_report.html')}")
