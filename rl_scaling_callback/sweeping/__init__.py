"""Finds the best configuration before training.

`sweep` measures configurations in one Algorithm (`by_probes`) or, where probes can't predict training, in one Algorithm after
another (`by_training`); `host` is the process that runs it. In `analysis`, `probe_rounds` runs the rounds of probes, `race`
estimates speedups from them, eliminates configurations, and finds larger ones worth measuring; `choice` chooses, and
`thread_choice` the learner's threads. `task` is what to find, and makes an experiment of the result to report on.
"""
