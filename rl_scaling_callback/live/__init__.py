"""What happens while a trial runs: measuring its iterations, and tuning it.

`instruments` time an iteration, with the `reports` of its env runners, and `machine` tells what else ran. `monitor` makes the dict
to inject. `tuner` tunes the trial.
"""
