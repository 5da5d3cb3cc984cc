"""Reports as a terminal shows them, compared with the files in tests/data/reports.

To write the files anew, for review with `git diff`: `python -m tests.golden`.
"""

import io
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Console

from rl_scaling_callback.analysis.choice import Goal
from rl_scaling_callback.analysis.runs import Experiment, Iteration, LeftOut, Run, Study
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.report import make_report, print_report
from tests.builders import LATE, MADE, MONOTONE, curve, nan_row, run, users_ten

FOLDER = Path(__file__).parent / "data" / "reports"


def ten():
    """The user's ten measurements: no errors, no repeats, nothing recorded beside the times."""
    return make_report(Experiment("results", (Study("PPO on HalfCheetah-v5", users_ten()),)), made=MADE)


def repeats():
    """Repeated trials of the callback, with all that it records, and some interference."""
    runs = [_recorded(r, e, number) for r in (1, 2, 4) for e in (1, 2, 4) for number in (0, 1)]
    runs[2] = replace(runs[2], exclusive=0.0, notes=("ended with an error after 20 iterations",))
    runs[4] = replace(runs[4], others=1.5)
    runs[6] = replace(runs[6], others=0.8, notes=("1 damaged line of its results left out",) * 2)
    facts = {"algorithm": "PPO", "env": "HalfCheetah-v5", "host": "workstation"}
    study = Study("PPO on HalfCheetah-v5", tuple(runs), facts=facts, gpus=("RTX 3070",))
    return make_report(Experiment("results", (study,)), made=MADE)


def cases():
    """Studies that lack something, and choices that are tied, guessed, disturbed, or learn sooner or later."""
    one, two, four = run("1r1e", [1.9, 2.0, 2.1]), run("2r1e", [1.0, 1.1, 1.0]), run("4r1e", [0.6, 0.7, 0.6])
    no_error = Steady(sps=1000.0, error=NAN, iterations=0, env_steps=NAN, seconds=NAN, converged=False, settled=False)
    recorded = Run(name="", scale=Scale(1, 1), steady=no_error, notes=("as recorded by the trials",))
    probed = _probed("1r1e", 1000.0, 0.0)
    tied = [_probed(scale, sps, 4.2) for scale, sps in (("4r2e", 4870.0), ("8r1e", 5000.0), ("8r2e", 5050.0))]
    alone = {"sample": 0.8, "learn": 0.15, "sync": 0.03, "other": 0.02, "busy": 0.75, "longest": 0.75}
    parted = run("2r2e", [0.45, 0.45], parts=alone | {"sample": 0.25, "busy": 0.2, "longest": 0.22})
    noted = run("4r1e", [0.5, 0.4], notes=("ended with an error after 2 iterations",) * 2)
    learning = curve("1r1e", MONOTONE)
    studies = (
        Study("no 1r×1e", (two, four)),
        Study("one configuration", (one,)),
        Study("other steps, and no throughput", (one, run("4r1e", [0.6, 0.7, 0.6], env_steps=2000), nan_row())),
        Study("IMPALA", (two, four), baseline=recorded, phases_overlap=True, steps_vary=True),
        Study("nothing", ()),
        Study("another sweep may decide", (probed, _probed("1r8e", 2600.0, 7.0)), from_probes=True),
        Study("tied", (probed, *tied), from_probes=True),
        Study("guessed", (probed, _probed("1r2e", 2780.0, 1000.0)), from_probes=True),
        Study("at the same time", (run("1r1e", [2.0, 2.1], exclusive=0.0), noted)),
        Study("beside other programs", (run("1r1e", [2.0, 2.1, 2.0], others=1.5), run("8r1e", [0.75, 0.7, 0.75]))),
        Study("superlinear", (run("1r1e", [1.0]), run("4r1e", [1 / 4.3]), run("1r2e", [1 / 2.02]))),
        Study("losses estimated", (run("1r1e", [1.0, 1.0], parts=alone), parted)),
        Study("sooner", (learning, curve("4r1e", LATE, 0.1))),
        Study("later", (learning, curve("4r1e", LATE, 0.25))),
    )
    left_out = (LeftOut("PPO_1", "no iteration was reported: none is done yet, or it was stopped before"),)
    report = make_report(Experiment("results", studies, left_out), Goal.of("fastest", min_speedup=2.5), made=MADE)
    return replace(report, studies=tuple(replace(each, checklist=()) for each in report.studies))


def _recorded(r, e, number):
    machine = 1 + 0.05 * math.sin(7 * r + 5 * e + 3 * number)
    samples, times = [], []
    for iteration in range(1, 21):
        learn = 0.3 * machine
        sample = (0.2 + (0.4 + 2.0 / e) / r) * machine * (1 + 0.03 * math.sin(11 * iteration))
        times.append((sample, learn))
        returns = {"episode_return": 10.0 * iteration, "lifetime_steps": 1000.0 * iteration}
        samples.append(Iteration(iteration, 1000, sample + learn, **returns))
    sample, learn = map(fmean, zip(*times, strict=True))
    parts = {"sample": sample, "learn": learn, "sync": 0.0, "other": 0.0, "busy": 0.8 * sample, "longest": 0.9 * sample}
    figures = {"cores": 8.0, "cpu_utilisation": 85.0, "ram_utilisation": 41.0, "vram_utilisation": 30.0, "others": 0.1}
    made = run(f"{r}r{e}e", [sample + learn for sample, learn in times], parts=parts, **figures)
    return replace(made, name=f"PPO_{r}_{e}_{number}", samples=tuple(samples))


def _probed(scale, sps, error):
    window = Steady(sps=sps, error=error, iterations=8, env_steps=8000.0, seconds=8000 / sps, converged=True, settled=True)
    return Run(name=f"probes of {scale}", scale=Scale.parse(scale), steady=window)


REPORTS = {report.__name__: report for report in (ten, repeats, cases)}


def text(name):
    """Return a report as a terminal of 100 columns shows it with --verbose."""
    written = io.StringIO()
    print_report(REPORTS[name](), Console(file=written, width=100), verbose=True)
    return "".join(f"{line.rstrip()}\n" for line in written.getvalue().splitlines())


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in REPORTS:
        (FOLDER / f"{each}.txt").write_text(text(each), encoding="utf-8")
