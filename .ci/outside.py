"""Somebody else's program, run and type-checked against the installed wheel: `outside.py TABLE.csv PAGE.html`."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import assert_type

import rl_scaling_callback
from rl_scaling_callback import (
    Experiment,
    Goal,
    Report,
    Scale,
    ScalingCallback,
    ScalingReporter,
    SteadyRule,
    make_report,
    read_experiment,
    sweep,
)
from rl_scaling_callback.report import write_page
from rl_scaling_callback.report.decisions import reason_text


def page_of(table: str, page: str) -> tuple[Scale, float] | None:
    """Write the page of a table, and return what it recommends."""
    experiment = assert_type(read_experiment(table, rule=SteadyRule(warmup_iterations=0)), Experiment)
    report = assert_type(make_report(experiment, Goal.of("balanced", min_efficiency=60.0)), Report)
    assert_type(write_page(report, page), Path)
    recommendation = report.studies[0].recommendation
    assert_type(reason_text(recommendation), str)
    choice = recommendation.choice
    return None if choice is None else (choice.scale, choice.speedup)


def parts() -> tuple[Callable[[], ScalingCallback], ScalingReporter]:
    """Return what goes into an algorithm's config and a `Tuner`."""
    callback = partial(ScalingCallback, baseline_sps=1378.0, reference=Scale(1, 1), steady=SteadyRule(warmup_iterations=3))
    return callback, ScalingReporter("save")


if __name__ == "__main__":
    choice = page_of(*sys.argv[1:])
    assert choice is not None
    print(assert_type(rl_scaling_callback.__version__, str), *choice)
    assert callable(sweep)
    callback, *_ = parts()
    callback()
