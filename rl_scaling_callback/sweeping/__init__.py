"""Finds the best configuration before training.

`sweep` measures configurations in one Algorithm (`by_probes`, `probe_rounds`) or, where probes can't predict training, in one
Algorithm after another (`by_training`); `host` is the process that runs it. `race` estimates speedups from these measurements,
eliminates configurations, and finds larger ones worth measuring; `analysis.choice` chooses. `outcome` makes an experiment of the
result, on which `report` reports.
"""
