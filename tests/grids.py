"""Grids of recorded configurations: each repetition is a round of trials of PPO, one of every configuration in random order."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyWindow

FOLDER = Path(__file__).parent / "data" / "grids"
NAMES = sorted(path.stem for path in FOLDER.glob("*.csv"))


def provenance(name: str) -> str:
    """Return what was measured, where and when."""
    with (FOLDER / f"{name}.csv").open() as file:
        return file.readline().removeprefix("# ").strip()


def grid(name: str, repetitions: set[int] | None = None) -> Study:
    """Return the runs of a recorded grid, all of them or those of some repetitions."""
    windows: dict[tuple[int, Scale], SteadyWindow] = defaultdict(lambda: SteadyWindow(DEFAULT_RULE))
    with (FOLDER / f"{name}.csv").open() as file:
        file.readline()
        for row in csv.DictReader(file):
            key = int(row["repetition"]), Scale(int(row["num_env_runners"]), int(row["num_envs_per_env_runner"]))
            if repetitions is not None and key[0] not in repetitions:
                continue
            seconds = float(row["time_this_iter_s"])
            phases = {phase: float(row[f"{phase}_s"]) for phase in ("sample", "learn", "sync")}
            spent = TimeBreakdown.of(phases, seconds, float(row["busy_s"]), float(row["longest_s"]))
            windows[key].add(float(row["env_steps"]), seconds, spent.parts)
    cores = float(provenance(name).split(" cores")[0].rpartition(" ")[2])
    runs = [
        Run(name=f"{scale} {repetition}", scale=scale, steady=window.read(), cores=cores)
        for (repetition, scale), window in windows.items()
    ]
    return Study(name, tuple(runs))
